"""From a job to its final plan: a first walk says what the server must be asked, then everything is pinned."""

from __future__ import annotations

from asyncio import to_thread
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from batch.cli.preparation import warn
from batch.model import Pins
from batch.plan import Wanted, asked_conditions, assumed, assumed_found, expand, inputs_digest, run_id
from batch.plan.rearchitect import IMAGES_FIELD
from batch.zstack.params import BODY_PARAMS, IMAGE_FIELDS
from batch.zstack.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batch.cli.server import Server
    from batch.jobfile import Job
    from batch.model import JsonValue, Plan

_PLAIN_FIELDS: Final = BODY_PARAMS.keys() - {"architectureImages", "resourceUuid", "tagUuids"}
"""Parameters that are columns of the source's inventory too, so that only they need be fetched."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan in which what the server has yet to tell is made up; final where ``wanted`` is nothing."""

    job: Job
    run: str | None
    started_at: float
    pins: Pins
    plan: Plan
    wanted: Wanted


def draft(job: Job, *, run: str | None, started_at: float, pins: Pins) -> Draft:
    """Check everything that can be checked without the server. Raises JobFileError."""
    wanted = Wanted(pins)
    # Before the walk: of files edited meanwhile the digest must not be the one of a plan they were not in.
    inputs = inputs_digest(job, run=run, started_at=started_at, pins=pins)
    plan = expand(replace(job, found=wanted.found), run=run, started_at=started_at, sources=wanted)
    return Draft(job, run, started_at, pins, replace(plan, inputs=inputs), wanted)


async def finished(first: Draft, server: Server) -> tuple[Plan, Pins]:
    """Ask the server for what is missing and return the final plan with the pins that are new.

    Raises JobFileError for sources that do not exist and what else only the server's answers show.
    """
    more = await learnt(first, server)
    return await to_thread(final, first, more), more


def final(first: Draft, more: Pins) -> Plan:
    """Return the plan under the pins of ``first`` and ``more``. Raises JobFileError."""
    if not first.wanted.is_anything:
        return first.plan
    return expand(first.job, run=first.run, started_at=first.started_at, pins=joined(first.pins, more))


async def learnt(first: Draft, server: Server) -> Pins:
    """Ask the server for what the plan uses and no pin has; sources that do not exist are left out."""
    if not first.wanted.is_anything:
        return Pins()
    surroundings = Surroundings(await server.client())
    queries = {}
    for conditions in first.wanted.queries:
        queries[conditions] = await _found(first, conditions, surroundings, is_rehearsal=server.is_rehearsal)
    pins = joined(first.pins, Pins({}, queries))
    second = (
        await to_thread(draft, first.job, run=first.run, started_at=first.started_at, pins=pins) if queries else first
    )
    sources = await _inventories(second.wanted, surroundings, is_rehearsal=server.is_rehearsal)
    return Pins(sources, queries)


def joined(pins: Pins, more: Pins) -> Pins:
    """Put ``more`` over ``pins``."""
    return Pins({**pins.sources, **more.sources}, {**pins.queries, **more.queries})


async def _found(
    first: Draft, conditions: tuple[str, ...], surroundings: Surroundings, *, is_rehearsal: bool
) -> tuple[str, ...]:
    run = run_id(first.job, run=first.run, started_at=first.started_at)
    asked = asked_conditions(first.job, conditions, run=run, started_at=first.started_at)
    found = tuple([service.uuid async for service in surroundings.query(asked, fields=("uuid",))])
    if is_rehearsal and not found:
        warn([f"rehearsal: the embedded node has nothing for {list(conditions)}: one service is made up"])
        return assumed_found(conditions)
    return found


async def _inventories(
    wanted: Wanted, surroundings: Surroundings, *, is_rehearsal: bool
) -> dict[str, Mapping[str, JsonValue]]:
    """Return the used fields of every wanted source that exists; a rehearsal's are made up where they do not."""
    fields = sorted(wanted.fields)
    asked = fields if wanted.fields <= _PLAIN_FIELDS else ()
    found: dict[str, Mapping[str, JsonValue]] = {}
    async for service in surroundings.services(wanted.uuids, fields=asked):
        found[service.uuid] = used_fields(service.fields, fields)
    if is_rehearsal:
        for uuid in wanted.uuids.keys() - found.keys():
            found[uuid] = used_fields(assumed(uuid), fields)
    return found


def used_fields(fields: Mapping[str, JsonValue], names: Iterable[str]) -> dict[str, JsonValue]:
    """Take what a plan can use of an inventory: of an image its architecture and its two names."""
    taken = {name: fields.get(name) for name in names}
    images = taken.get(IMAGES_FIELD)
    if isinstance(images, list):
        taken[IMAGES_FIELD] = [
            {name: row.get(name) for name in IMAGE_FIELDS} for row in images if isinstance(row, dict)
        ]
    return taken
