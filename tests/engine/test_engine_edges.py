"""The rare branches of the engine: each refusal at each place, stops while waiting, and what is not there."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine.breaker import Breaker, GuardedApi
from batch.engine.budget import RetryBudget
from batch.engine.dispatch import dispatch
from batch.engine.match import differences
from batch.engine.pace import PollPace
from batch.engine.policy import Policy
from batch.engine.run import _ahead, clone_all
from batch.engine.settle import World, first_step, settle
from batch.engine.steps import End, Poll, Resend, Send, Step, Ticket
from batch.engine.stop import Stop
from batch.engine.survey import fresh, survey
from batch.errors import RunStoppedError
from batch.manifest.intents import follow
from batch.model import Clone, Intent, Limits, Plan, State
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
from tests.engine.world import CLONE, MemoryJournal, MemoryPast, R, ScriptedApi, Told, service, tell
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

LOST = NoAnswer("reset")
MADE = Done(service())
LOOKS = [("find", Absent())] * Policy().looks


def refused(klass: ErrorClass, *, retries: int | None = None) -> Refused:
    """A refusal of that class."""
    return Refused(ApiError(klass, "SYS.1000", "text", retries))


def fresh_tale(*script: tuple[str, object], policy: Policy | None = None) -> Told:
    """Settle a Clone nothing was recorded of."""
    return tell(list(script), Send(1), policy=policy)


def told(tale: Told) -> State:
    """The state it settled in."""
    assert isinstance(tale.step, End)
    return tale.step.state


def settled_under(stop: Stop, start: Send | Resend, *, seconds: float = 0.01) -> tuple[object, MemoryJournal]:
    """Settle CLONE from ``start`` with a Stop asked for after ``seconds``; nothing may be called."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, journal = Policy(backoff_base=60.0, backoff_cap=60.0), MemoryJournal()
    world = World(ScriptedApi([]), journal, clock, policy, stop, PollPace(policy, clock), RetryBudget(clock))

    async def main() -> object:
        asyncio.get_running_loop().call_later(seconds, stop.request, "signal")
        return await settle(CLONE, start, world)

    return run_virtual(loop, main()), journal


TICKET = Ticket(2, "b" * 32, EPOCH, EPOCH, EPOCH + 60)


def test_a_stop_ends_the_wait_before_a_further_attempt() -> None:
    """Backing off before attempt 2 is cut short, and nothing is recorded or sent."""
    step = Send(2, None, EPOCH, End(State.UNCERTAIN, 1))
    assert settled_under(Stop(), step) == (step, MemoryJournal())


def test_a_stop_ends_the_wait_before_a_repetition_and_returns_the_attempt() -> None:
    """No byte of it had left: the attempt is planned again."""
    step, journal = settled_under(Stop(), Resend(TICKET, 3))
    assert step == Send(2)
    assert [(record.state, record.attempt) for record in journal.records] == [(State.PLANNED, 1)]


