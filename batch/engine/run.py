"""One run: reconcile what an earlier process left open, let one clone go alone, then the pool."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import structlog

from batch.engine.breaker import Breaker, GuardedApi
from batch.engine.budget import RetryBudget
from batch.engine.dispatch import dispatch
from batch.engine.flight import Flight
from batch.engine.pace import PollPace
from batch.engine.poison import set_aside, triage
from batch.engine.policy import Policy
from batch.engine.settle import World, first_step, is_reconciled, settle
from batch.engine.steps import End, Send, Step
from batch.engine.stop import GRACE, within_grace
from batch.engine.survey import fresh
from batch.engine.waves import first, sizes
from batch.errors import RunStoppedError, UnreachableError
from batch.model import Clone, Plan, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.engine.ports import Api, Clock, Journal
    from batch.engine.stop import Stop
    from batch.engine.survey import Past, Survey
    from batch.model import Limits

_ENOUGH_SETTLED = 10
"""max_failures is judged from this many settled clones on."""

_AHEAD = 32
"""Clones made before they are sent."""

_log = structlog.get_logger()

Work: TypeAlias = tuple[Clone, Step]


async def clone_all(  # noqa: PLR0913 - the composition root names each part of the run once
    plan: Plan,
    found: Survey,
    *,
    api: Api,
    journal: Journal,
    past: Past,
    clock: Clock,
    limits: Limits,
    stop: Stop,
    at_most_once: bool = False,
    grace: float = GRACE,
) -> None:
    """Settle every Clone of the plan that is not final yet; ``found`` is the plan's ``survey`` against ``past``.

    Returns when all were tried or the Stop was obeyed; what happened is in the journal. Raises RunStoppedError where
    the run must be resumed later, UnreachableError where it came to nothing at all, ManifestError where the journal
    failed: nothing was sent after that.
    """
    policy = Policy(attempts=limits.attempts, timeout=limits.timeout, at_most_once=at_most_once)
    flight, budget = Flight(limits.concurrency, clock), RetryBudget(clock)
    pace = PollPace(policy, clock)
    guarded = GuardedApi(api, Breaker(clock, returned=pace.spoil), flight.note, budget.note)
    world = World(guarded, journal, clock, policy, stop, pace, budget)
    journal.on_failure(lambda: stop.request("the manifest could not be written"))
    run = _Run(plan, past, limits, world, flight)
    if limits.deadline is not None:
        asyncio.get_running_loop().call_later(limits.deadline, stop.request, "the deadline has come")
    await within_grace(run.all(found), stop, grace)
    if run.stopped_by is not None:
        if not past.counts.keys() - {State.PLANNED}:
            raise UnreachableError(f"{run.stopped_by}; nothing was cloned") from None
        raise run.stopped_by


class _Run:
    """The pool's work and the two reasons to end it early that only the sum of clones shows."""

    def __init__(self, plan: Plan, past: Past, limits: Limits, world: World, flight: Flight) -> None:
        self._plan = plan
        self._past = past
        self._limits = limits
        self._world = world
        self._flight = flight
        self._deadline = None if limits.deadline is None else world.clock.monotonic() + limits.deadline
        self.stopped_by: RunStoppedError | None = None

    async def all(self, survey: Survey) -> None:
        """Reconcile, canary, pool, in waves if asked for; those that processes died of come last, one at a time."""
        world, found = self._world, triage(survey.open, self._past)
        set_aside(found, world.journal, world.clock)
        await self._take_up(found.ordinary)
        going_on = await self._reconcile(found.ordinary)
        keys = frozenset(clone.key for clone in survey.open)
        found_new = _ahead(self._as_long_as_readable(fresh(self._plan, self._past, keys)))
        new = ((clone, Send(1)) if clone is not None else None for clone in found_new)
        settled = survey.settled + len(survey.open) - len(going_on)
        await self._in_waves(chain(going_on, new), settled)
        await dispatch(iter(found.suspect), self._settle_alone, workers=1, is_stopped=self._is_over)

    def _as_long_as_readable(self, clones: Iterator[Clone | None]) -> Iterator[Clone | None]:
        """Ask for the Stop where the plan cannot be read on: what is in flight settles, but retries nothing."""
        try:
            yield from clones
        except Exception as error:
            self._world.stop.request(str(error))
            raise

    async def _in_waves(self, queue: Iterator[Work | None], settled: int) -> None:
        """Start wave after wave as long as the ones before went well; ``settled`` of the targets are not in the queue.

        A wave that an earlier process began goes on.
        """
        waves = sizes(self._limits.waves, self._plan.count)
        for number, size in enumerate(waves, 1):
            left, settled = max(0, size - settled), max(0, settled - size)
            if len(waves) > 1 and left and not self._may_start(number, of=len(waves), left=left, size=size):
                return
            # The last one takes whatever there is, also targets that left the job file.
            await self._pool(first(queue, left) if number < len(waves) else queue)

    async def _pool(self, queue: Iterator[Work | None]) -> None:
        if not self._world.policy.at_most_once:
            await dispatch(queue, self._settle, workers=1, is_stopped=self._is_canary_over)
        await dispatch(queue, self._settle, workers=self._limits.concurrency, is_stopped=self._is_over)

    def _may_start(self, number: int, *, of: int, left: int, size: int) -> bool:
        """Ask for the Stop where a wave before this one, not yet begun, did not settle within ``max_failures``."""
        trouble = self._trouble() if number > 1 and left == size else None
        if trouble is not None:
            self._world.stop.request(f"wave {number} of {of} is not started: {trouble}")
        if self._is_over():
            return False
        _log.info("wave.started", wave=number, of=of, targets=left)
        return True

    def _trouble(self) -> str | None:
        """Say what keeps the next wave back; without ``max_failures`` that is any failure."""
        counts, (failed, settled) = self._past.counts, self._failures()
        if counts.get(State.UNCERTAIN, 0):
            return f"{counts[State.UNCERTAIN]} clones are uncertain"
        if failed > _allowed(self._limits.max_failures or 0.0, settled):
            return f"{failed} of {settled} settled clones failed: mend them, then zclone retry"
        return None

    async def _take_up(self, clones: tuple[Clone, ...]) -> None:
        """Where a process died: put on record with whom, so that the next one can count."""
        intents = self._past.intents if self._past.is_cut_off else {}
        keys = [clone.key for clone in clones if clone.key in intents and intents[clone.key].state is not State.PLANNED]
        if keys:
            await self._world.journal.take_up(keys)

    async def _settle_alone(self, clone: Clone) -> None:
        intent = self._past.intents[clone.key]
        await self._take_up((clone,))
        await self._advance(clone, first_step(intent, self._world.policy), None)

    async def _reconcile(self, opened: tuple[Clone, ...]) -> list[Work]:
        """Ask about every open Clone before anything new is sent; return those that are not settled by that."""
        intents = dict(self._past.intents)
        going_on: list[Work] = []

        async def ask(clone: Clone) -> None:
            step = await self._advance(clone, first_step(intents[clone.key], self._world.policy), is_reconciled)
            if step is not None and not isinstance(step, End) and (clone.body or not isinstance(step, Send)):
                going_on.append((clone, step))

        await dispatch(iter(opened), ask, workers=self._limits.concurrency, is_stopped=self._is_over)
        return going_on

    async def _settle(self, work: Work) -> None:
        await self._flight.enter()
        try:
            if not self._is_over():
                await self._advance(*work, None)
        finally:
            self._flight.leave()

    async def _advance(self, clone: Clone, step: Step, pause_at: Callable[[Step], bool] | None) -> Step | None:
        """Settle, and turn what no clone of this run can survive into a Stop, so that the others settle first."""
        try:
            step = await settle(clone, step, self._world, pause_at=pause_at)
        except RunStoppedError as stopped:
            self.stopped_by = self.stopped_by or stopped
            self._world.stop.request(str(stopped))
            return None
        self._check_failures()
        return step

    def _check_failures(self) -> None:
        most = self._limits.max_failures
        if most is None:
            return
        failed, settled = self._failures()
        if settled >= _ENOUGH_SETTLED and failed > _allowed(most, settled):
            self._world.stop.request(f"{failed} of {settled} settled clones failed, more than max_failures allows")

    def _failures(self) -> tuple[int, int]:
        """Return how many failed, and of how many that settled."""
        counts = self._past.settled
        failed = counts.get(State.FAILED, 0) + counts.get(State.CONFLICT, 0)
        return failed, failed + counts.get(State.CLONED, 0)

    def _is_canary_over(self) -> bool:
        return self._past.canary_passed or self._is_over()

    def _is_over(self) -> bool:
        """Whether nothing more may be started; asks for the Stop when a clone could not end within the deadline."""
        slow = self._world.pace.slow
        if self._deadline is not None and self._world.clock.monotonic() + slow >= self._deadline:
            self._world.stop.request("the deadline is near")
        return self._world.stop.requested


def _ahead(clones: Iterator[Clone | None]) -> Iterator[Clone | None]:
    """Make some at a time: one by one, between calls, each finds the processor's caches full of other things."""
    some: list[Clone | None] = []
    for clone in clones:
        some.append(clone)
        if clone is None or len(some) == _AHEAD:
            yield from some
            some.clear()
    yield from some


def _allowed(most: float, settled: int) -> float:
    return most if most >= 1 else most * settled
