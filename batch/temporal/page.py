"""The pages of a run: its division into them, each of one wave, and the workflow that settles one."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from batch.engine import Stop, clone_all
    from batch.engine.admission import wave_sizes
    from batch.engine.handover import hand_over_all
    from batch.engine.survey import HandOverHistory, Survey, find_unrecorded, survey
    from batch.errors import EndReason, RunStoppedError, UnreachableError, UsageError
    from batch.model import Plan, State
    from batch.temporal.adapters import Calls, PageHistory, PageJournal, WorkflowClock
    from batch.temporal.messages import Ending, Lines, Orders, Page, Part, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.model import Clone, Intent, JsonValue, Limits

NAME: Final = "zclone.page"
_REPORT_INTERVAL: Final = timedelta(seconds=10)
"""Time between two reports that are not urgent."""
LANES: Final = 4
"""Number of pages that share a run's concurrency, each with its own retry budget and breaker."""
MAX_CLONES: Final = 200
"""Maximum number of clones in a page."""
MAX_BYTES: Final = 1_000_000
"""Maximum bytes of the bodies in a page."""
MAX_BODY: Final = 1_500_000
"""Maximum bytes of one body; Temporal rejects payloads above 2 MB."""
_FAILURES: Final = (State.FAILED, State.CONFLICT, State.UNCERTAIN)


def page_id(parent: str, start: str, number: int) -> str:
    """Return the workflow id of a page."""
    return f"{parent}/{start}/{number}"


@workflow.defn(name=NAME)
class PageWorkflow:
    """Waits for its orders, settles its clones, and stays open until the command has copied its lines."""

    @workflow.init
    def __init__(self, page: Page) -> None:
        """Prepare to wait for orders."""
        self._page = page
        self._plan, self._whole = _plan(page, page.clones), _plan(page, page.clones + page.outside)
        self._history = PageHistory(page)
        self._journal = PageJournal(self._history)
        self._calls = Calls()
        self._stop = Stop()
        self._orders: Orders | None = None
        self._ending: Ending | None = None
        self._is_over = self._is_read = False
        self._last_report = Report(page.number)

    @workflow.run
    async def run(self, _: Page) -> None:
        """Settle the clones; if the run ends before the orders arrive, leave them as they are."""
        await workflow.wait_condition(lambda: self._orders is not None or self._stop.requested)
        if self._orders is not None:
            reporting = asyncio.create_task(self._report_all())
            await self._settle(self._orders)
            self._is_over = True
            await reporting
            await workflow.wait_condition(lambda: self._is_read)
        await self._send_report(replace(self._report(), is_over=True, is_closed=True))

    @workflow.signal
    def begin(self, orders: Orders) -> None:
        """Start sending."""
        self._orders = orders
        self._history.canary_passed = self._history.canary_passed or orders.is_honoured

    @workflow.signal
    def stop(self, ending: Ending) -> None:
        """Stop sending; clones in flight get some time to settle."""
        self._stop.request(ending.text, ending.reason)

    @workflow.signal
    def close(self) -> None:
        """Note that the command has copied all lines."""
        self._is_read = True

    @workflow.query
    def lines(self, cursor: int) -> Lines:
        """Return the lines after the first ``cursor`` ones."""
        return Lines(tuple(self._journal.lines[cursor:]), self._is_over, self._calls.made)

    async def _settle(self, orders: Orders) -> None:
        page, history, clock = self._page, self._history, WorkflowClock()
        limits = replace(page.limits, concurrency=orders.places, deadline=orders.deadline)
        try:
            await clone_all(
                self._plan,
                survey(self._plan, history, whole=self._whole),
                api=self._calls,
                journal=self._journal,
                past=history,
                clock=clock,
                limits=limits,
                stop=self._stop,
                polls=self._calls.polls,
                at_most_once=page.at_most_once,
            )
            if self._plan.hand_overs and not self._stop.requested:
                await hand_over_all(
                    self._plan,
                    history,
                    registrar=self._calls,
                    journal=self._journal,
                    clock=clock,
                    workers=orders.places,
                    stop=self._stop,
                    uuid_of=self._made_as,
                )
        except (RunStoppedError, UnreachableError) as stopped:
            self._ending = Ending(str(stopped), stopped.reason)
        if self._ending is None and self._stop.reason is not None:
            self._ending = Ending(self._stop.reason, self._stop.code)

    def _made_as(self, clone: Clone) -> str | None:
        """Return the uuid under which a clone of this run may be handed over, if it has one."""
        uuid = self._history.made.get(clone.key) or None
        return uuid if self._page.at_most_once or uuid == clone.resource_uuid else None

    def _report(self) -> Report:
        states = self._history.counts
        states[State.CLONED] -= len(self._page.made)
        left = sum(count for state, count in states.items() if not state.is_final)
        is_honoured = self._history.canary_passed
        return Report(self._page.number, +states, left, is_honoured, is_over=self._is_over, ending=self._ending)

    async def _report_all(self) -> None:
        """Report progress to the parent from time to time, and at once if it affects the parent's decisions."""
        while not self._last_report.is_over:
            await workflow.wait_condition(lambda: self._report() != self._last_report)
            await self._send_report(self._report())
            with suppress(TimeoutError):
                await workflow.wait_condition(self._is_urgent, timeout=_REPORT_INTERVAL)

    def _is_urgent(self) -> bool:
        """Return whether a change may start or stop other pages."""
        now, last, orders = self._report(), self._last_report, self._orders
        assert orders is not None
        is_narrow = now.left < orders.places <= last.left
        has_failed = any(now.states.get(state, 0) > last.states.get(state, 0) for state in _FAILURES)
        return now.is_over or now.is_honoured != last.is_honoured or is_narrow or has_failed

    async def _send_report(self, report: Report) -> None:
        self._last_report = report
        parent = workflow.get_external_workflow_handle(self._page.parent)
        try:
            await parent.signal("report", report)
        except (ApplicationError, FailureError):
            # The parent workflow was ended with Temporal's own tools.
            self._stop.request("its parent workflow is gone", EndReason.SIGNAL)


