"""The first line of a manifest, and the lines that name its users."""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.errors import ManifestError, ManifestMismatchError
from batch.manifest.kinds import AdoptedLine, ConnectedLine, MergedLine, StartedLine
from batch.manifest.line import MAX_TIME, MIN_TIME, decode, encode

if TYPE_CHECKING:
    from batch.manifest.kinds import RemoteEngine
    from batch.model import JsonValue

FORMAT: Final = "zclone-manifest"
VERSION: Final = 1
PROCESSES: Final = (b'{"started":', b'{"adopted_by":', b'{"merged":')
"""Prefixes of the lines from which the manifest's users follow."""
_FLAGS: Final = ("at_most_once", "tag")
_IDENTITY: Final = ("job", "run", "endpoint", "simulated")


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
        return encode(values)


def parse_header(body: bytes) -> Header:
    """Return the header. Raises ManifestError for another format or a newer version; unknown fields are ignored."""
    found = decode(body)
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
