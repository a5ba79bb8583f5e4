"""The rare branches of the engine: each refusal at each place, stops while waiting, and missing things."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.breaker import Breaker, GuardedApi
from batch.engine.clone_records import first_step
from batch.engine.comparison import differing_params
from batch.engine.control import Stop, before_stop
from batch.engine.decisions import after_edit
from batch.engine.dispatch import dispatch
from batch.engine.policy import Policy
from batch.engine.poll_schedule import PollSchedule
from batch.engine.run import clone_all
from batch.engine.settle import settle
from batch.engine.steps import End, Look, LookReason, Poll, Resend, Review, Send, Step, Ticket
from batch.engine.survey import find_unrecorded, survey
from batch.errors import UNANSWERED, CallCutError, EndReason, RunStoppedError, UnreachableError
from batch.manifest.folds import next_intent
from batch.model import Clone, Intent, Limits, Plan, SentJob, State
from batch.zstack.answers import (
    Absent,
    Accepted,
    ApiError,
    Done,
    ErrorClass,
    Found,
    NoAnswer,
    NotSent,
    Refused,
    Running,
    Unknown,
)
from tests.engine.scripted_api import (
    CLONE,
    RESOURCE_UUID,
    GatedApi,
    MemoryJournal,
    MemoryPast,
    ScriptedApi,
    Settlement,
    new_dependencies,
    service,
    settle_scripted,
)
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST = NoAnswer("reset")
MADE = Done(service())
LOOKS = [("find", Absent())] * Policy().looks


def refused(error_class: ErrorClass, *, retries: int | None = None) -> Refused:
    """Return a refusal of that class."""
    return Refused(ApiError(error_class, "SYS.1000", "text", retries))


def settle_fresh(*script: tuple[str, object], policy: Policy | None = None) -> Settlement:
    """Settle a Clone without a record."""
    return settle_scripted(list(script), Send(1), policy=policy)


def state_of(settlement: Settlement) -> State:
    """Return the state it settled in."""
    assert isinstance(settlement.step, End)
    return settlement.step.state


def settled_under(stop: Stop, start: Send | Resend | Review, *, seconds: float = 0.01) -> tuple[object, MemoryJournal]:
    """Settle CLONE from ``start`` with a Stop requested after ``seconds``; nothing may be called."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, journal = Policy(backoff_base=60.0, backoff_cap=60.0), MemoryJournal()
    world = new_dependencies(ScriptedApi([]), journal, clock, policy=policy, stop=stop)

    async def main() -> object:
        asyncio.get_running_loop().call_later(seconds, stop.request, "signal", EndReason.SIGNAL)
        return await settle(CLONE, start, world)

    return run_virtual(loop, main()), journal


TICKET = Ticket(2, "b" * 32, EPOCH, EPOCH, EPOCH + 60)


def test_a_stop_ends_the_wait_between_polls_of_an_earlier_job() -> None:
    """After a 404 about it the next poll is left to the next process."""
    step = Review(Look(TICKET, LookReason.ENDED), ("a" * 32,), is_visible=True, misses=3)
    assert settled_under(Stop(), step) == (step, MemoryJournal())


def test_a_stop_ends_the_wait_before_a_further_attempt() -> None:
    """Backing off before attempt 2 is cut short, and nothing is recorded or sent."""
    step = Send(2, None, EPOCH, End(State.UNCERTAIN, 1))
    assert settled_under(Stop(), step) == (step, MemoryJournal())


def test_a_stop_ends_the_wait_before_a_repetition_and_returns_the_attempt() -> None:
    """No byte of it was sent: the attempt is planned again."""
    step, journal = settled_under(Stop(), Resend(TICKET, 3))
    assert isinstance(step, Send)
    assert (step.attempt, step.job_uuid) == (2, None)
    assert [(record.state, record.attempt) for record in journal.records] == [(State.PLANNED, 1)]


