"""Iterates over a manifest's lines, checks each against the one before, and distinguishes a torn tail from damage.

Damage that no line of a later batch follows is a torn tail: that batch's fsync never returned, so none of it was
promised to be durable. Damage before such a line is damage to durable records, and only ``zclone repair`` can
continue from there. A torn tail that ends like a complete batch may have been durable nevertheless: see ``lost_batch``.
"""

from __future__ import annotations

import contextlib
import re
import sys
import zlib
from dataclasses import dataclass
from operator import length_hint
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest.line import MAX_LINE, SEAL, decode_line, unseal
from batch.text import shell_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK: Final = 1 << 18
_MORE: Final = b'"more":true'
"""In every line of a batch but the last one."""
_END: Final = re.compile(rb',"crc":"([0-9a-f]{8})"\}|\n')
_NUMBER: Final = re.compile(rb'"batch":\d+')
_CANDIDATES: Final = 4


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of bytes up to a seal or the end of a line."""

    body: bytes
    """Without its seal where it is intact."""
    is_intact: bool
    """Whether its checksum follows from the line before it."""
    has_end: bool = True
    """Whether it ends with a seal or the end of a line."""


class DamagedError(ManifestError):
    """Durable lines of the manifest differ from what was written."""


class Scan:
    """One pass over a manifest from its start: iterate to get the unsealed body of every line, or use ``chunks``.

    ``read(offset, size)`` returns bytes, none at the end. Raises DamagedError at damage in the middle.
    """

    def __init__(self, read: Callable[[int, int], bytes]) -> None:
        """Start at the beginning; nothing is read yet."""
        self._read = read
        self.line = 0
        """Number of verified lines so far."""
        self.offset = 0
        """Number of bytes of the verified lines; whatever follows them in the file is the torn tail."""
        self.crc = 0
        """Checksum of the last verified line."""
        self.last = b""
        """Body of the last verified line, which contains its batch number."""

    def __iter__(self) -> Iterator[bytes]:
        for bodies in self.chunks():
            self.line -= len(bodies)
            self.offset -= sum(map(len, bodies)) + len(bodies) * (SEAL + 1)
            for body in bodies:
                self.line += 1
                self.offset += len(body) + SEAL + 1
                self.last = body
                yield body

    def feed(self, take: Callable[[Iterator[bytes]], None]) -> None:
        """Call ``take`` with the rest of the bodies, many at a time; ``line`` is correct also where it raises."""
        for bodies in self.chunks():
            left = iter(bodies)
            try:
                take(left)
            finally:
                self.line -= length_hint(left)

    def chunks(self) -> Iterator[list[bytes]]:
        """Yield the bodies in lists; ``line`` and ``offset`` are then those of the last one in the list."""
        tail = b""
        while chunk := self._read(self.offset + len(tail), _CHUNK):
            *lines, tail = (tail + chunk).split(b"\n")
            bodies = self._follow(lines)
            if bodies:
                yield bodies
            if len(bodies) < len(lines) or len(tail) > MAX_LINE:
                self._require_torn(sys.maxsize)
                return
        # A writer may have continued since the last read: what it appended is no damage.
        self._require_torn(self.offset + len(tail))

    def _follow(self, lines: list[bytes]) -> list[bytes]:
        """Return the bodies up to the first line that cannot be verified."""
        crc = self.crc
        bodies: list[bytes] = []
        for line in lines:
            body = line[:-SEAL]
            crc = zlib.crc32(body, crc)
            if line[-SEAL:] != b',"crc":"%08x"}' % crc or not body:
                break
            self.crc = crc
            bodies.append(body)
        if bodies:
            self.line += len(bodies)
            self.offset += sum(map(len, bodies)) + len(bodies) * (SEAL + 1)
            self.last = bodies[-1]
        return bodies

    @property
    def batch(self) -> int:
        """Number of the batch that the next line belongs to, if the writer wrote it next."""
        if not self.last:
            return 0
        found = decode_line(self.last)
        number = found.get("batch")
        if not isinstance(number, int):
            raise ManifestError("has no batch number")
        return number if found.get("more") is True else number + 1

    def segments(self, until: int = sys.maxsize) -> Iterator[Segment]:
        """Yield the segments from the last verified line to ``until``, split at seals, as a newline may be lost."""
        offset, rest = self.offset, b""
        before: tuple[int, ...] = (self.crc,)
        while chunk := self._read(offset, min(_CHUNK, until - offset)):
            offset += len(chunk)
            rest += chunk
            start = 0
            for end in _END.finditer(rest):
                piece = rest[start : end.end()].strip(b"\n")
                if piece:
                    segment, before = _segment(piece, end[1], before)
                    yield segment
                start = end.end()
            rest = rest[max(start, len(rest) - MAX_LINE) :]
        if rest:
            yield Segment(rest, is_intact=False, has_end=False)

    def from_start(self) -> Scan:
        """Return a new pass over the same bytes."""
        return Scan(self._read)

    def may_be_durable(self) -> bool:
        """Return whether the bytes after the last verified line end with a whole line, or go on after a whole batch."""
        is_whole = ends_batch = False
        for number, segment in enumerate(self.segments()):
            if ends_batch:
                # A batch is written only once the one before it is durable.
                return True
            # A write may be cut before the newline of its last line; where that is damaged, one byte is left after it.
            is_whole = not (segment.is_intact and not number) if segment.has_end else len(segment.body) <= 1
            ends_batch = segment.has_end and _MORE not in segment.body
        return is_whole

    def _require_torn(self, until: int) -> None:
        expected = self.batch
        for segment in self.segments(until):
            body = segment.body
            batch = decode_line(body).get("batch") if segment.is_intact else self._stated_batch(body, expected)
            if not isinstance(batch, int) or batch > expected:
                raise DamagedError("damaged, and durable records follow; nothing was sent")

    def _stated_batch(self, piece: bytes, expected: int) -> object:
        """Return the batch number of a line whose checksum does not fit: the line before it may be gone.

        ``expected`` where only the number itself is damaged, or where there is none.
        """
        named = _NUMBER.sub(b'"batch":%d' % expected, piece)
        if unseal(named, self.crc) is not None:
            return expected
        with contextlib.suppress(ManifestError):
            return decode_line(piece[:-SEAL]).get("batch", expected)
        return expected


def _segment(piece: bytes, stated: bytes | None, before: tuple[int, ...]) -> tuple[Segment, tuple[int, ...]]:
    """Verify ``piece`` with the checksums that may come ``before`` it; return also those that the next may follow.

    These are the one in its seal, for damage in the body, and the computed ones, for damage in the seal.
    """
    for crc in before:
        good = unseal(piece, crc) or unseal(piece[1:], crc)
        if good is not None:
            return Segment(good[0], is_intact=True), (good[1],)
    after = [zlib.crc32(piece[:-SEAL], crc) for crc in before]
    if stated is not None:
        after.insert(0, int(stated, 16))
    return Segment(piece, is_intact=False), tuple(after[:_CANDIDATES])


@contextlib.contextmanager
def errors_at(path: Path, scan: Scan) -> Iterator[None]:
    """Prefix the messages of errors raised in the block with the path and the line that was read last."""
    try:
        yield
    except DamagedError as error:
        error.args = (f"{path}: line {scan.line + 1}: {error}; run `zclone repair {shell_path(path)}`",)
        raise
    except ManifestError as error:
        error.args = (f"{path}: line {scan.line}: {error}" if scan.line else f"{path}: {error}",)
        raise
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None
