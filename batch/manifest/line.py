"""The format of a manifest's lines: JSON with a batch number and a chained checksum; the first line and its users.

``{…,"batch":7,"more":true,"crc":"0a1b2c3d"}``: the checksum is the CRC-32 of the bytes before ``,"crc":``, started from
the checksum of the line before. ``batch`` numbers the group commit that wrote the line: 8 is written only after the
fsync of 7 returned. ``more`` says that the next line belongs to the same batch. So a reader can distinguish a torn
tail, which was never promised to be durable, from damage to durable lines.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch import jsoncodec
from batch.errors import ManifestError, ManifestMismatchError
from batch.manifest.kinds import AdoptedLine, ConnectedLine, MergedLine, StartedLine
from batch.text import escape_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from batch.manifest.kinds import RemoteEngine
    from batch.model import JsonValue

SEAL: Final = 18
"""Length of ``,"crc":"0a1b2c3d"}``."""
MAX_LINE: Final = 4 << 20
"""Longer lines are never written, so a reader need not buffer more."""
MIN_TIME: Final = -62_135_596_800
"""Seconds since the epoch of the year 1. A wrong clock may show years before 1970, and they are recorded."""
MAX_TIME: Final = 253_402_300_800
"""Seconds since the epoch of the year 10000."""
_BATCH: Final = re.compile(rb',"batch":\d+(?:,"more":true)?$')
_SEAL: Final = b',"crc":"%08x"}'
FORMAT: Final = "zclone-manifest"
VERSION: Final = 1
PROCESSES: Final = (b'{"started":', b'{"adopted_by":', b'{"merged":')
"""Prefixes of the lines from which the manifest's users follow."""
_FLAGS: Final = ("at_most_once", "tag")
_IDENTITY: Final = ("job", "run", "endpoint", "simulated")


def encode_line(fields: Iterable[tuple[str, JsonValue]]) -> bytes:
    """Return the open body of a line: a JSON object without its closing brace and without fields that are None.

    Control sequences and noncharacters are escaped. Raises ValueError for numbers that JSON cannot represent.
    """
    present = {name: value for name, value in fields if value is not None}
    try:
        return escape_json(jsoncodec.encode(present))[:-1].encode()
    except ValueError:
        raise ValueError("a manifest cannot hold NaN or infinity") from None


def seal(bodies: Sequence[bytes], crc: int, *, batch: int) -> tuple[bytes, int]:
    """Return the sealed lines of a batch after a line with checksum ``crc``, and the checksum of the last of them."""
    last, more = b',"batch":%d' % batch, b',"batch":%d,"more":true' % batch
    parts: list[bytes] = []
    for left, body in zip(range(len(bodies) - 1, -1, -1), bodies, strict=True):
        number = more if left else last
        crc = zlib.crc32(number, zlib.crc32(body, crc))
        parts += (body, number, _SEAL % crc, b"\n")
    return b"".join(parts), crc


def unseal(line: bytes, crc: int) -> tuple[bytes, int] | None:
    """Return the body of a line without its newline, and its checksum; None where it does not follow ``crc``."""
    body = line[:-SEAL]
    crc = zlib.crc32(body, crc)
    return (body, crc) if body and line[-SEAL:] == _SEAL % crc else None


def without_batch(body: bytes) -> bytes:
    """Return an unsealed body without its batch number, to be sealed in another file."""
    return _BATCH.sub(b"", body)


def decode_line(body: bytes) -> dict[str, Any]:
    """Return the fields of an unsealed body. Raises ManifestError where it is not a JSON object."""
    try:
        # Only an object ends with a brace.
        found: dict[str, Any] = jsoncodec.decode_own(body + b"}")
    except (ValueError, RecursionError):
        raise ManifestError("a line with a good checksum is not a JSON object: it was not written by zclone") from None
    return found


