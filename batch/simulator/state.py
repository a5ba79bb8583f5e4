"""The node's persistent database: a file of events, one JSON line each, and its restoration from them."""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.simulator.api_errors import ApiFailureError, error_of_event
from batch.simulator.control import read_database_changes
from batch.simulator.jobs import JobResult
from batch.simulator.resources import MODEL_SERVICE, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from batch.simulator.api import NodeContext
    from batch.simulator.api_errors import ErrorCode
    from batch.simulator.jobs import JobStore
    from batch.simulator.wire import Json

_START: Final = b'{"e":"'
"""Prefix of every event."""


class StateError(Exception):
    """The state file is held by another node or damaged."""


class StateFile:
    """The state file, locked by its node; appended events survive a crash of the process, but not of the machine."""

    def __init__(self, path: Path, fd: int) -> None:
        """Use ``open``."""
        self._path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path, *, wait: float = 10.0) -> StateFile:
        """Lock and repair the file; wait up to ``wait`` seconds for a node that is shutting down.

        Raises StateError, OSError, and UsageError for a file with unsafe owner or mode.
        """
        fd = outputs.open_or_create(path)
        try:
            _lock(fd, path, wait)
            _require_events(fd, path)
            _cut_torn_tail(fd)
        except BaseException:
            os.close(fd)
            raise
        return cls(path, fd)

    def append(self, events: list[Json]) -> None:
        """Write all events. Raises OSError."""
        data = b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in events)
        while data:
            data = data[os.write(self._fd, data) :]

    def events(self) -> Iterator[Json]:
        """Read every event so far, in order. Raises StateError naming the damaged line."""
        return read_events(self._path)

    def close(self) -> None:
        """Release the file."""
        os.close(self._fd)


def read_events(path: Path) -> Iterator[Json]:
    """Read the whole events of a state file, also while a node is writing it. Raises StateError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _event(line, path, number)


def _event(line: bytes, path: Path, number: int) -> Json:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "e" not in event:
        raise StateError(f"{path}:{number}: not an event of a node; move the file away to start with a new one")
    return event


def _lock(fd: int, path: Path, wait: float) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise StateError(f"{path}: another node holds this file") from None
            time.sleep(0.05)
        else:
            return


def _require_events(fd: int, path: Path) -> None:
    """Raise StateError for a file of another kind, before its end is taken for an event that was cut short."""
    start = os.pread(fd, len(_START), 0)
    if not _START.startswith(start):
        raise StateError(f"{path}: is not the state of a node; name another file")


def _cut_torn_tail(fd: int) -> None:
    """Drop an incomplete last line, on which no answer was based."""
    size = os.fstat(fd).st_size
    end = size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)


def restore(context: NodeContext, jobs: JobStore, events: Iterable[Json], now: float) -> int:
    """Apply ``events`` in order and return their number; running jobs stay processing forever.

    Raises StateError for invalid events, or those of a node with other accounts or sources.
    """
    count = 0
    for event in events:
        count += 1
        try:
            _APPLY[event["e"]](context, jobs, event, now)
        except (KeyError, TypeError, ValueError, AttributeError, ApiFailureError) as error:
            raise StateError(
                f"event {count} of the node's state does not fit the others or its options: {error!r}"
            ) from None
    return count


def _apply_to_jobs(context: NodeContext, jobs: JobStore, event: Json, _now: float) -> None:
    uuid = event["j"]
    row = jobs.rows.get(uuid)
    if event["e"] == "row":
        jobs.insert(uuid, event["t"])
    elif event["e"] == "vanish":
        jobs.vanish(uuid)
    elif row is not None:
        row.result = JobResult(_result_of(context, event), event["a"])


def _result_of(context: NodeContext, event: Json) -> bytes | Resource | ErrorCode:
    if "u" in event:
        return context.resources.rows[event["u"]]
    return error_of_event(event["x"]) if "x" in event else event["b"].encode()


def _create(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = Resource(event["u"], event.get("k", MODEL_SERVICE), event["o"], event["n"], event["t"], event["p"])
    row.tags = tuple(event["g"])
    if event["e"] == "clone":
        row.source, row.digest, row.job = event["s"], event["d"], event["j"]
        row.origin = context.resources.rows.get(row.source)
        if row.origin is None:
            context.resources.used_sources.add(row.source)
        context.ledger.clone(row)
    else:
        row.is_added = event["a"]
    context.resources.insert(row)


def _change(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = context.resources.change(event["u"])
    if row is None:
        return
    match event["e"]:
        case "set":
            row.set_fields(event["p"], event["t"])
        case "tags":
            row.tags = tuple(event["g"])
        case "patterns":
            row.patterns = tuple(event["g"])
        case "owner":
            row.owner = event["a"]
            context.ledger.owners[row.uuid] += 1
        case "share":
            context.resources.share(row.uuid, event["a"], to_public=event["p"])
        case "revoke":
            context.resources.revoke(row.uuid, event["a"], everybody=event["p"])


def _delete(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.resources.find_source(event["u"])
    context.resources.delete(event["u"])
    context.ledger.counts["deleted"] += 1


def _apply_other(context: NodeContext, _jobs: JobStore, event: Json, now: float) -> None:
    match event["e"]:
        case "call":
            context.ledger.call(event["k"], event["t"], event["s"])
            if event["f"] is not None:
                context.ledger.faults[event["f"]] += 1
        case "tamper":
            read_database_changes(event["o"], context.directory.accounts).apply(context.resources, event["t"])
        case "sources":
            for uuid in event["u"]:
                context.resources.find_source(uuid)
        case "session":
            # Session extensions are not recorded, so a session that was open gets a whole new timeout.
            context.directory.open(event["u"], context.directory.accounts[event["a"]], now)
            context.ledger.counts["logins"] += 1
        case "logout":
            context.directory.close(event["u"])
        case "expire":
            context.directory.expire_all()


_APPLY: Final[dict[str, Callable[[NodeContext, JobStore, Json, float], None]]] = {
    **dict.fromkeys(("row", "done", "vanish"), _apply_to_jobs),
    **dict.fromkeys(("clone", "other"), _create),
    **dict.fromkeys(("set", "tags", "patterns", "owner", "share", "revoke"), _change),
    "delete": _delete,
    **dict.fromkeys(("call", "tamper", "sources", "session", "logout", "expire"), _apply_other),
}