def test_a_stop_returns_no_attempt_whose_job_uuid_was_sent_before() -> None:
    """The first sending may have been executed: the attempt stays recorded as it is."""
    step = Resend(TICKET._replace(is_repeat=True), 3)
    assert settled_under(Stop(), step) == (step, MemoryJournal())


def test_a_fatal_job_error_stops_the_run_without_a_lookup() -> None:
    """The job's own error stops the run, with the attempt as that error left it."""
    fatal = ApiError(ErrorClass.FATAL, "ID.1000", "text")
    look = Look(TICKET, LookReason.STOPPED, fatal)
    with pytest.raises(RunStoppedError, match="ID.1000"):
        settle_scripted([("find", LOST)] * Policy().max_failed_looks, look)


@pytest.mark.parametrize("is_same_uuid", [True, False])
def test_an_edited_target_is_never_sent_under_an_old_job_uuid(*, is_same_uuid: bool) -> None:
    """With the same resourceUuid the old job stays open beside the new one; with another it starts anew."""
    step = Send(2, "b" * 32, EPOCH, End(State.UNCERTAIN, 1), open_jobs=("c" * 32,))
    edited = after_edit(step, is_same_uuid=is_same_uuid)
    assert (edited.attempt, edited.job_uuid) == (2, None)
    assert edited.open_jobs == (("c" * 32, "b" * 32) if is_same_uuid else ())
    assert edited.is_mixed is is_same_uuid


@pytest.mark.parametrize("first", [Accepted(None), LOST], ids=["accepted", "not answered"])
def test_a_stop_after_a_dead_session_leaves_the_old_job_open(first: object) -> None:
    """A request that reached the server twice may have made a clone although its end is a dead session."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, stop = Policy(), Stop()
    journal = MemoryJournal(
        before_commit=lambda record: stop.request("signal", EndReason.SIGNAL) if record.at > EPOCH else None
    )
    script = [
        ("submit", first),
        ("poll", refused(ErrorClass.RENEW)),
        ("renew", None),
        ("submit", NotSent("stopped", is_held_back=True)),
    ]
    world = new_dependencies(ScriptedApi(script), journal, clock, policy=policy, stop=stop)
    step = run_virtual(loop, settle(CLONE, Send(1), world))
    assert isinstance(step, Send)
    first_sent, second_sent = (record for record in journal.records if record.state is State.SENT)
    last = journal.records[-1]
    assert (last.state, last.attempt) == (State.PLANNED, 0)
    assert last.open_jobs == second_sent.open_jobs == (first_sent.job_uuid,)
    intent = functools.reduce(next_intent, journal.records, None)
    assert intent is not None
    again = first_step(intent, policy, now=EPOCH)
    assert isinstance(again, Poll)
    assert again.ticket.job_uuid == first_sent.job_uuid


def test_a_stop_requested_before_leaves_no_wait() -> None:
    """A sleep after the request returns at once."""
    stop, calls = Stop(), []
    stop.on_request(lambda: calls.append("hook"))
    stop.request("one", EndReason.SIGNAL)
    stop.request("two", EndReason.SIGNAL)
    loop = VirtualLoop()
    run_virtual(loop, stop.sleep(60.0))
    assert (loop.now, stop.reason, calls) == (0.0, "one", ["hook"])


def test_a_post_refused_as_fatal_stops_the_run() -> None:
    """Nothing was executed: the attempt is returned."""
    with pytest.raises(RunStoppedError):
        settle_fresh(("submit", refused(ErrorClass.FATAL)))


def test_a_lookup_refused_as_fatal_stops_the_run() -> None:
    """The credentials ended while the clone was looked up."""
    with pytest.raises(RunStoppedError):
        settle_fresh(("submit", LOST), ("poll", Unknown()), ("find", refused(ErrorClass.FATAL)))


def test_a_post_refused_for_its_session_is_sent_under_a_new_one() -> None:
    """A gateway's 401 charges nothing: log in, new job uuid, same attempt."""
    settlement = settle_fresh(("submit", refused(ErrorClass.RENEW)), ("renew", None), ("submit", MADE))
    assert state_of(settlement) is State.CLONED
    assert [(record.state, record.attempt) for record in settlement.records] == [
        (State.SENT, 1),
        (State.PLANNED, 0),
        (State.SENT, 1),
        (State.CLONED, 1),
    ]


