"""Restore of the node's database from the events of an earlier process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator.api_errors import ApiFailureError, error_of_event
from batch.simulator.jobs import JobResult, JobRow, JobStore
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.simulator.state import StateError
from batch.simulator.tampering import read_tampering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch.simulator.api import NodeContext
    from batch.simulator.wire import Json


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


def _call(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.ledger.call(event["k"], event["t"], event["s"])
    if event["f"] is not None:
        context.ledger.faults[event["f"]] += 1


def _row(_context: NodeContext, jobs: JobStore, event: Json, _now: float) -> None:
    jobs.rows.setdefault(event["j"], JobRow(event["t"]))


def _done(context: NodeContext, jobs: JobStore, event: Json, _now: float) -> None:
    row = jobs.rows.get(event["j"])
    if row is None:
        return
    if "u" in event:
        row.result = JobResult(context.resources.rows[event["u"]], event["a"])
    elif "x" in event:
        row.result = JobResult(error_of_event(event["x"]), event["a"])
    else:
        row.result = JobResult(event["b"].encode(), event["a"])


def _vanish(_context: NodeContext, jobs: JobStore, event: Json, _now: float) -> None:
    jobs.vanish(event["j"])


def _clone(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    resources = context.resources
    origin = resources.rows.get(event["s"])
    if origin is None:
        resources.touched.add(event["s"])
    row = Resource(
        uuid=event["u"],
        kind=MODEL_SERVICE,
        owner=event["o"],
        name=event["n"],
        made_at=event["t"],
        params=event["p"],
        source=event["s"],
        origin=origin,
        digest=event["d"],
        job=event["j"],
        tags=tuple(event["g"]),
    )
    resources.insert(row)
    context.ledger.clone(row)


def _other(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = Resource(
        uuid=event["u"],
        kind=event["k"],
        owner=event["o"],
        name=event["n"],
        made_at=event["t"],
        params=event["p"],
        tags=tuple(event["g"]),
        is_added=event["a"],
    )
    context.resources.insert(row)


def _set(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = context.resources.change(event["u"])
    if row is not None:
        row.set_fields(event["p"], event["t"])


def _tamper(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    read_tampering(event["o"], context.directory.accounts).apply(context.resources, event["t"])


def _tags(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = context.resources.change(event["u"])
    if row is not None:
        row.tags = tuple(event["g"])


def _patterns(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = context.resources.change(event["u"])
    if row is not None:
        row.patterns = tuple(event["g"])


def _revoke(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.resources.revoke(event["u"], event["a"], everybody=event["p"])


def _delete(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.resources.find_source(event["u"])
    context.resources.delete(event["u"])
    context.ledger.counts["deleted"] += 1


def _sources(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    for uuid in event["u"]:
        context.resources.find_source(uuid)


def _session(context: NodeContext, _jobs: JobStore, event: Json, now: float) -> None:
    # Session extensions are not recorded, so a session that was open gets a whole new timeout.
    context.directory.open(event["u"], context.directory.accounts[event["a"]], now)
    context.ledger.counts["logins"] += 1


def _logout(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.directory.close(event["u"])


def _expire(context: NodeContext, _jobs: JobStore, _event: Json, _now: float) -> None:
    context.directory.expire_all()


def _owner(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    row = context.resources.change(event["u"])
    if row is not None:
        row.owner = event["a"]
        context.ledger.owners[row.uuid] += 1


def _share(context: NodeContext, _jobs: JobStore, event: Json, _now: float) -> None:
    context.resources.share(event["u"], event["a"], to_public=event["p"])


_APPLY: Final[dict[str, Callable[[NodeContext, JobStore, Json, float], None]]] = {
    "call": _call,
    "row": _row,
    "done": _done,
    "vanish": _vanish,
    "clone": _clone,
    "other": _other,
    "set": _set,
    "tamper": _tamper,
    "tags": _tags,
    "patterns": _patterns,
    "revoke": _revoke,
    "delete": _delete,
    "sources": _sources,
    "session": _session,
    "logout": _logout,
    "expire": _expire,
    "owner": _owner,
    "share": _share,
}