def _plan(page: Page, members: tuple[Clone, ...]) -> Plan:
    clones = tuple(clone._replace(params=_params(clone)) for clone in members)
    hand_overs = sum(clone.hand_over is not None for clone in clones)
    return Plan(page.job, page.run, "", len(clones), lambda: iter(clones), hand_overs=hand_overs)


def _params(clone: Clone) -> dict[str, JsonValue]:
    params: dict[str, JsonValue] = json.loads(clone.body)["params"]
    return {name: value for name, value in params.items() if name != "resourceUuid"}


@dataclass(frozen=True, slots=True)
class Work:
    """The remaining work of a run, as of its first start."""

    plan: Plan
    survey: Survey
    history: HandOverHistory
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
    sizes = enumerate(zip(wave_sizes(work.limits.waves, work.plan.count), _count_unsettled(work), strict=True), 1)
    parts = (Part(number, counts[number], is_new=number > 1 and left == size) for number, (size, left) in sizes)
    return tuple(part for part in parts if part.pages)


def pages_of(work: Work, *, parent: str) -> Iterator[tuple[int, Page]]:
    """Yield every page with the number of its wave, deterministically for the same manifest."""
    intents, number = dict(work.history.intents), 0
    for wave, clones, made in _divide(work):
        opened = [intents.pop(clone.key) for clone in clones if clone.key in intents]
        yield wave, _page(work, parent, number, clones, opened, made)
        number += 1
    # Clones outside the plan, then targets that left the job file: queried but never sent.
    last = len(_count_unsettled(work))
    for clones in _pages(iter(work.survey.outside_plan), MAX_CLONES):
        page = _page(work, parent, number, (), [intents.pop(clone.key) for clone in clones], {})
        yield last, replace(page, outside=_without_params(clones))
        number += 1
    removed = iter(list(intents.values()))
    while some := list(islice(removed, MAX_CLONES)):
        yield last, _page(work, parent, number, (), some, {})
        number += 1


def _count_unsettled(work: Work) -> tuple[int, ...]:
    """Return the number of unsettled targets per wave, as the engine counts them."""
    settled, left = work.survey.settled.total(), []
    for size in wave_sizes(work.limits.waves, work.plan.count):
        left.append(max(0, size - settled))
        settled = max(0, settled - size)
    return tuple(left)


def _divide(work: Work) -> Iterator[tuple[int, tuple[Clone, ...], dict[str, str]]]:
    opened = [clone for clone in work.survey.open if clone.body]
    new = find_unrecorded(work.plan, work.history, frozenset(clone.key for clone in work.survey.open))
    queue = chain(opened, (clone for clone in new if clone is not None))
    waves = _count_unsettled(work)
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


def _without_params(clones: tuple[Clone, ...]) -> tuple[Clone, ...]:
    """Return the clones without the fields that their bodies contain."""
    return tuple(clone._replace(params={}) for clone in clones)


def _page(
    work: Work, parent: str, number: int, clones: tuple[Clone, ...], opened: list[Intent], made: dict[str, str]
) -> Page:
    history = work.history
    return Page(
        parent,
        number,
        work.plan.job,
        work.plan.run,
        _without_params(clones),
        tuple(opened),
        made,
        tuple(clone.key for clone in clones if history.has_predecessor(clone.key, clone.resource_uuid)),
        work.limits,
        at_most_once=work.at_most_once,
        is_cut_off=history.is_cut_off,
        is_repaired=history.is_repaired,
        was_sent=history.was_sent,
        api_timeout=history.api_timeout,
        repeated=tuple(clone.key for clone in clones if clone.key in history.repeated),
        tried={clone.key: dict(tries) for clone in clones if (tries := history.hand_overs.tries(clone.key))},
    )