def test_a_post_refused_temporarily_is_sent_again() -> None:
    """Not executed and not visible: another attempt."""
    settlement = settle_fresh(("submit", refused(ErrorClass.TRANSIENT)), ("find", Absent()), ("submit", MADE))
    assert (state_of(settlement), settlement.records[-1].attempt) == (State.CLONED, 2)


def test_an_ambiguous_refusal_of_the_post_is_reconciled() -> None:
    """A 500 to the POST may have been executed: its job is polled and its uuid looked up before it is sent again."""
    settlement = settle_fresh(("submit", refused(ErrorClass.AMBIGUOUS)), ("poll", Unknown()), *LOOKS, ("submit", MADE))
    assert (state_of(settlement), settlement.kinds.count("submit")) == (State.CLONED, 2)


def test_a_failure_is_uncertain_if_the_account_may_not_look() -> None:
    """The job failed, but a request that arrived twice has two ends: failed needs a last lookup."""
    denied = refused(ErrorClass.PERMANENT, retries=0)
    assert state_of(settle_fresh(("submit", Accepted(None)), ("poll", denied), ("find", denied))) is State.UNCERTAIN


def test_an_overdue_job_that_was_never_confirmed_keeps_its_uuid() -> None:
    """A job without a definite end whose poll has no answer past the deadline is sent again as it was."""
    at = EPOCH - 3000.0
    past = Intent("a", State.UNCERTAIN, CLONE.source_uuid, RESOURCE_UUID, CLONE.digest, 1, "b" * 32, at, at)
    settlement = settle_scripted([("poll", LOST), *LOOKS, ("submit", MADE)], first_step(past, Policy(), now=EPOCH))
    assert settlement.jobs == ["b" * 32]


def test_the_sending_process_never_calls_an_unanswered_post_failed() -> None:
    """A clock that jumps ahead makes a fresh POST look old; only a later process may call it dead."""
    old = Ticket(4, "b" * 32, EPOCH - 90_000, EPOCH - 90_000, EPOCH + 60)
    settlement = settle_scripted([("poll", Unknown()), *LOOKS], Poll(old, at_once=True))
    assert state_of(settlement) is State.UNCERTAIN


def test_a_returned_attempt_leaves_those_before_it_in_doubt() -> None:
    """The last one ended unexecuted and is not charged: its job is polled again, then its clone is looked up."""
    open_jobs = ("b" * 32,)
    past = Intent(
        "a", State.PLANNED, CLONE.source_uuid, RESOURCE_UUID, CLONE.digest, 1, None, EPOCH, EPOCH, open_jobs=open_jobs
    )
    past = replace(past, sent_jobs=(SentJob("b" * 32, CLONE.digest, 2),))
    step = first_step(past, Policy(), now=EPOCH)
    assert isinstance(step, Poll)
    assert (step.ticket.attempt, step.ticket.job_uuid, step.ticket.is_answered) == (2, "b" * 32, False)
    past = replace(past, open_jobs=())
    assert first_step(past, Policy(), now=EPOCH) == Send(2)
    unanswered = first_step(replace(past, error_code=UNANSWERED), Policy(), now=EPOCH)
    assert unanswered == Send(2, has_predecessor=True, has_unanswered=True)
    assert first_step(replace(past, attempt=0), Policy(), now=EPOCH) == Send(1)


