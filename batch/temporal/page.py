"""The workflow of a page: the engine's pool over up to 200 clones, then their hand-overs."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from batch.engine import Stop, clone_all, hand_over_all
    from batch.engine.survey import survey
    from batch.errors import EndReason, RunStoppedError, UnreachableError
    from batch.model import Plan, State
    from batch.temporal.adapters import Calls, PageJournal, PagePast, WorkflowClock
    from batch.temporal.messages import Ending, Lines, Orders, Page, Report

if TYPE_CHECKING:
    from batch.model import Clone, JsonValue

NAME: Final = "zclone.page"
_EVERY: Final = timedelta(seconds=10)
"""Time between two reports that are not urgent."""
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
        self._past = PagePast(page)
        self._journal = PageJournal(self._past)
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
        self._past.canary_passed = self._past.canary_passed or orders.is_honoured

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
        page, past, clock = self._page, self._past, WorkflowClock()
        limits = replace(page.limits, concurrency=orders.places, deadline=orders.deadline)
        try:
            await clone_all(
                self._plan,
                survey(self._plan, past, whole=self._whole),
                api=self._calls,
                journal=self._journal,
                past=past,
                clock=clock,
                limits=limits,
                stop=self._stop,
                polls=self._calls.polls,
                at_most_once=page.at_most_once,
            )
            if self._plan.hand_overs and not self._stop.requested:
                await hand_over_all(
                    self._plan,
                    past,
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
        uuid = self._past.made.get(clone.key)
        return uuid if self._page.at_most_once or uuid == clone.resource_uuid else None

    def _report(self) -> Report:
        states = self._past.counts
        states[State.CLONED] -= len(self._page.made)
        left = sum(count for state, count in states.items() if not state.is_final)
        is_honoured = self._past.canary_passed
        return Report(self._page.number, +states, left, is_honoured, is_over=self._is_over, ending=self._ending)

    async def _report_all(self) -> None:
        """Report progress to the parent from time to time, and at once if it affects the parent's decisions."""
        while not self._last_report.is_over:
            await workflow.wait_condition(lambda: self._report() != self._last_report)
            await self._send_report(self._report())
            with suppress(TimeoutError):
                await workflow.wait_condition(self._is_urgent, timeout=_EVERY)

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


def _plan(page: Page, pages_own: tuple[Clone, ...]) -> Plan:
    clones = tuple(clone._replace(params=_params(clone)) for clone in pages_own)
    hand_overs = sum(clone.hand_over is not None for clone in clones)
    return Plan(page.job, page.run, "", len(clones), lambda: iter(clones), hand_overs=hand_overs)


def _params(clone: Clone) -> dict[str, JsonValue]:
    params: dict[str, JsonValue] = json.loads(clone.body)["params"]
    return {name: value for name, value in params.items() if name != "resourceUuid"}