@pytest.mark.parametrize("first", [Accepted(None), LOST], ids=["accepted", "not answered"])
def test_a_stop_after_a_dead_session_leaves_the_old_job_to_ask_about(first: object) -> None:
    """A request that reached the server twice may have made a clone though the end it tells is that of the session."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, stop = Policy(), Stop()
    journal = MemoryJournal(before_commit=lambda record: stop.request("signal") if record.at > EPOCH else None)
    script = [
        ("submit", first),
        ("poll", refused(ErrorClass.RENEW)),
        ("renew", None),
        ("submit", NotSent("stopped", is_held_back=True)),
    ]
    world = World(ScriptedApi(script), journal, clock, policy, stop, PollPace(policy, clock), RetryBudget(clock))
    step = run_virtual(loop, settle(CLONE, Send(1), world))
    assert isinstance(step, Send)
    first_sent, second_sent = (record for record in journal.records if record.state is State.SENT)
    last = journal.records[-1]
    assert (last.state, last.attempt) == (State.ACCEPTED, 1)
    assert last.job_uuid == first_sent.job_uuid != second_sent.job_uuid
    intent = functools.reduce(follow, journal.records, None)
    assert intent is not None
    again = first_step(intent, policy)
    assert isinstance(again, Poll)
    assert again.ticket.job_uuid == first_sent.job_uuid


def test_a_stop_asked_for_before_leaves_no_wait() -> None:
    """Whoever wants to sleep after the request does not."""
    stop, asked = Stop(), []
    stop.on_request(lambda: asked.append("hook"))
    stop.request("one")
    stop.request("two")
    loop = VirtualLoop()
    run_virtual(loop, stop.sleep(60.0))
    assert (loop.now, stop.reason, asked) == (0.0, "one", ["hook"])


def test_a_post_refused_as_fatal_stops_the_run() -> None:
    """Nothing was executed: the attempt is returned."""
    with pytest.raises(RunStoppedError):
        fresh_tale(("submit", refused(ErrorClass.FATAL)))


def test_a_look_refused_as_fatal_stops_the_run() -> None:
    """The credentials ended while the clone was looked for."""
    with pytest.raises(RunStoppedError):
        fresh_tale(("submit", LOST), ("poll", Unknown()), ("find", refused(ErrorClass.FATAL)))


def test_a_post_refused_for_its_session_is_sent_under_a_new_one() -> None:
    """A gateway's 401 charges nothing: log in, new J, same attempt."""
    tale = fresh_tale(("submit", refused(ErrorClass.RENEW)), ("renew", None), ("submit", MADE))
    assert told(tale) is State.CLONED
    assert {record.attempt for record in tale.records} == {1}


def test_a_post_refused_for_a_moment_is_sent_again() -> None:
    """Not executed, so no look is needed."""
    tale = fresh_tale(("submit", refused(ErrorClass.TRANSIENT)), ("submit", MADE))
    assert (told(tale), tale.records[-1].attempt) == (State.CLONED, 2)


def test_an_ambiguous_refusal_of_the_post_is_asked_about() -> None:
    """A 500 to the POST may have been executed: its job is polled, R is looked for, and only then it is sent again."""
    tale = fresh_tale(("submit", refused(ErrorClass.AMBIGUOUS)), ("poll", Unknown()), *LOOKS, ("submit", MADE))
    assert (told(tale), tale.kinds.count("submit")) == (State.CLONED, 2)


def test_a_failure_stays_one_where_the_account_may_not_look() -> None:
    """The job failed for good; a denied look takes nothing away from that."""
    denied = refused(ErrorClass.PERMANENT, retries=0)
    assert told(fresh_tale(("submit", Accepted(None)), ("poll", denied), ("find", denied))) is State.FAILED


def test_an_overdue_job_nobody_admitted_keeps_its_uuid() -> None:
    """J has had no definite end: where its poll has no answer past the deadline it is sent again as it was."""
    at = EPOCH - 3000.0
    past = Intent("a", State.UNCERTAIN, CLONE.source_uuid, R, CLONE.digest, 1, "b" * 32, at, at)
    tale = tell([("poll", LOST), *LOOKS, ("submit", MADE)], first_step(past, Policy()))
    assert tale.jobs == ["b" * 32]


def test_the_sender_itself_never_calls_an_unanswered_post_failed() -> None:
    """A clock that jumps ahead makes a fresh POST look old; only a later process may call it dead."""
    old = Ticket(4, "b" * 32, EPOCH - 90_000, EPOCH - 90_000, EPOCH + 60)
    tale = tell([("poll", Unknown()), *LOOKS], Poll(old, at_once=True))
    assert told(tale) is State.UNCERTAIN


def test_an_attempt_that_was_returned_leaves_those_before_it_in_doubt() -> None:
    """The last was never sent, but the one before it may be under way: its J is asked, then R is looked for."""
    past = Intent("a", State.PLANNED, CLONE.source_uuid, R, CLONE.digest, 1, "b" * 32, EPOCH, EPOCH)
    step = first_step(past, Policy())
    assert isinstance(step, Poll)
    assert (step.ticket.attempt, step.ticket.job_uuid, step.ticket.answered) == (1, "b" * 32, False)
    assert first_step(replace(past, attempt=0), Policy()) == Send(1)