def settle_removed(script: list[tuple[str, object]]) -> tuple[Step, MemoryJournal]:
    """Settle a clone that was accepted before its target left the job file."""
    gone = Clone(CLONE.key, CLONE.source_uuid, RESOURCE_UUID, b"", CLONE.digest)
    past = Intent(
        "a", State.ACCEPTED, CLONE.source_uuid, RESOURCE_UUID, CLONE.digest, 1, "b" * 32, EPOCH, EPOCH, EPOCH + 60
    )
    past = replace(past, is_answered=True)
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, journal = Policy(), MemoryJournal()
    world = new_dependencies(ScriptedApi(script), journal, clock, policy=policy)
    step = run_virtual(loop, settle(gone, first_step(past, policy, now=EPOCH), world))
    assert script == []
    return step, journal


DEAD: Refused = Refused(ApiError(ErrorClass.RENEW, "ID.1001", "text", None))
DEAD_SESSION: list[tuple[str, object]] = [("poll", Running()), ("poll", DEAD), ("renew", None)]


@pytest.mark.parametrize(
    "script",
    [
        [*DEAD_SESSION, ("find", Absent())],
        [("poll", Running()), ("poll", refused(ErrorClass.TRANSIENT)), ("find", Absent())],
    ],
    ids=["its session died", "it failed"],
)
def test_a_removed_target_is_never_sent(script: list[tuple[str, object]]) -> None:
    """Its row is gone and with it the body: it is only queried, and planned again with its attempts."""
    step, journal = settle_removed([*script])
    assert isinstance(step, Send)
    assert {record.state for record in journal.records} == {State.PLANNED}


def test_a_removed_target_is_looked_up_after_a_dead_session() -> None:
    """Its job was not executed: what is visible may be someone else's."""
    step, journal = settle_removed([*DEAD_SESSION, ("find", Found(service()))])
    assert isinstance(step, End)
    assert [record.state for record in journal.records] == [State.PLANNED, State.UNCERTAIN]


def test_a_service_of_another_uuid_is_no_match() -> None:
    """Whatever else it shows."""
    assert differing_params(CLONE, service("f" * 32)) == ["uuid"]
    assert differing_params(CLONE, service()) == []


def polls(loop: VirtualLoop) -> PollSchedule:
    """Return a schedule without a gate, for answers that come at once."""
    return PollSchedule(VirtualClock(loop, Random(1)), lambda: None)


