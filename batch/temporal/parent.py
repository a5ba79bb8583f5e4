"""The parent workflow of a run: starts and stops its pages and enforces the limits on all of them together."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from batch.engine.admission import find_excess, find_wave_hold
    from batch.errors import EndReason
    from batch.temporal.messages import Course, Ending, Facts, Orders, Part, Progress, Report
    from batch.temporal.page import page_id, places_of

if TYPE_CHECKING:
    from batch.model import State

NAME: Final = "zclone.run"
GREETING: Final = "zclone.greeting"
_FACTS_TIMEOUT: Final = timedelta(seconds=10)
_MEMO_INTERVAL: Final = 30.0
"""Minimum seconds between two memo updates, each of which adds an event to the history."""
_GONE: Final = Ending("a page of the run was ended by other means", EndReason.SIGNAL)


@workflow.defn(name=GREETING)
class GreetingWorkflow:
    """Queries any worker of an endpoint for the facts that a command needs before it starts a run."""

    @workflow.run
    async def run(self) -> Facts:
        """Return the worker's facts."""
        facts: Facts = await workflow.execute_activity(
            "facts", result_type=Facts, start_to_close_timeout=_FACTS_TIMEOUT
        )
        return facts


@workflow.defn(name=NAME)
class RunWorkflow:
    """Runs the first clone alone; enforces waves, max_failures, deadline, stop and the total of clones in flight."""

    @workflow.init
    def __init__(self, course: Course) -> None:
        """Continue from ``course``."""
        self._course = course
        self._stopping: set[int] = set()
        self._places = places_of(course.limits.concurrency)
        self._is_changed = False
        self._listed = (Counter(course.settled), workflow.time())
        """States in the memo, which lists of workflows show, and the time of its last update."""

    @workflow.run
    async def run(self, course: Course) -> Ending | None:
        """Return why the run ended early, None if everything was tried."""
        begun = 0
        while not self._is_done:
            try:
                begun += await self._take_turn()
            except asyncio.CancelledError:
                # A cancel on Temporal is handled like any other stop.
                self._end(Ending("cancelled on Temporal", EndReason.SIGNAL))
            if begun >= course.turn:
                workflow.continue_as_new(course)
        self._list_states()
        return self._course.ending

    @workflow.signal
    def load(self) -> None:
        """Note that all pages were created."""
        self._course.is_loaded = self._is_changed = True

    @workflow.signal
    def report(self, report: Report) -> None:
        """Store the progress of a page."""
        self._is_changed = True
        self._course.is_honoured = self._course.is_honoured or report.is_honoured
        if report.is_closed:
            self._course.settled = Counter(self._course.settled) + Counter(report.states)
            self._course.open.pop(report.page, None)
        else:
            self._course.open[report.page] = report
        if report.ending is not None:
            self._end(report.ending)

    @workflow.signal
    def stop(self, ending: Ending) -> None:
        """Stop sending."""
        self._end(ending)

    @workflow.query
    def progress(self) -> Progress:
        """Return the open pages and whether the run is over."""
        course = self._course
        return Progress(course.start, course.is_loaded, tuple(course.open), self._is_done, course.ending)

    def _end(self, ending: Ending) -> None:
        """Store the reason of the end; only the first one counts."""
        if self._course.ending is None:
            self._course.ending, self._is_changed = ending, True

    @property
    def _is_done(self) -> bool:
        course = self._course
        return course.is_loaded and not course.open and course.next_page + course.stopped_pages >= course.pages

    async def _take_turn(self) -> int:
        """Act on the current state, then wait for a change; return the number of pages started or ended."""
        self._is_changed = False
        count, course = 0, self._course
        if course.is_loaded:
            if course.ends_at is None and course.limits.deadline is not None:
                course.ends_at = workflow.time() + course.limits.deadline
            self._judge()
            count = await self._act()
        self._list_states()
        left = None if course.ends_at is None or course.ending else max(0.001, course.ends_at - workflow.time())
        with suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._is_changed or self._is_done, timeout=left)
        return count

    def _judge(self) -> None:
        """End the run if the failure limit is exceeded or the deadline has passed."""
        states = self._states()
        text = find_excess(states, self._course.limits.max_failures)
        if text is not None:
            self._end(Ending(text, EndReason.MAX_FAILURES))
        if self._course.ends_at is not None and workflow.time() >= self._course.ends_at:
            self._end(Ending("the deadline has passed", EndReason.DEADLINE))

    def _list_states(self) -> None:
        """Update the counts by state in the memo: at the end, and from time to time before."""
        states, (listed, since) = self._states(), self._listed
        if states != listed and (self._is_done or workflow.time() >= since + _MEMO_INTERVAL):
            self._listed = (states, workflow.time())
            workflow.upsert_memo({"states": dict(states)})

    def _states(self) -> Counter[State]:
        states = Counter(self._course.settled)
        for report in self._course.open.values():
            states.update(report.states)
        return states

    async def _act(self) -> int:
        """Start or stop pages; return the number that were signalled for the first time."""
        if self._course.ending is not None:
            return await self._stop_all(self._course.ending)
        count, course = 0, self._course
        while self._may_begin():
            number, course.next_page = course.next_page, course.next_page + 1
            course.open[number] = Report(number, left=self._places)
            left = None if course.ends_at is None else course.ends_at - workflow.time()
            await self._signal(number, "begin", Orders(self._places, course.is_honoured, left))
            count += 1
        return count

    async def _stop_all(self, ending: Ending) -> int:
        """Stop the pages that have started, then those that have not, which end unchanged."""
        course = self._course
        running = [number for number, report in course.open.items() if not report.is_over]
        new = [number for number in running if number not in self._stopping]
        for number in new:
            self._stopping.add(number)
            await self._signal(number, "stop", ending)
        waiting = range(course.next_page + course.stopped_pages, course.pages)[: course.turn]
        for number in waiting:
            course.stopped_pages += 1
            await self._signal(number, "stop", ending)
        return len(new) + len(waiting)

    async def _signal(self, number: int, name: str, what: Orders | Ending) -> None:
        page = workflow.get_external_workflow_handle(page_id(workflow.info().workflow_id, self._course.start, number))
        try:
            await page.signal(name, what)
        except (ApplicationError, FailureError):
            self._course.open.pop(number, None)
            self._end(_GONE)

    def _may_begin(self) -> bool:
        """Return whether another page may start."""
        course = self._course
        if course.ending is not None or course.next_page >= course.pages:
            return False
        active = [report for report in course.open.values() if not report.is_over]
        if active and not (course.is_honoured or course.at_most_once):
            return False
        used = sum(min(self._places, report.left) for report in active)
        if active and used + self._places > course.limits.concurrency:
            return False
        return self._may_begin_wave(is_quiet=not active)

    def _may_begin_wave(self, *, is_quiet: bool) -> bool:
        """Return whether the next page starts no wave, or the earlier waves settled within ``max_failures``."""
        first = 0
        for part in self._course.parts:
            if first == self._course.next_page:
                return (is_quiet or not first) and self._is_well(part)
            first += part.pages
        return True

    def _is_well(self, part: Part) -> bool:
        """Return whether a new wave may start; end the run if failures prevent it."""
        trouble = find_wave_hold(self._states(), self._course.limits.max_failures) if part.is_new else None
        if trouble is not None:
            self._end(Ending(f"wave {part.wave} is not started: {trouble}", EndReason.WAVE))
        return trouble is None