def tell_of_one_that_left(script: list[tuple[str, object]]) -> tuple[Step, MemoryJournal]:
    """A clone that was accepted before its target left the job file."""
    gone = Clone(CLONE.key, CLONE.source_uuid, R, b"", CLONE.digest)
    past = Intent("a", State.ACCEPTED, CLONE.source_uuid, R, CLONE.digest, 1, "b" * 32, EPOCH, EPOCH, EPOCH + 60)
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    policy, journal = Policy(), MemoryJournal()
    world = World(ScriptedApi(script), journal, clock, policy, Stop(), PollPace(policy, clock), RetryBudget(clock))
    step = run_virtual(loop, settle(gone, first_step(past, policy), world))
    assert script == []
    return step, journal


DEAD_SESSION: list[tuple[str, object]] = [("poll", Running()), ("poll", refused(ErrorClass.RENEW)), ("renew", None)]


@pytest.mark.parametrize(
    "script",
    [
        [*DEAD_SESSION, *LOOKS],
        [("poll", Running()), ("poll", refused(ErrorClass.TRANSIENT)), ("find", Absent())],
    ],
    ids=["its session died", "it failed"],
)
def test_what_left_the_job_file_is_never_sent(script: list[tuple[str, object]]) -> None:
    """Its row is gone and with it the body: whatever its job came to, only questions are asked."""
    step, journal = tell_of_one_that_left([*script])
    assert isinstance(step, Send)
    assert journal.records == []


def test_what_left_the_job_file_is_looked_for_when_its_session_died() -> None:
    """It cannot be sent again, but its clone may be there."""
    step, journal = tell_of_one_that_left([*DEAD_SESSION, ("find", Found(service()))])
    assert isinstance(step, End)
    assert [record.state for record in journal.records] == [State.CLONED]


def test_a_service_of_another_uuid_is_no_match() -> None:
    """Whatever else it shows."""
    assert differences(CLONE, service("f" * 32)) == ["uuid"]
    assert differences(CLONE, service()) == []