def test_a_call_held_back_does_not_count_as_a_failure() -> None:
    """However many the run itself turns away, the breaker stays closed."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))
    breaker = Breaker(clock, Stop())
    api = GuardedApi(ScriptedApi([("submit", NotSent("stopped", is_held_back=True))] * 60), breaker, polls(loop))

    async def main() -> None:
        for _ in range(60):
            await api.submit(CLONE, "b" * 32)

    run_virtual(loop, main())
    assert not breaker.is_open


OVER_LIMIT = NotSent("HTTP 429: Rate limit exceeded", is_over_limit=True)


def test_a_refusal_of_the_servers_limiter_is_no_outage() -> None:
    """However many it refuses, that is no outage; after one, and at a lookup before a POST, a refusal ends it."""
    loop = VirtualLoop()
    breaker = Breaker(VirtualClock(loop, Random(1)), Stop())
    refused = [("submit", OVER_LIMIT)] * 60
    away = [("submit", NotSent("refused"))] * 10
    api = GuardedApi(ScriptedApi([*refused, *away, ("find", OVER_LIMIT)]), breaker, polls(loop))

    async def main() -> object:
        for _ in refused:
            assert await api.submit(CLONE, "b" * 32) == OVER_LIMIT
            assert not breaker.is_open
        for _ in away:
            await api.submit(CLONE, "b" * 32)
        assert breaker.is_open
        return await api.submit(CLONE, "b" * 32)

    assert run_virtual(loop, main()) == OVER_LIMIT
    assert not breaker.is_open


@pytest.mark.parametrize("is_away", [False, True])
@pytest.mark.parametrize("kind", ["poll", "find"])
def test_a_cut_query_is_no_answer(kind: str, is_away: bool) -> None:  # noqa: FBT001 - a parameter
    """A poll or lookup whose wait at the gate was cut raises, so that nothing is decided on it, in an outage too."""
    loop = VirtualLoop()
    breaker = Breaker(VirtualClock(loop, Random(1)), Stop())
    lost = [("submit", NotSent("refused"))] * (10 * is_away)
    api = GuardedApi(ScriptedApi([*lost, (kind, NotSent("stopped", is_held_back=True))]), breaker, polls(loop))

    async def main() -> None:
        for _ in lost:
            await api.submit(CLONE, "b" * 32)
        assert breaker.is_open is is_away
        with pytest.raises(CallCutError, match="stopped"):
            await (api.poll("b" * 32) if kind == "poll" else api.find(CLONE.resource_uuid))

    run_virtual(loop, main())


def test_work_without_a_clone_in_flight_ends_with_the_stop() -> None:
    """``before_stop`` gives the work's result, raises its error, and cancels it at the stop."""
    loop = VirtualLoop()

    async def work(seconds: float, error: Exception | None = None) -> str:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return "done"

    async def main() -> None:
        stop = Stop()
        loop.call_later(10, stop.request, "SIGTERM", EndReason.SIGNAL)
        assert await before_stop(work(1), stop) == "done"
        with pytest.raises(UnreachableError):
            await before_stop(work(1, UnreachableError("away")), stop)
        assert await before_stop(work(100), stop) is None
        assert loop.now == 10
        # A call that the stop cut is reported as an error; a foreign error is raised all the same.
        assert await before_stop(work(0, UnreachableError("cut")), stop) is None

    run_virtual(loop, main())


def test_a_lookup_tests_whether_the_server_is_back_before_a_post() -> None:
    """While the server is away a lookup precedes each POST, which is sent only after its answer."""
    loop = VirtualLoop()
    breaker = Breaker(VirtualClock(loop, Random(1)), Stop())
    away = [("submit", NotSent("refused"))] * 10 + [("find", NoAnswer("silence"))]
    api = GuardedApi(ScriptedApi([*away, ("find", Absent()), ("submit", Accepted(None))]), breaker, polls(loop))

    async def main() -> list[object]:
        return [await api.submit(CLONE, "b" * 32) for _ in range(12)]

    assert run_virtual(loop, main())[10:] == [NotSent("silence"), Accepted(None)]
    assert not breaker.is_open


def test_what_waits_its_turn_is_sent_at_once_when_the_server_is_back() -> None:
    """The look of the first POST has shown it: those behind it ask nothing."""
    loop = VirtualLoop()
    breaker = Breaker(VirtualClock(loop, Random(1)), Stop())
    away: list[tuple[str, object]] = [("submit", NotSent("refused"))] * 10
    api = ScriptedApi([*away, ("find", Absent()), ("submit", Accepted(None)), ("submit", Accepted(None))])
    guarded = GuardedApi(api, breaker, polls(loop))

    async def main() -> list[object]:
        for _ in away:
            await guarded.submit(CLONE, "a" * 32)
        return list(await asyncio.gather(guarded.submit(CLONE, "b" * 32), guarded.submit(CLONE, "c" * 32)))

    assert run_virtual(loop, main()) == [Accepted(None), Accepted(None)]