def require_field(found: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return the field ``name``. Raises ManifestError where it is not a ``kind``, or negative."""
    value = found.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ManifestError(f"a line has no {kind.__name__} as {name}")
    if isinstance(value, int) and value < 0:
        raise ManifestError(f"a line has a negative {name}: it was not written by zclone")
    return value


def number(found: Mapping[str, Any], name: str) -> float:
    """Return the number ``name``, a time in seconds. Raises ManifestError."""
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"a line has no number as {name}")
    if not (0 if name == "api_timeout" else MIN_TIME) <= value < MAX_TIME:
        raise ManifestError(f"a line has an impossible time as {name}: it was not written by zclone")
    return float(value)


@dataclass(frozen=True, slots=True)
class Header:
    """The identity of a manifest's run, and when and by what it was created."""

    job: str
    run: str
    endpoint: str
    simulated: bool
    tool: str = ""
    created_at: float = 0.0
    """Seconds since the epoch."""
    job_file: str = ""
    """The job file's path as given when the run began; it may have moved since."""
    at_most_once: bool = False
    """Whether the run began with --at-most-once, which holds for the whole run."""
    tag: bool = False
    """Whether each clone of the run gets a user tag of its job, run and key."""

    def body(self) -> bytes:
        """Return the header as the open body of a line."""
        values: list[tuple[str, JsonValue]] = [("format", FORMAT), ("version", VERSION)]
        values += [(name, getattr(self, name)) for name in self.__slots__ if name not in _FLAGS]
        values += [(name, getattr(self, name) or None) for name in _FLAGS]
        return encode_line(values)


def parse_header(body: bytes) -> Header:
    """Return the header. Raises ManifestError for another format or a newer version; unknown fields are ignored."""
    found = decode_line(body)
    if found.get("format") != FORMAT:
        raise ManifestError("the file is not a zclone manifest")
    version = found.get("version")
    if version != VERSION:
        raise ManifestError(f"the manifest has version {version}, this zclone reads version {VERSION}: use a newer one")
    created_at = found.get("created_at", 0.0)
    return Header(
        job=_text(found, "job"),
        run=_text(found, "run"),
        endpoint=_text(found, "endpoint"),
        simulated=found.get("simulated") is True,
        tool=_text(found, "tool"),
        created_at=_time(created_at),
        job_file=_text(found, "job_file"),
        at_most_once=found.get("at_most_once") is True,
        tag=found.get("tag") is True,
    )


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_TIME <= value < MAX_TIME:
        raise ManifestError("the manifest's header has no usable time as created_at")
    return float(value)


def _text(found: dict[str, Any], name: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise ManifestError(f"the manifest's header has no text as {name}")
    return value


def own_user() -> str:
    """Return the name of this process's user; the number where it has none, as in a container."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def this_process(
    at: float, tool: str, warnings: tuple[str, ...], *, at_most_once: bool, remote: RemoteEngine | None = None
) -> StartedLine:
    """Return the start line of this process; ``at``: seconds since the epoch."""
    return StartedLine(at, os.getpid(), socket.gethostname(), tool, warnings, own_user(), at_most_once, remote)


@dataclass(slots=True)
class Users:
    """The users who began a manifest or the shards merged into it, and who adopted it since; folded from its lines."""

    beginners: tuple[str, ...] = ()
    """Those who began it, each once; without those that an older zclone did not record."""
    host: str = ""
    """Where the first of them began it; empty where nothing was written yet."""
    adopted_by: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    """Uuids of the accounts under which processes connected to clone."""
    _is_begun: bool = False

    def add(self, line: object) -> None:
        """Add a line."""
        if isinstance(line, StartedLine) and not self._is_begun:
            self._is_begun, self.host = True, self.host or line.host
            self.beginners += (line.user,) if line.user not in {"", *self.beginners} else ()
        elif isinstance(line, MergedLine):
            # The lines of a shard follow, up to the next one of these.
            self._is_begun = False
        elif isinstance(line, AdoptedLine):
            self.adopted_by |= {line.user}
        elif isinstance(line, ConnectedLine) and line.account:
            self.accounts |= {line.account}

    @property
    def begun_by(self) -> str:
        """The names of those who began it; empty where none is recorded."""
        return " and ".join(self.beginners)

    def is_foreign(self, user: str) -> bool:
        """Return whether another user than ``user`` began the manifest or a shard, and ``user`` did not adopt it."""
        return self.beginners not in {(), (user,)} and user not in self.adopted_by


def require_same(found: Header, wanted: Header) -> None:
    """Raise ManifestMismatchError naming the first field in which the run of ``found`` is not that of ``wanted``."""
    for name in _IDENTITY:
        theirs, ours = getattr(found, name), getattr(wanted, name)
        if theirs == ours:
            continue
        if name == "simulated":
            kind = ("a real endpoint", "a rehearsal")
            raise ManifestMismatchError(
                f"simulated: this manifest is of {kind[theirs]}, this command is for {kind[ours]}; "
                "choose another file with --manifest"
            )
        raise ManifestMismatchError(
            f"{name}: this manifest is of {theirs!r}, this command is for {ours!r}; choose another file with --manifest"
        )
