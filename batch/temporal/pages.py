"""Divides a run's work into pages of at most 200 clones and one megabyte, each within one wave."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from batch.engine.admission import wave_sizes
from batch.engine.survey import find_unrecorded
from batch.errors import UsageError
from batch.temporal.messages import Page, Part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.engine.survey import RunHistory, Survey
    from batch.model import Clone, Intent, Limits, Plan

LANES: Final = 4
"""Number of pages that share a run's concurrency, each with its own retry budget and breaker."""
MAX_CLONES: Final = 200
"""Maximum number of clones in a page."""
MAX_BYTES: Final = 1_000_000
"""Maximum bytes of the bodies in a page."""
MAX_BODY: Final = 1_500_000
"""Maximum bytes of one body; Temporal rejects payloads above 2 MB."""


@dataclass(frozen=True, slots=True)
class Work:
    """The remaining work of a run, as of its first start."""

    plan: Plan
    found: Survey
    past: RunHistory
    limits: Limits
    at_most_once: bool
    made: Callable[[], Iterator[tuple[Clone, str]]]
    """Yields the clones that only wait for their hand-over, with their uuids; an empty uuid is not known as ours."""


def places_of(concurrency: int) -> int:
    """Return a page's share of the run's concurrency."""
    return math.ceil(concurrency / LANES)


def parts_of(work: Work) -> tuple[Part, ...]:
    """Return the waves of a run with their numbers of pages. Raises UsageError for a body that is too large."""
    counts = Counter(part for part, _ in pages_of(work, parent=""))
    waves = wave_sizes(work.limits.waves, work.plan.count)
    found = []
    for number, (size, left) in enumerate(zip(waves, _left(work), strict=True), 1):
        if counts[number]:
            is_new = number > 1 and left == size
            found.append(Part(number, counts[number], is_new=is_new))
    return tuple(found)


def pages_of(work: Work, *, parent: str) -> Iterator[tuple[int, Page]]:
    """Yield every page with the number of its wave, deterministically for the same manifest."""
    intents = dict(work.past.intents)
    number = 0
    for wave, clones, made in _cut(work):
        opened = [intents.pop(clone.key) for clone in clones if clone.key in intents]
        yield wave, _page(work, parent, number, clones, opened, made)
        number += 1
    # Clones outside the plan, then targets that left the job file: queried but never sent.
    last = len(_left(work))
    for clones in _pages(iter(work.found.outside), MAX_CLONES):
        page = _page(work, parent, number, (), [intents.pop(clone.key) for clone in clones], {})
        yield last, replace(page, outside=_slim(clones))
        number += 1
    removed = iter(list(intents.values()))
    while some := list(islice(removed, MAX_CLONES)):
        yield last, _page(work, parent, number, (), some, {})
        number += 1


def _left(work: Work) -> tuple[int, ...]:
    """Return the number of unsettled targets per wave, as the engine counts them."""
    settled, left = work.found.settled.total(), []
    for size in wave_sizes(work.limits.waves, work.plan.count):
        left.append(max(0, size - settled))
        settled = max(0, settled - size)
    return tuple(left)


def _cut(work: Work) -> Iterator[tuple[int, tuple[Clone, ...], dict[str, str]]]:
    opened = [clone for clone in work.found.open if clone.body]
    new = find_unrecorded(work.plan, work.past, frozenset(clone.key for clone in work.found.open))
    queue = chain(opened, (clone for clone in new if clone is not None))
    waves = _left(work)
    for wave, size in enumerate(waves, 1):
        for clones in _pages(islice(queue, size), _page_size(size, work.limits.concurrency)):
            yield wave, clones, {}
    made = {clone.key: uuid for clone, uuid in work.made()}
    waiting = (clone for clone, _ in work.made())
    for clones in _pages(waiting, MAX_CLONES):
        yield len(waves), clones, {clone.key: made[clone.key] for clone in clones}


def _page_size(clones: int, concurrency: int) -> int:
    """Return the number of clones per page that keeps all concurrent pages busy for the same time."""
    lanes = min(LANES, concurrency)
    rounds = math.ceil(clones / (MAX_CLONES * lanes))
    return max(1, math.ceil(clones / (lanes * max(1, rounds))))


def _pages(clones: Iterator[Clone], max_clones: int) -> Iterator[tuple[Clone, ...]]:
    page: list[Clone] = []
    size = 0
    for clone in clones:
        if len(clone.body) > MAX_BODY:
            raise UsageError(f"{clone.key}: its body has {len(clone.body):,} bytes, Temporal accepts {MAX_BODY:,}")
        if page and (len(page) == max_clones or size + len(clone.body) > MAX_BYTES):
            yield tuple(page)
            page, size = [], 0
        page.append(clone)
        size += len(clone.body)
    if page:
        yield tuple(page)


def _slim(clones: tuple[Clone, ...]) -> tuple[Clone, ...]:
    """Return the clones without the fields that their bodies contain."""
    return tuple(clone._replace(params={}) for clone in clones)


def _page(
    work: Work, parent: str, number: int, clones: tuple[Clone, ...], opened: list[Intent], made: dict[str, str]
) -> Page:
    past = work.past
    return Page(
        parent,
        number,
        work.plan.job,
        work.plan.run,
        _slim(clones),
        tuple(opened),
        made,
        tuple(clone.key for clone in clones if past.has_predecessor(clone.key)),
        work.limits,
        at_most_once=work.at_most_once,
        is_cut_off=past.is_cut_off,
        is_repaired=past.is_repaired,
        was_sent=past.was_sent,
        api_timeout=past.api_timeout,
        repeated=tuple(clone.key for clone in clones if clone.key in past.repeated),
    )