@pytest.mark.parametrize("is_behind_a_poll", [False, True])
def test_a_stop_takes_back_a_post_that_waits_for_the_server(*, is_behind_a_poll: bool) -> None:
    """Nothing of it left: neither the server nor the end of the grace period is waited for."""
    loop = VirtualLoop()
    clock, stop, journal = VirtualClock(loop, Random(1)), Stop(), MemoryJournal()
    script: list[tuple[str, object]] = [("submit", NotSent("refused"))] * 10
    guarded = GuardedApi(ScriptedApi(script), Breaker(clock, stop), polls(loop))
    world = replace(new_dependencies(ScriptedApi([]), journal, clock, stop=stop), api=guarded)

    async def main() -> Step:
        for _ in range(10):
            await guarded.submit(CLONE, "a" * 32)
        # A poll has the turn, and waits longer than the clone has.
        poll = asyncio.ensure_future(guarded.poll("b" * 32)) if is_behind_a_poll else None
        await asyncio.sleep(0)
        loop.call_later(1.0, stop.request, "SIGINT", EndReason.SIGNAL)
        step = await settle(CLONE, Send(1), world)
        if poll is not None:
            poll.cancel()
        return step

    assert isinstance(run_virtual(loop, main()), Send)
    assert loop.now == 1.0
    assert [record.state for record in journal.records] == [State.SENT, State.PLANNED]


def test_what_stops_the_run_before_a_post_leaves_takes_it_back() -> None:
    """As when an outage is over its deadline; unless its job uuid was sent before."""
    loop = VirtualLoop()
    clock, journal = VirtualClock(loop, Random(1)), MemoryJournal()
    world = new_dependencies(ScriptedApi([("submit", RunStoppedError("away"))]), journal, clock)
    with pytest.raises(RunStoppedError, match="away"):
        run_virtual(loop, settle(CLONE, Send(1), world))
    assert [record.state for record in journal.records] == [State.SENT, State.PLANNED]
    # So where the node stays unready while a POST that never left waits to be repeated.
    again, journal = VirtualLoop(), MemoryJournal()
    world = new_dependencies(ScriptedApi([]), journal, VirtualClock(again, Random(1)))
    for _ in range(3):
        world.readiness.note(refused(ErrorClass.NODE), sent_at=EPOCH)

    async def never_ready() -> Step:
        await asyncio.sleep(2000.0)
        return await settle(CLONE, Resend(TICKET, 1, is_limited=True), world)

    with pytest.raises(RunStoppedError):
        run_virtual(again, never_ready())
    assert [record.state for record in journal.records] == [State.PLANNED]
    again, journal = VirtualLoop(), MemoryJournal()
    clock = VirtualClock(again, Random(1))
    world = new_dependencies(ScriptedApi([("submit", RunStoppedError("away"))]), journal, clock)
    with pytest.raises(RunStoppedError, match="away"):
        run_virtual(again, settle(CLONE, Resend(TICKET._replace(is_repeat=True), 1), world))
    assert [record.state for record in journal.records if record.state is State.PLANNED] == []


def test_a_gap_in_the_queue_lets_others_run() -> None:
    """None among the items is no item: waiters come first, and the pool continues."""
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(seen.append, "other")

        async def work(item: str) -> None:
            seen.append(item)

        await dispatch(iter([None, None, "item"]), work, workers=1, is_stopped=lambda: False)

    run_virtual(VirtualLoop(), main())
    assert seen == ["other", "item"]


def test_an_unreadable_plan_requests_the_stop() -> None:
    """What was made before settles, nothing more is begun, and the reason is raised."""
    journal, stop = MemoryJournal(), Stop()
    past = MemoryPast(journal)
    planned = [Clone(f"k{n}", "0" * 32, RESOURCE_UUID, b"{}", "0" * 32, CLONE.params) for n in range(40)]

    def clones() -> Iterator[Clone]:
        yield from planned
        raise OSError("rows.jsonl is gone")

    plan = Plan("job", "default", "0" * 32, len(planned), clones)
    answers: list[tuple[str, object]] = [("submit", Done(service()))] * len(planned)
    with pytest.raises(OSError, match="rows.jsonl is gone"):
        run_plan(plan, answers, past, journal, limits=Limits(), stop=stop)
    assert stop.reason == "rows.jsonl is gone"
    assert past.settled_counts[State.CLONED] == len(planned)


