"""Compact hash table from 64-bit hashes to small integers: 9 to 16 bytes an entry at a million, twice at half load.

Duplicate keys and settled clones are looked up here instead of in a dict, which would cost 100 bytes and more an entry.
Two keys may share a hash (probability 3e-8 among a million): a caller that must be exact compares the keys.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ValueBytes = Literal[1, 2, 4, 8]
_TYPECODES: Final[dict[ValueBytes, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_EMPTY: Final = 0
_FIRST_SIZE: Final = 1 << 10
_MAX_LOAD: Final = 0.6


def digest_prefix(digest: str) -> int:
    """Return the prefix of a Clone's digest that is kept of a settled one; 0 stands for a digest not recorded."""
    return int(digest[:12], 16)


class KeyTable:
    """Open addressing with linear probing; entries are added and overwritten, never removed.

    Hashes are signed, as ``hash`` returns them, and must be evenly distributed, as those of texts and bytes are. Hash 0
    marks an empty slot, so 0 and 1 are the same key.
    """

    __slots__ = ("_code", "_count", "_hashes", "_limit", "_mask", "_values")

    def __init__(self, value_bytes: ValueBytes = 8) -> None:
        """Create an empty table; a value wider than ``value_bytes`` raises OverflowError in ``put``."""
        self._code = _TYPECODES[value_bytes]
        self._count = 0
        self._allocate(_FIRST_SIZE)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over (hash, value) in no particular order; the table must not change meanwhile."""
        return ((key, self._values[slot]) for slot, key in enumerate(self._hashes) if key != _EMPTY)

    def get(self, key: int) -> int | None:
        """Return the value stored under this hash, None where there is none."""
        key = key or 1
        hashes, mask = self._hashes, self._mask
        slot = key & mask
        while (stored := hashes[slot]) != key:
            if stored == _EMPTY:
                return None
            slot = (slot + 1) & mask
        return self._values[slot]

    def put(self, key: int, value: int) -> bool:
        """Store ``value`` under the hash ``key``, replacing the old one; return True when the key is new."""
        key = key or 1
        slot = self._slot(key)
        self._values[slot] = value
        if self._hashes[slot] == key:
            return False
        self._hashes[slot] = key
        self._count += 1
        if self._count > self._limit:
            self._grow()
        return True

    def add(self, keys: Iterable[int], value: int) -> None:
        """Store ``value`` under every key that is new; existing entries are kept."""
        hashes, values, mask = self._hashes, self._values, self._mask
        for given in keys:
            key = given or 1
            slot = key & mask
            while (stored := hashes[slot]) != _EMPTY and stored != key:
                slot = (slot + 1) & mask
            if stored == key:
                continue
            hashes[slot] = key
            values[slot] = value
            self._count += 1
            if self._count > self._limit:
                self._grow()
                hashes, values, mask = self._hashes, self._values, self._mask

    def reserve(self, entries: int) -> None:
        """Allocate for this many entries at once: growing step by step keeps the old table beside the new one."""
        size = len(self._hashes)
        while int(size * _MAX_LOAD) < entries:
            size *= 2
        if size > len(self._hashes):
            self._resize(size)

    def _slot(self, key: int) -> int:
        hashes, mask = self._hashes, self._mask
        slot = key & mask
        while (stored := hashes[slot]) != _EMPTY and stored != key:
            slot = (slot + 1) & mask
        return slot

    def _allocate(self, size: int) -> None:
        self._mask = size - 1
        self._limit = int(size * _MAX_LOAD)
        self._hashes = array("q", bytes(8 * size))
        self._values = array(self._code, bytes(array(self._code).itemsize * size))

    def _grow(self) -> None:
        self._resize(2 * len(self._hashes))

    def _resize(self, size: int) -> None:
        before, stored = self._hashes, self._values
        self._allocate(size)
        hashes, values, mask = self._hashes, self._values, self._mask
        for key, value in zip(before, stored, strict=True):
            if key == _EMPTY:
                continue
            slot = key & mask
            while hashes[slot] != _EMPTY:
                slot = (slot + 1) & mask
            hashes[slot] = key
            values[slot] = value
