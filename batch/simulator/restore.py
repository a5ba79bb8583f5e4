"""Taking up an earlier life of the node from the events it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.simulator.codes import ApiFailureError
from batch.simulator.jobs import JobStore, Outcome, Row
from batch.simulator.resources import MODEL_SERVICE, Resource
from batch.simulator.state import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batch.simulator.api import World
    from batch.simulator.wire import Json


def restore(world: World, jobs: JobStore, events: Iterable[Json], now: float) -> int:
    """Apply ``events`` in order; how many there were. What was under way stays processing for ever.

    Raises StateError for events no node wrote, or one with other accounts or sources.
    """
    count = 0
    for event in events:
        count += 1
        try:
            _APPLY[event["e"]](world, jobs, event, now)
        except (KeyError, TypeError, AttributeError, ApiFailureError) as error:
            raise StateError(
                f"event {count} of the node's state does not fit the others or its options: {error!r}"
            ) from None
    return count


def _call(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    world.ledger.call(event["k"], event["t"], event["s"])
    if event["f"] is not None:
        world.ledger.faults[event["f"]] += 1


def _row(_world: World, jobs: JobStore, event: Json, _now: float) -> None:
    jobs.rows.setdefault(event["j"], Row(event["t"]))


def _done(world: World, jobs: JobStore, event: Json, _now: float) -> None:
    row = jobs.rows.get(event["j"])
    if row is None:
        return
    if "u" in event:
        row.outcome = Outcome(ok=True, content=world.estate.rows[event["u"]])
    else:
        row.outcome = Outcome(ok=event["k"], content=event["b"].encode())


def _vanish(_world: World, jobs: JobStore, event: Json, _now: float) -> None:
    jobs.vanish(event["j"])


def _clone(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    estate = world.estate
    origin = estate.rows.get(event["s"])
    if origin is None:
        estate.touched.add(event["s"])
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
    estate.insert(row)
    world.ledger.clone(row)


def _delete(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    world.estate.find_source(event["u"])
    world.estate.delete(event["u"])
    world.ledger.counts["deleted"] += 1


def _sources(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    for uuid in event["u"]:
        world.estate.find_source(uuid)


def _session(world: World, _jobs: JobStore, event: Json, now: float) -> None:
    # Sliding is not written down: a session that was open lives a whole timeout longer.
    world.directory.open(event["u"], world.directory.accounts[event["a"]], now)
    world.ledger.counts["logins"] += 1


def _logout(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    world.directory.close(event["u"])


def _expire(world: World, _jobs: JobStore, _event: Json, _now: float) -> None:
    world.directory.expire_all()


def _owner(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    row = world.estate.change(event["u"])
    if row is not None:
        row.owner = event["a"]
        world.ledger.owners[row.uuid] += 1


def _share(world: World, _jobs: JobStore, event: Json, _now: float) -> None:
    world.estate.share(event["u"], event["a"], to_public=event["p"])


_APPLY: Final[dict[str, Callable[[World, JobStore, Json, float], None]]] = {
    "call": _call,
    "row": _row,
    "done": _done,
    "vanish": _vanish,
    "clone": _clone,
    "delete": _delete,
    "sources": _sources,
    "session": _session,
    "logout": _logout,
    "expire": _expire,
    "owner": _owner,
    "share": _share,
}