def test_a_call_held_back_says_nothing_about_the_server() -> None:
    """However many the run itself turns away, the breaker stays closed."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(1))
    breaker = Breaker(clock)
    api = GuardedApi(ScriptedApi([("submit", NotSent("stopped", is_held_back=True))] * 60), breaker)

    async def main() -> None:
        for _ in range(60):
            await api.submit(CLONE, "b" * 32)

    run_virtual(loop, main())
    assert not breaker.is_open


def test_no_post_asks_whether_the_server_is_back() -> None:
    """While the server is away a look goes ahead of each POST, which leaves only once that was answered."""
    loop = VirtualLoop()
    breaker = Breaker(VirtualClock(loop, Random(1)))
    away = [("submit", NotSent("refused"))] * 10 + [("find", NoAnswer("silence"))]
    api = GuardedApi(ScriptedApi([*away, ("find", Absent()), ("submit", Accepted(None))]), breaker)

    async def main() -> list[object]:
        return [await api.submit(CLONE, "b" * 32) for _ in range(12)]

    assert run_virtual(loop, main())[10:] == [NotSent("silence"), Accepted(None)]
    assert not breaker.is_open


def test_a_gap_in_the_queue_lets_others_run() -> None:
    """None among the items is no item: whoever waits comes first, and the pool goes on."""
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(seen.append, "other")

        async def work(item: str) -> None:
            seen.append(item)

        await dispatch(iter([None, None, "item"]), work, workers=1, is_stopped=lambda: False)

    run_virtual(VirtualLoop(), main())
    assert seen == ["other", "item"]


def test_what_is_made_ahead_gives_way_too() -> None:
    """Pauses of the stream are passed on where they come, and nothing is lost or put in another order."""
    made: list[Clone | None] = [CLONE._replace(key=str(number)) for number in range(100)]
    stream = [*made[:5], None, None, *made[5:80], None, *made[80:]]
    taken = list[Clone | None]()

    def source() -> Iterator[Clone | None]:
        for clone in stream:
            taken.append(clone)
            yield clone

    ahead = _ahead(source())
    assert [next(ahead) for _ in range(6)] == stream[:6]
    assert len(taken) == 6
    assert list(ahead) == stream[6:]


def test_a_plan_that_cannot_be_read_on_asks_for_the_stop() -> None:
    """What was made before settles, nothing more is begun, and the reason is raised."""
    journal, stop = MemoryJournal(), Stop()
    past = MemoryPast(journal)
    planned = [Clone(f"k{n}", "0" * 32, R, b"{}", "0" * 32, CLONE.params) for n in range(40)]

    def clones() -> Iterator[Clone]:
        yield from planned
        raise OSError("rows.jsonl is gone")

    plan = Plan("job", "default", "0" * 32, len(planned), clones)
    answers: list[tuple[str, object]] = [("submit", Done(service()))] * len(planned)
    with pytest.raises(OSError, match="rows.jsonl is gone"):
        run_plan(plan, answers, past, journal, limits=Limits(), stop=stop)
    assert stop.reason == "rows.jsonl is gone"
    assert past.settled[State.CLONED] == 32


async def test_items_that_break_off_take_no_work_along() -> None:
    """What cannot be read on ends the pool only after the work under way is done, and no more is begun."""
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


def test_a_long_search_for_what_is_left_gives_way() -> None:
    """Among many settled targets the stream pauses now and then."""
    planned = [Clone(f"k{n}", "0" * 32, f"{n:032x}", b"{}", "0" * 32) for n in range(1200)]

    class Settled(MemoryPast):
        def final(self, key: str) -> tuple[State, int] | None:
            return (State.CLONED, 0) if key != "k1199" else None

        @property
        def settled(self) -> dict[State, int]:
            return {State.CLONED: 1199}

    plan = Plan("job", "default", "0" * 32, len(planned), lambda: iter(planned))
    found: Iterator[Clone | None] = fresh(plan, Settled(MemoryJournal()), frozenset())
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
    """A run of ``plan`` over scripted answers, in virtual time."""
    loop = VirtualLoop()
    run_virtual(
        loop,
        clone_all(
            plan,
            survey(plan, past),
            api=ScriptedApi(script),
            journal=journal,
            past=past,
            clock=VirtualClock(loop, Random(3)),
            limits=limits,
            stop=stop,
            at_most_once=at_most_once,
        ),
    )


def run_over(script: list[tuple[str, object]], count: int, *, at_most_once: bool, limits: Limits) -> MemoryPast:
    """A run over scripted answers to ``count`` clones, each with CLONE's R."""
    planned = [Clone(f"k{n}", "0" * 32, R, b"{}", "0" * 32, CLONE.params) for n in range(count)]
    plan = Plan("job", "default", "0" * 32, count, lambda: iter(planned))
    journal = MemoryJournal()
    past = MemoryPast(journal)
    run_plan(plan, script, past, journal, limits=limits, stop=Stop(), at_most_once=at_most_once)
    return past


def test_at_most_once_needs_no_canary() -> None:
    """Where R protects nothing there is nothing to prove with the first clone: all start at once."""
    script: list[tuple[str, object]] = [("submit", LOST), ("submit", LOST), ("poll", MADE), ("poll", MADE)]
    past = run_over(script, 2, at_most_once=True, limits=Limits(concurrency=2))
    assert past.counts == {State.CLONED: 2}


def test_failures_within_max_failures_do_not_stop_the_run() -> None:
    """Ten settled, one failed of two allowed: the rest is sent."""
    no = ("submit", refused(ErrorClass.PERMANENT, retries=0))
    past = run_over(
        [("submit", MADE), no, *[("submit", MADE)] * 12],
        14,
        at_most_once=False,
        limits=Limits(concurrency=1, max_failures=2),
    )
    assert past.counts == {State.CLONED: 13, State.FAILED: 1}


def test_a_dead_session_in_a_run_is_renewed_through_the_breaker() -> None:
    """Renewing is no call the breaker judges."""
    script: list[tuple[str, object]] = [("submit", refused(ErrorClass.RENEW)), ("renew", None), ("submit", MADE)]
    assert run_over(script, 1, at_most_once=False, limits=Limits()).counts == {State.CLONED: 1}
