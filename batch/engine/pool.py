"""The pool of a run: reconcile open clones, run one canary clone alone, then one wave after the other."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from batch.engine.admission import FailureLimit, quarantine, sort_by_crashes, take_first, wave_sizes
from batch.engine.clone_records import (
    first_step_of_new,
    is_reconciled,
    is_unexecuted,
    look_before,
    record_end,
    resumed_step,
)
from batch.engine.decisions import after_edit, after_no_send
from batch.engine.dispatch import dispatch
from batch.engine.settle import Dependencies, settle
from batch.engine.steps import End, Look, Send, Step
from batch.engine.survey import find_unrecorded, is_same, without_body
from batch.errors import HELD_BACK, CallCutError, EndReason, RunStoppedError
from batch.model import Clone, Intent, Limits, Plan, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.engine.comparison import UuidConfirmation
    from batch.engine.dispatch import ConcurrencyLimiter
    from batch.engine.poll_schedule import PollSchedule
    from batch.engine.survey import RunHistory, Survey

_SLOW: Final = 0.95
"""Share of the jobs that must be able to end before the deadline."""
_log = structlog.get_logger()

CloneStep: TypeAlias = tuple[Clone, Step]


class Pool:
    """Settles the Clones of a run; stops it early at the failure limit or the deadline."""

    def __init__(
        self,
        plan: Plan,
        past: RunHistory,
        limits: Limits,
        deps: Dependencies,
        limiter: ConcurrencyLimiter,
        polls: PollSchedule,
        confirmation: UuidConfirmation,
    ) -> None:
        """Prepare; nothing is sent before ``run``."""
        self._plan = plan
        self._past = past
        self._limits = limits
        self._deps = deps
        self._limiter = limiter
        self._polls = polls
        self._confirmation = confirmation
        self._deadline = None if limits.deadline is None else deps.clock.monotonic() + limits.deadline
        self._failures = FailureLimit(past, limits.max_failures)
        self._edited: dict[str, Clone] = {}
        """Present Clones of the plan whose open attempt was sent with another body."""
        self._deferred: list[CloneStep] = []
        """Work that waits for confirmation that the server honours resourceUuid."""
        self._unconfirmed: list[tuple[Clone, End]] = []
        """Clones that ended uncertain only because that confirmation was missing."""
        self.stopped_by: RunStoppedError | None = None

    async def run(self, survey: Survey) -> None:
        """Reconcile, run the canary, then the pool wave by wave; at last the quarantined Clones alone."""
        # Clones outside the plan are polled, and never sent.
        opened = (*survey.open, *(clone._replace(body=b"") for clone in survey.outside_plan))
        deps, found = self._deps, sort_by_crashes(opened, self._past)
        removed = frozenset(clone.key for clone in opened if not clone.body)
        self._failures.exclude(removed, settled=survey.settled)
        quarantine(found, deps.journal, deps.clock)
        await self._take_up(found.ordinary)
        open_work = await self._reconcile(found.ordinary)
        remaining = [work for work in open_work if work[0].key not in removed]
        self._failures.expect(work[0].key for work in remaining)
        keys = frozenset(clone.key for clone in opened)
        unrecorded = self._stop_on_read_error(find_unrecorded(self._plan, self._past, keys))
        new = (None if clone is None else self._first(clone) for clone in unrecorded)
        settled = survey.settled.total() + len(keys - removed) - len(remaining)
        self._check_failures()
        left = iter(remaining)
        await self._in_waves(chain(left, new), settled)
        await self._end_held_back(left)
        await self._pool(iter([work for work in open_work if work[0].key in removed]))
        await dispatch(iter(found.isolated), self._settle_alone, workers=1, is_stopped=self._is_stopping)

    def _first(self, clone: Clone) -> CloneStep:
        return clone, first_step_of_new(clone, self._past, self._deps.policy, now=self._deps.clock.time())

    def _stop_on_read_error(self, clones: Iterator[Clone | None]) -> Iterator[Clone | None]:
        """Request the Stop where the plan can no longer be read: clones in flight settle, but retry nothing."""
        try:
            yield from clones
        except Exception as error:
            self._deps.stop.request(str(error), EndReason.CHANGED_INPUT)
            raise

    async def _in_waves(self, queue: Iterator[CloneStep | None], settled: int) -> None:
        """Start wave after wave while no failures hold back the next; ``settled`` targets are not in the queue.

        A wave that an earlier process began is continued.
        """
        waves = wave_sizes(self._limits.waves, self._plan.count)
        for number, size in enumerate(waves, 1):
            left, settled = max(0, size - settled), max(0, settled - size)
            if len(waves) > 1 and left and not self._may_start(number, of=len(waves), left=left, size=size):
                return
            await self._pool(take_first(queue, left) if number < len(waves) else queue)

    async def _pool(self, queue: Iterator[CloneStep | None]) -> None:
        """Settle the queue: one at a time until the server is known to honour resourceUuid, then concurrently."""
        try:
            async with asyncio.TaskGroup() as group:
                if not self._deps.policy.at_most_once:
                    await self._run_canary(queue, group)
                await self._settle_all(queue)
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        await self._end_deferred()

    async def _run_canary(self, queue: Iterator[CloneStep | None], group: asyncio.TaskGroup) -> None:
        """Settle one Clone after the other; once one confirms resourceUuid, its job may continue in ``group``."""
        while not self._is_canary_finished():
            try:
                work = next(queue)
            except StopIteration:
                return
            if work is None:
                await asyncio.sleep(0)
            else:
                task = group.create_task(self._settle(work))
                await self._confirmation.watch(work[0], task, is_sent=lambda: self._polls.is_busy)

    async def _settle_all(self, queue: Iterator[CloneStep | None]) -> None:
        if self._deps.is_honoured():
            deferred, self._deferred = self._deferred, []
            queue = chain(deferred, queue)
        await dispatch(queue, self._settle, workers=self._limiter.workers, is_stopped=self._is_stopping)

    async def _end_deferred(self) -> None:
        """Settle what may not be sent again, as nothing confirmed that the server honours resourceUuid."""
        deferred, self._deferred = self._deferred, []
        for clone, step in deferred:
            if not self._deps.stop.requested:
                assert isinstance(step, Send) and step.fallback is not None  # noqa: PT018 - one state
                await self._advance(clone, step.fallback, None)

    async def _end_held_back(self, left: Iterator[CloneStep]) -> None:
        """Record what is known of open Clones that failures hold back: otherwise no rerun would ever change them."""
        if self._deps.stop.code in HELD_BACK:
            for clone, step in left:
                if isinstance(step, Send) and step.fallback is not None:
                    await self._advance(clone._replace(body=b""), step, None)

    def _may_start(self, number: int, *, of: int, left: int, size: int) -> bool:
        """Return whether a wave may start; request the Stop where the waves before it exceeded ``max_failures``."""
        wave_hold = self._failures.wave_hold() if number > 1 and left == size else None
        if wave_hold is not None:
            self._deps.stop.request(f"wave {number} of {of} is not started: {wave_hold}", EndReason.WAVE)
        if self._is_stopping():
            return False
        _log.info("wave.started", wave=number, of=of, targets=left)
        return True

    async def _take_up(self, clones: tuple[Clone, ...]) -> None:
        """After a process was killed record the continued Clones, so that the next process can count."""
        intents = self._past.intents if self._past.is_cut_off else {}
        known = ((clone.key, intents[clone.key]) for clone in clones if clone.key in intents)
        if keys := [key for key, intent in known if intent.state is not State.PLANNED]:
            await self._deps.journal.take_up(keys)

    async def _settle_alone(self, clone: Clone) -> None:
        await self._take_up((clone,))
        work = await self._continue(self._resumed(clone, self._past.intents[clone.key]), None)
        if work is not None and isinstance(work[1], Send) and work[1].needs_confirmation:
            self._deferred.append(work)
            await self._end_deferred()

    def _resumed(self, clone: Clone, intent: Intent) -> CloneStep:
        """Return how an open Clone continues: an attempt is polled as it was sent."""
        step = resumed_step(clone, intent, self._deps.policy, now=self._deps.clock.time())
        if isinstance(step, Send | Look) or is_same(clone, intent) or is_unexecuted(clone, intent):
            return clone, step
        self._edited[clone.key] = clone
        return without_body(intent), step

    async def _reconcile(self, opened: tuple[Clone, ...]) -> list[CloneStep]:
        """Poll every open Clone before anything new is sent; return those that this does not settle."""
        intents = dict(self._past.intents)
        remaining: list[CloneStep] = []

        async def ask(clone: Clone) -> None:
            work = await self._continue(self._resumed(clone, intents[clone.key]), is_reconciled)
            if work is not None:
                remaining.append(work)

        await dispatch(iter(opened), ask, workers=self._limiter.workers, is_stopped=self._is_stopping)
        return remaining

    async def _settle(self, work: CloneStep) -> None:
        await self._limiter.acquire()
        try:
            left = None if self._is_stopping() else await self._continue(work, None)
        finally:
            self._limiter.release()
        if (
            left is not None
            and isinstance(left[1], Send)
            and left[1].needs_confirmation
            and not self._deps.is_honoured()
        ):
            self._deferred.append(left)

    async def _continue(self, work: CloneStep, pause_at: Callable[[Step], bool] | None) -> CloneStep | None:
        """Settle; return the remaining work, None where the Clone is settled or nothing can be done now."""
        clone, step = work
        edited = None if clone.body else self._edited.get(clone.key)
        after = await self._advance(clone, step, pause_at if edited is None else _or_send(pause_at))
        if edited is not None and isinstance(after, Send) and not self._deps.stop.requested:
            return await self._send_edited(clone, after, edited, pause_at)
        if isinstance(after, Send) and not clone.body and edited is None:
            # Its target left the job file: it is not sent.
            after = await self._advance(clone, after, None)
        is_left = after is not None and not isinstance(after, End) and (clone.body or not isinstance(after, Send))
        return (clone, after) if is_left and after is not None else None

    async def _send_edited(
        self, sent: Clone, step: Send, edited: Clone, pause_at: Callable[[Step], bool] | None
    ) -> CloneStep | None:
        """Continue with the edited target; under another uuid only after a definite end of every attempt."""
        is_same_uuid = sent.resource_uuid == edited.resource_uuid
        while not is_same_uuid and (step.needs_confirmation or step.open_jobs):
            ending = after_no_send(step)
            if isinstance(ending, End) and ending.state is State.FAILED and not step.has_unanswered:
                break
            after = await self._advance(sent, ending, _or_send(None))
            if not isinstance(after, Send):
                return None
            step = after
        step = after_edit(step, is_same_uuid=is_same_uuid)
        work = edited, step if is_same_uuid else look_before(edited, Send(1), now=self._deps.clock.time())
        return work if pause_at is not None else await self._continue(work, None)

    async def _advance(self, clone: Clone, step: Step, pause_at: Callable[[Step], bool] | None) -> Step | None:
        """Settle; turn an error that stops the run into a Stop, so that the other Clones settle first."""
        try:
            step = await settle(clone, step, self._deps, pause_at=pause_at)
        except CallCutError:
            return None
        except RunStoppedError as stopped:
            self.stopped_by = self.stopped_by or stopped
            self._deps.stop.request(str(stopped), stopped.reason)
            return None
        if isinstance(step, End):
            self._note_end(clone, step)
        self._check_failures()
        return step

    def _note_end(self, clone: Clone, end: End) -> None:
        self._failures.note_end(clone.key, end.state)
        self._confirmation.note_end(clone, end)
        if end.is_unconfirmed:
            self._unconfirmed.append((clone, end))
        if self._deps.is_honoured():
            # With that confirmation the next process learns more or sends again: nothing waits for the operator.
            while self._unconfirmed:
                clone, end = self._unconfirmed.pop()
                record_end(clone, end._replace(until=None), self._deps)

    def _check_failures(self) -> None:
        excess = self._failures.excess()
        if excess is not None:
            self._deps.stop.request(excess, EndReason.MAX_FAILURES)

    def _is_canary_finished(self) -> bool:
        return self._deps.is_honoured() or self._is_stopping()

    def _is_stopping(self) -> bool:
        """Return whether nothing more may start; request the Stop when a clone could not end before the deadline."""
        if self._deadline is not None:
            slow = self._polls.times.quantile(_SLOW)
            if self._deps.clock.monotonic() + slow >= self._deadline:
                self._deps.stop.request("the deadline is near", EndReason.DEADLINE)
        return self._deps.stop.requested


def _or_send(pause_at: Callable[[Step], bool] | None) -> Callable[[Step], bool]:
    return lambda step: isinstance(step, Send) or (pause_at is not None and pause_at(step))