async def test_items_that_break_off_cancel_no_work() -> None:
    """A failing iterator ends the pool only after the work under way is done, and no more is begun."""
    begun, done = list[int](), list[int]()

    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("gone")

    async def work(item: int) -> None:
        begun.append(item)
        for _ in range(5 * item):
            await asyncio.sleep(0)
        done.append(item)

    with pytest.raises(OSError, match="gone"):
        await dispatch(items(), work, workers=3, is_stopped=lambda: False)
    assert sorted(begun) == sorted(done) == [0, 1, 2]


def test_a_long_search_for_open_targets_yields() -> None:
    """Among many settled targets the stream pauses now and then."""
    planned = [Clone(f"k{n}", "0" * 32, f"{n:032x}", b"{}", "0" * 32) for n in range(1200)]

    class Settled(MemoryPast):
        def final(self, key: str) -> tuple[State, int] | None:
            return (State.CLONED, 0) if key != "k1199" else None

        @property
        def settled_counts(self) -> dict[State, int]:
            return {State.CLONED: 1199}

    plan = Plan("job", "default", "0" * 32, len(planned), lambda: iter(planned))
    found: Iterator[Clone | None] = find_unrecorded(plan, Settled(MemoryJournal()), frozenset())
    assert list(found) == [None, None, planned[-1]]


def run_plan(
    plan: Plan,
    script: list[tuple[str, object]],
    past: MemoryPast,
    journal: MemoryJournal,
    *,
    limits: Limits,
    stop: Stop,
    at_most_once: bool = False,
) -> None:
    """Run ``plan`` over scripted answers, in virtual time."""
    loop = VirtualLoop()
    gate = virtual_gate(10_000.0, loop)
    run_virtual(
        loop,
        clone_all(
            plan,
            survey(plan, past),
            api=GatedApi(ScriptedApi(script), gate),
            journal=journal,
            past=past,
            clock=VirtualClock(loop, Random(3)),
            limits=limits,
            stop=stop,
            polls=gate.polls,
            at_most_once=at_most_once,
        ),
    )


def run_over(script: list[tuple[str, object]], count: int, *, at_most_once: bool, limits: Limits) -> MemoryPast:
    """Run scripted answers to ``count`` clones, each with CLONE's resource uuid."""
    planned = [Clone(f"k{n}", "0" * 32, RESOURCE_UUID, b"{}", "0" * 32, CLONE.params) for n in range(count)]
    plan = Plan("job", "default", "0" * 32, count, lambda: iter(planned))
    journal = MemoryJournal()
    past = MemoryPast(journal)
    run_plan(plan, script, past, journal, limits=limits, stop=Stop(), at_most_once=at_most_once)
    return past


def test_at_most_once_needs_no_canary() -> None:
    """Without protection by the resource uuid the first clone proves nothing: all start at once."""
    script: list[tuple[str, object]] = [("submit", LOST), ("submit", LOST), ("poll", MADE), ("poll", MADE)]
    past = run_over(script, 2, at_most_once=True, limits=Limits(concurrency=2))
    assert past.counts == {State.CLONED: 2}


def test_failures_within_max_failures_do_not_stop_the_run() -> None:
    """Ten settled, one failed of two allowed: the rest is sent."""
    no = ("submit", refused(ErrorClass.PERMANENT, retries=0))
    past = run_over(
        [("submit", MADE), no, ("find", Absent()), *[("submit", MADE)] * 12],
        14,
        at_most_once=False,
        limits=Limits(concurrency=1, max_failures=2),
    )
    assert past.counts == {State.CLONED: 13, State.FAILED: 1}


def test_a_dead_session_in_a_run_is_renewed_through_the_breaker() -> None:
    """Renewing is no call the breaker judges."""
    script: list[tuple[str, object]] = [("submit", refused(ErrorClass.RENEW)), ("renew", None), ("submit", MADE)]
    assert run_over(script, 1, at_most_once=False, limits=Limits()).counts == {State.CLONED: 1}
