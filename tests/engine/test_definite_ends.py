"""What "failed" means: a definite end of every attempt's job and a last lookup; and what is never sent again."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from batch.engine.clone_records import NotHonouredError, first_step, look_before
from batch.engine.control import Stop
from batch.engine.policy import Policy, Readiness
from batch.engine.settle import settle
from batch.engine.steps import End, Look, LookReason, Poll, Send, Step, Ticket
from batch.errors import REPAIRED, CallCutError, EndReason, RunStoppedError
from batch.manifest.folds import next_intent
from batch.model import UNKNOWN_JOB, Clone, Intent, Record, SentJob, State
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
    MemoryJournal,
    ScriptedApi,
    Settlement,
    new_dependencies,
    service,
    settle_scripted,
)
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

LOST = NoAnswer("reset")
MADE = Done(service())
LOOKS = [("find", Absent())] * Policy().looks
GIVEN = CLONE._replace(is_given=True)
HOUR = 3600.0
UNKNOWN_AGAIN = [("poll", Unknown())] * 3
"""404s after the first one, until they show that the server does not know the job."""
SEEN_UNTIL_FORGOTTEN = [("find", Found(service())), *UNKNOWN_AGAIN, ("find", Found(service()))]


def refused(
    error_class: ErrorClass,
    code: str = "SYS.1000",
    retries: int | None = 0,
    *,
    may_go_on: bool = False,
    may_have_run: bool = False,
) -> Refused:
    """Return a refusal as the client classifies it."""
    return Refused(ApiError(error_class, code, "text", retries, may_go_on=may_go_on, may_have_run=may_have_run))


NO = refused(ErrorClass.PERMANENT, "ID.1003")
DENIED = refused(ErrorClass.PERMANENT, "SYS.1006")
TIMED_OUT = refused(ErrorClass.AMBIGUOUS, "SYS.1001", None, may_go_on=True)
STARTING = refused(ErrorClass.NODE, "SYS.1010", None)


def end(settlement: Settlement) -> tuple[State, str | None]:
    """Return state and error code it settled with, and check that these are recorded."""
    assert isinstance(settlement.step, End)
    last = settlement.records[-1]
    assert (last.state, last.error_code) == (settlement.step.state, settlement.step.code)
    return settlement.step.state, settlement.step.code


def intent(state: State = State.UNCERTAIN, *, age: float = 60.0, attempt: int = 2, **more: object) -> Intent:
    """Return an attempt sent ``age`` seconds ago under job b, with job a still open."""
    at = EPOCH - age
    known = Intent(
        "a", state, CLONE.source_uuid, RESOURCE_UUID, CLONE.digest, attempt, "b" * 32, at, at, open_jobs=("a" * 32,)
    )
    return replace(known, **more)  # type: ignore[arg-type]


def resumed(
    past: Intent, *script: tuple[str, object], policy: Policy | None = None, is_honoured: bool = True
) -> Settlement:
    """Settle a Clone that the manifest knows."""
    start = first_step(past, policy or Policy(), now=EPOCH)
    return settle_scripted(list(script), start, policy=policy, is_honoured=is_honoured)


def test_a_refused_attempt_does_not_end_the_one_before() -> None:
    """The second POST is refused for good while the first may still run: uncertain, and the first job is polled."""
    settlement = resumed(intent(), ("poll", NO), ("find", Absent()), ("poll", Running()))
    assert end(settlement) == (State.UNCERTAIN, "ID.1003")
    assert settlement.calls[-1] == ("poll", "a" * 32)
    assert (settlement.records[-1].job_uuid, settlement.records[-1].open_jobs) == ("a" * 32, ())


def test_an_earlier_attempt_may_have_made_the_clone() -> None:
    """The job of the first POST reports the clone though the second was refused."""
    assert end(resumed(intent(), ("poll", NO), ("find", Absent()), ("poll", MADE))) == (State.CLONED, None)


@pytest.mark.parametrize("last", [NO, TIMED_OUT], ids=["refused", "timed out"])
def test_failed_needs_an_end_of_every_job_and_a_last_lookup(last: Refused) -> None:
    """Every job has ended, long ago if the server may continue after its answer: looked up again, then failed."""
    settlement = resumed(intent(age=HOUR), ("poll", NO), ("find", Absent()), ("poll", last), ("find", Absent()))
    assert end(settlement) == (State.FAILED, "ID.1003")
    late = resumed(intent(age=HOUR), ("poll", NO), ("find", Absent()), ("poll", last), ("find", Found(service())))
    assert end(late) == (State.CLONED, None)


@pytest.mark.parametrize("answer", [Running(), LOST], ids=["runs", "lost"])
@pytest.mark.parametrize("last", [NO, TIMED_OUT, Unknown()], ids=["refused", "timed out", "unknown"])
def test_a_visible_service_is_no_clone_while_an_earlier_job_runs(last: object, answer: object) -> None:
    """The earlier job shows what it makes early, and takes it back where it fails; the last one's end says nothing."""
    misses = [*UNKNOWN_AGAIN, ("find", Found(service()))] if last == Unknown() else []
    settlement = resumed(intent(), ("poll", last), ("find", Found(service())), *misses, ("poll", answer))
    assert end(settlement)[0] is State.UNCERTAIN
    assert (settlement.records[-1].job_uuid, settlement.records[-1].open_jobs) == ("b" * 32, ("a" * 32,))
    assert settlement.records[-1].until is None, "a later process polls again"


def test_what_an_earlier_job_says_of_the_uuid_counts() -> None:
    """It found the uuid in use, after a POST without an answer: its clone may exist although nobody sees it."""
    taken = ("poll", refused(ErrorClass.PERMANENT, "SYS.1000"))
    settlement = resumed(intent(), ("poll", NO), ("find", Absent()), taken, ("find", Absent()))
    assert end(settlement)[0] is State.UNCERTAIN
    assert "in use" in (settlement.records[-1].error or "")


@pytest.mark.parametrize(
    "answer", [Unknown(), NO, TIMED_OUT, Done(None)], ids=["unknown", "refused", "timed out", "empty"]
)
def test_what_stays_visible_after_every_earlier_job_is_the_clone(answer: object) -> None:
    """It is looked up once more after the last poll; where it is gone the jobs are polled as if it was never seen."""
    seen, polls = ("find", Found(service())), [("poll", answer)] * (4 if answer == Unknown() else 1)
    assert end(resumed(intent(), ("poll", NO), seen, *polls, seen)) == (State.CLONED, None)
    assert end(resumed(intent(age=HOUR), ("poll", NO), seen)) == (State.CLONED, None)
    gone = resumed(intent(), ("poll", NO), seen, *polls, ("find", Absent()), ("poll", NO), ("find", Absent()))
    assert end(gone) == (State.FAILED, "ID.1003")


@pytest.mark.parametrize(
    "answer", [Unknown(), Running(), LOST, TIMED_OUT, Done(None)], ids=["unknown", "runs", "lost", "timed out", "empty"]
)
def test_a_job_that_may_still_run_keeps_the_clone_uncertain(answer: object) -> None:
    """An earlier job without a definite end defers the refusal of the later one until its time is over."""
    settlement = resumed(intent(attempt=4), ("poll", NO), ("find", Absent()), ("poll", answer))
    assert end(settlement) == (State.UNCERTAIN, "ID.1003")
    assert settlement.records[-1].until == EPOCH - 60 + 1860
    again = resumed(intent(attempt=2), ("poll", NO), ("find", Absent()), ("poll", answer))
    assert again.records[-1].until is None, "a later process sends again"


@pytest.mark.parametrize("answer", [Running(), LOST], ids=["runs", "lost"])
def test_a_running_or_unreachable_job_is_never_failed(answer: object) -> None:
    """However old, a job that still answers 202 or does not answer is no definite end."""
    settlement = resumed(intent(age=100 * HOUR), ("poll", NO), ("find", Absent()), ("poll", answer))
    assert end(settlement)[0] is State.UNCERTAIN


def test_unknown_after_its_time_is_a_definite_end() -> None:
    """Jobs that are unknown by then, and nothing visible over all lookups: nothing was made."""
    settlement = resumed(intent(age=HOUR, attempt=4), ("poll", Unknown()), *LOOKS, ("poll", Unknown()), *LOOKS)
    assert end(settlement) == (State.FAILED, "ZCLONE.UNANSWERED")


def test_a_uuid_in_use_after_an_unanswered_attempt_is_no_failure() -> None:
    """The clone of an earlier attempt may have the uuid while the account does not see it."""
    in_use = ("poll", refused(ErrorClass.PERMANENT, "SYS.1000"))
    settlement = resumed(intent(age=HOUR, open_jobs=()), in_use, ("find", Absent()))
    assert end(settlement) == (State.UNCERTAIN, "SYS.1000")
    first = resumed(intent(age=HOUR, attempt=1, open_jobs=()), in_use, ("find", Absent()))
    assert end(first) == (State.FAILED, "SYS.1000")


def test_lost_lines_count_as_jobs_until_their_time_is_over() -> None:
    """Jobs with lost uuids cannot be queried: they are open until the server can no longer execute them."""
    past = intent(attempt=4, open_jobs=(UNKNOWN_JOB,))
    young = resumed(past, ("poll", NO), ("find", Absent()))
    assert end(young)[0] is State.UNCERTAIN
    assert (young.records[-1].job_uuid, young.records[-1].open_jobs) == (None, (UNKNOWN_JOB,))
    old = resumed(replace(past, sent_at=EPOCH - HOUR), ("poll", NO), ("find", Absent()), ("find", Absent()))
    assert end(old) == (State.FAILED, "ID.1003")


ENDS = [
    pytest.param(refused(ErrorClass.TRANSIENT, "ID.2003", None), id="transient"),
    pytest.param(refused(ErrorClass.FATAL, "LICENSE.1003"), id="the whole run's"),
    pytest.param(STARTING, id="the node's"),
    pytest.param(NO, id="permanent"),
]


@pytest.mark.parametrize("is_over", [False, True], ids=["young", "over"])
@pytest.mark.parametrize("last", ENDS)
def test_at_most_once_sends_nothing_after_lost_lines(last: Refused, is_over: bool) -> None:  # noqa: FBT001
    """Whatever the end of the recorded attempt, another may have been on the lost lines: not sent again, not failed."""
    past = intent(age=HOUR if is_over else 60.0, attempt=1, open_jobs=(UNKNOWN_JOB,))
    settlement = resumed(past, ("poll", last), ("find", Absent()), policy=Policy(at_most_once=True))
    assert end(settlement)[0] is State.UNCERTAIN
    assert settlement.records[-1].until == past.sent_at + 1860
    assert f"look for a clone of {CLONE.source_uuid}" in (settlement.records[-1].error or "")


@pytest.mark.parametrize("last", ENDS[:3])
def test_lost_lines_need_the_proof_before_anything_is_sent(last: Refused) -> None:
    """A server that may ignore the uuid can have made the clone of the lost attempt: sent only after the proof."""
    settlement = resumed(
        intent(attempt=1, open_jobs=(UNKNOWN_JOB,)), ("poll", last), ("find", Absent()), is_honoured=False
    )
    assert isinstance(settlement.step, Send)
    assert settlement.step.needs_confirmation


def test_a_dead_session_sends_nothing_again_after_lost_lines() -> None:
    """At most once: the job ended with its session, but one of the lost lines may have been sent."""
    dead = refused(ErrorClass.RENEW, "ID.1001")
    past = intent(attempt=1, open_jobs=(UNKNOWN_JOB,))
    settlement = resumed(past, ("poll", dead), ("renew", None), ("find", Absent()), policy=Policy(at_most_once=True))
    assert end(settlement)[0] is State.UNCERTAIN


def test_an_uncertain_clone_without_a_job_uuid_is_looked_up_before_it_is_sent() -> None:
    """Its lines were lost: the resource is looked up, and only then it is sent again."""
    past = intent(job_uuid=None, open_jobs=(UNKNOWN_JOB,), attempt=1)
    settlement = resumed(past, *LOOKS, ("submit", Accepted(None)), ("poll", MADE))
    assert end(settlement) == (State.CLONED, None)
    assert next(r for r in settlement.records if r.state is State.SENT).open_jobs == (UNKNOWN_JOB,)
    once = resumed(past, *LOOKS, policy=Policy(at_most_once=True))
    assert end(once)[0] is State.UNCERTAIN


@pytest.mark.parametrize(
    ("apitimeout", "timeout", "until"),
    [(None, None, 1860.0), (36_000.0, 2.0, 36_060.0), (600.0, HOUR, 3660.0)],
    ids=["the default", "the server's", "the operator's"],
)
def test_the_time_of_a_post_is_the_longer_of_server_and_operator(
    apitimeout: float | None, timeout: float | None, until: float
) -> None:
    """The server may execute a POST for its own apiTimeout, however short the operator's timeout."""
    policy = Policy(timeout=timeout)
    assert policy.expires_at(0.0, apitimeout) == until


def test_the_servers_time_is_recorded() -> None:
    """The next process must know how long the server may work on the job."""
    settlement = settle_scripted([("submit", Accepted(36_000.0)), ("poll", MADE)], Send(1))
    assert settlement.records[1].api_timeout == 36_000.0


def test_a_refused_repetition_does_not_end_the_first_post() -> None:
    """A gateway refuses the second POST of a job uuid: its job is polled and the clone looked up, never failed."""
    step = Send(2, "b" * 32, EPOCH, End(State.UNCERTAIN, 1), needs_confirmation=True)
    settlement = settle_scripted([("submit", DENIED), ("poll", Unknown()), *LOOKS], step, policy=Policy(attempts=2))
    assert end(settlement)[0] is State.UNCERTAIN
    assert end(settle_scripted([("submit", DENIED), ("poll", MADE)], step)) == (State.CLONED, None)


@pytest.mark.parametrize("is_repeat", [False, True])
def test_only_the_first_posts_own_refusal_takes_an_attempt_back(is_repeat: bool) -> None:  # noqa: FBT001 - both ways
    """A stop caused by the POST itself returns the attempt; if the job uuid was sent before it stays open."""
    step = Send(2, "b" * 32, EPOCH, End(State.UNCERTAIN, 1)) if is_repeat else Send(1)
    journal = settle_to_a_stop([("submit", refused(ErrorClass.FATAL, "LICENSE.1000"))], step)
    assert [r.state for r in journal.records] == [State.SENT] + ([] if is_repeat else [State.PLANNED])


@pytest.mark.parametrize(
    "script",
    [
        [("submit", LOST), ("poll", Unknown()), ("find", refused(ErrorClass.FATAL, "LICENSE.1000"))],
        [
            ("submit", Accepted(None)),
            ("poll", refused(ErrorClass.FATAL, "ID.1002", may_have_run=True)),
            ("find", Absent()),
        ],
        [("submit", refused(ErrorClass.FATAL, "LICENSE.1000", may_have_run=True))],
    ],
    ids=["a look", "the job", "with a cause that may have run"],
)
def test_a_stop_takes_nothing_back_that_may_be_running(script: list[tuple[str, object]]) -> None:
    """An answer to a lookup, or of a job, stops the run and leaves the recorded attempt as it is."""
    journal = settle_to_a_stop(script, Send(1))
    assert journal.records[-1].state in {State.SENT, State.ACCEPTED}


def test_a_job_that_ends_with_a_stop_is_planned_again_and_remembered() -> None:
    """It was not executed, but of a request that arrived twice only the last end is known: the job stays open."""
    denied = refused(ErrorClass.FATAL, "ID.1002")
    journal = settle_to_a_stop([("submit", Accepted(None)), ("poll", denied), ("find", denied)], Send(1))
    sent, _, last = journal.records
    assert (last.state, last.attempt, last.open_jobs) == (State.PLANNED, 0, (sent.job_uuid,))
    known = functools.reduce(next_intent, journal.records, None)
    assert known is not None
    step = first_step(known, Policy(), now=EPOCH)
    assert isinstance(step, Poll)
    assert step.ticket.job_uuid == sent.job_uuid


def settle_to_a_stop(script: list[tuple[str, object]], step: Step) -> MemoryJournal:
    """Settle CLONE to a stop of the run; return the record."""
    loop = VirtualLoop()
    journal = MemoryJournal()
    world = new_dependencies(ScriptedApi(script), journal, VirtualClock(loop, Random(7)), stop=Stop())
    with pytest.raises(RunStoppedError):
        run_virtual(loop, settle(CLONE, step, world))
    return journal


def test_a_fatal_end_of_an_earlier_process_is_rechecked() -> None:
    """The licence was renewed since: looked up, then sent again without charging an attempt."""
    past = intent(State.ACCEPTED, attempt=1, open_jobs=())
    settlement = resumed(
        past, ("poll", refused(ErrorClass.FATAL, "LICENSE.1000")), ("find", Absent()), ("submit", MADE)
    )
    assert end(settlement) == (State.CLONED, None)
    assert settlement.records[-1].attempt == 1


def test_nothing_is_sent_again_before_the_server_proved_itself() -> None:
    """Until one clone has the requested uuid, what may have run waits; no end is recorded yet."""
    lost = [("submit", LOST), ("poll", Unknown()), *LOOKS]
    settlement = settle_scripted(lost, Send(1), is_honoured=False)
    assert isinstance(settlement.step, Send)
    assert settlement.step.needs_confirmation
    assert [r.state for r in settlement.records] == [State.SENT]
    ended = [("submit", Accepted(None)), ("poll", refused(ErrorClass.AMBIGUOUS, "SYS.1006", 1)), *LOOKS]
    assert isinstance(settle_scripted(ended, Send(1), is_honoured=False).step, Send)


def test_unexecuted_posts_are_sent_again_without_proof() -> None:
    """An answer that nothing was executed is proof enough."""
    never = ("poll", refused(ErrorClass.TRANSIENT, "ID.2003", None))
    settlement = settle_scripted(
        [("submit", Accepted(None)), never, ("find", Absent()), ("submit", MADE)],
        Send(1),
        policy=Policy(at_most_once=True),
        is_honoured=False,
    )
    assert end(settlement) == (State.CLONED, None)


@pytest.mark.parametrize("error", [TIMED_OUT, refused(ErrorClass.AMBIGUOUS, "SYS.1006", 1)], ids=["lasting", "over"])
def test_at_most_once_never_repeats_what_may_have_run(error: Refused) -> None:
    """An error that leaves open whether the clone was made ends uncertain, with where to look for it."""
    settlement = settle_scripted(
        [("submit", Accepted(None)), ("poll", error), *LOOKS], Send(1), policy=Policy(at_most_once=True)
    )
    assert end(settlement)[0] is State.UNCERTAIN
    assert f"look for a clone of {CLONE.source_uuid} named x" in (settlement.records[-1].error or "")


def test_no_failure_is_reported_if_the_uuid_proves_nothing() -> None:
    """A server that may ignore the uuid can have made the clone under another one: uncertain for good."""
    past = intent(age=HOUR, attempt=4, open_jobs=())
    assert end(resumed(past, ("poll", Unknown()), *LOOKS, is_honoured=False))[0] is State.UNCERTAIN


def test_a_success_without_a_clone_stops_an_unproven_run() -> None:
    """200 {} and nothing under the uuid: the server does not honour it, and the run says so."""
    loop = VirtualLoop()
    api = ScriptedApi([("submit", Accepted(None)), ("poll", Done(None)), *LOOKS])
    world = new_dependencies(api, MemoryJournal(), VirtualClock(loop, Random(7)), is_honoured=False)
    with pytest.raises(NotHonouredError) as stop:
        run_virtual(loop, settle(CLONE, Send(1), world))
    assert stop.value.reason is EndReason.RESOURCE_UUID


def test_a_success_without_a_clone_is_never_called_failed() -> None:
    """The server said that it made the clone: on a proven server it stays uncertain, however old."""
    past = intent(attempt=4, open_jobs=())
    assert end(resumed(past, ("poll", Done(None)), *LOOKS))[0] is State.UNCERTAIN
    old = resumed(replace(past, sent_at=EPOCH - HOUR), ("poll", Done(None)), *LOOKS)
    assert end(old)[0] is State.UNCERTAIN


def test_misses_in_a_row_are_reset_by_an_answer() -> None:
    """404s of a node that lags behind count only while nothing else is answered."""
    flapping = [("poll", Unknown()), ("poll", Running())] * 5
    assert end(settle_scripted([("submit", Accepted(None)), *flapping, ("poll", MADE)], Send(1))) == (
        State.CLONED,
        None,
    )


def test_a_given_uuid_is_looked_up_before_the_first_post() -> None:
    """A service that has it by then is not ours: a conflict, and nothing is sent."""
    start = look_before(GIVEN, Send(1), now=EPOCH)
    assert isinstance(start, Look)
    settlement = settle_scripted([("find", Found(service()))], start, clone=GIVEN)
    assert end(settlement) == (State.CONFLICT, "ZCLONE.CONFLICT")
    uncharged = settle_scripted(
        [("find", Absent()), ("submit", LOST), ("poll", Unknown()), *SEEN_UNTIL_FORGOTTEN], start, clone=GIVEN
    )
    assert end(uncharged) == (State.CLONED, None)


def test_a_given_uuid_is_not_sent_if_lookups_are_denied() -> None:
    """The owner could not be determined: failed, and nothing was sent."""
    start = look_before(GIVEN, Send(1), now=EPOCH)
    assert end(settle_scripted([("find", DENIED)], start, clone=GIVEN)) == (State.FAILED, "SYS.1006")


@pytest.mark.parametrize("has_sent_line", [True, False])
def test_a_given_uuid_is_adopted_only_after_our_own_post(has_sent_line: bool) -> None:  # noqa: FBT001
    """A collision at the first POST, or a uuid that only lost lines could have sent, is not adopted."""
    taken = [
        ("submit", Accepted(None)),
        ("poll", refused(ErrorClass.AMBIGUOUS, "SYS.1000", 1)),
        ("find", Found(service())),
    ]
    if has_sent_line:
        settlement = settle_scripted(taken, Send(1), clone=GIVEN)
    else:
        past = intent(job_uuid=None, open_jobs=(UNKNOWN_JOB,), digest="")
        settlement = settle_scripted([("find", Found(service()))], first_step(past, Policy(), now=EPOCH), clone=GIVEN)
    assert end(settlement)[0] is State.UNCERTAIN


@pytest.mark.parametrize(
    ("clone", "step"),
    [(CLONE, Send(1)), (GIVEN, Send(2, has_predecessor=True)), (GIVEN, Send(1, None, None, End(State.FAILED, 1)))],
    ids=["derived", "a later attempt", "a retry"],
)
def test_only_the_first_post_of_a_given_uuid_follows_a_lookup(clone: Clone, step: Send) -> None:
    """A derived uuid is always ours, and after our own POST so is a given one, unless that had a definite answer."""
    assert look_before(clone, step, now=EPOCH) is step
    again = look_before(GIVEN, Send(2), now=EPOCH)
    assert isinstance(again, Look)
    assert settle_scripted([("find", Absent()), ("submit", MADE)], again, clone=GIVEN).records[-1].attempt == 2


def test_a_clone_before_the_first_attempt_was_made_elsewhere() -> None:
    """SYS.1000 at the first attempt and a clone that matches is recorded so; after an earlier attempt it is not."""
    taken = [
        ("submit", Accepted(None)),
        ("poll", refused(ErrorClass.AMBIGUOUS, "SYS.1000", 1)),
        ("find", Found(service())),
    ]
    assert settle_scripted(taken, Send(1)).records[-1].made_elsewhere is True
    for later in (Send(1, has_predecessor=True), Send(2, None, EPOCH, End(State.FAILED, 1), has_predecessor=True)):
        assert settle_scripted(taken, later).records[-1].made_elsewhere is None


def test_an_earlier_service_is_not_adopted_uncompared() -> None:
    """For a target that left the job file there is nothing to compare with; what --only leaves out is compared."""
    past = intent(State.SENT, attempt=1, open_jobs=())
    taken = refused(ErrorClass.AMBIGUOUS, "SYS.1000", 1)
    script: list[tuple[str, object]] = [("poll", taken), ("find", Found(service(name="y")))]
    settlement = settle_scripted(script, first_step(past, Policy(), now=EPOCH), clone=GONE._replace(params={}))
    assert end(settlement)[0] is State.UNCERTAIN
    assert settlement.records[-1].until is not None
    for known in (CLONE, GONE):
        back = settle_scripted(script, first_step(past, Policy(), now=EPOCH), clone=known)
        assert end(back) == (State.CONFLICT, "ZCLONE.CONFLICT")


def test_a_given_uuid_that_is_taken_between_attempts_waits_for_the_operator() -> None:
    """No POST is open, so no job is recorded, and no rerun learns more by itself."""
    settlement = settle_scripted([("find", Found(service()))], look_before(GIVEN, Send(2), now=EPOCH), clone=GIVEN)
    assert end(settlement)[0] is State.UNCERTAIN
    last = settlement.records[-1]
    assert (last.job_uuid, last.open_jobs) == (None, ())
    assert last.until is not None
    assert last.until <= last.at


def test_a_look_that_a_gateway_answers_says_nothing_about_rights() -> None:
    """Its text names the status."""
    page = refused(ErrorClass.PERMANENT, "HTTP.404")
    settlement = settle_scripted([("find", page)], look_before(GIVEN, Send(1), now=EPOCH), clone=GIVEN)
    assert end(settlement) == (State.FAILED, "HTTP.404")
    assert (
        settlement.records[-1].error == "nothing was sent, as the look for the clone was answered with HTTP 404: text"
    )


def test_a_dead_session_sends_nothing_unchecked_after_a_doubtful_process() -> None:
    """A later attempt that the open record does not name may have ended: it is looked up before a POST."""
    past = intent(State.UNCERTAIN, attempt=1, open_jobs=())
    dead = ("poll", refused(ErrorClass.RENEW, "ID.1001", None))
    settlement = settle_scripted(
        [dead, ("renew", None), ("find", Found(service(name="y")))], first_step(past, Policy(), now=EPOCH)
    )
    assert end(settlement) == (State.CONFLICT, "ZCLONE.CONFLICT")
    assert settlement.jobs == []


def test_a_conflict_at_the_first_attempt_names_its_likely_cause() -> None:
    """Another folder or host with the same job name made it with other parameters."""
    other = ("find", Found(service(name="y")))
    settlement = settle_scripted(
        [("submit", Accepted(None)), ("poll", refused(ErrorClass.AMBIGUOUS, "SYS.1000", 1)), other], Send(1)
    )
    assert end(settlement) == (State.CONFLICT, "ZCLONE.CONFLICT")
    assert "another folder or host with this job name" in (settlement.records[-1].error or "")


def test_different_content_is_no_conflict_while_an_attempt_may_write_it() -> None:
    """A half-written row shows other content: a conflict needs a definite end of every attempt."""
    half = ("find", Found(service(name="y")))
    young = resumed(intent(State.ACCEPTED, open_jobs=(), is_answered=True), *[("poll", Unknown())] * 4, half)
    assert end(young)[0] is State.UNCERTAIN
    # Nothing is sent again while it exists: once the time is over only the operator can settle it.
    assert young.records[-1].until is not None
    old = resumed(intent(age=HOUR), ("poll", Unknown()), half, ("poll", NO), half)
    assert end(old) == (State.CONFLICT, "ZCLONE.CONFLICT")


def test_a_foreign_service_hides_no_clone_of_a_server_that_ignores_the_uuid() -> None:
    """Without the proof the clone may exist under another uuid: no conflict, which a retry would send again."""
    other, past = ("find", Found(service(name="y"))), intent(age=HOUR, open_jobs=())
    for more in ({"is_honoured": False}, {"policy": Policy(at_most_once=True)}):
        settlement = resumed(past, ("poll", Unknown()), other, **more)
        assert end(settlement)[0] is State.UNCERTAIN
        assert settlement.records[-1].until == EPOCH - HOUR + 1860
    assert end(resumed(past, ("poll", Unknown()), other)) == (State.CONFLICT, "ZCLONE.CONFLICT")
    assert end(resumed(past, ("poll", NO), other, is_honoured=False)) == (State.CONFLICT, "ZCLONE.CONFLICT")


def test_content_is_not_compared_if_an_open_attempt_had_another_body() -> None:
    """The job file was edited in between: the clone is ours, whichever of the bodies made it."""
    past, seen = intent(is_mixed=True), ("find", Found(service(name="y")))
    script = [("poll", Unknown()), seen, *UNKNOWN_AGAIN, seen, ("poll", Unknown()), *UNKNOWN_AGAIN, seen]
    assert end(resumed(past, *script)) == (State.CLONED, None)


def test_different_content_after_lost_lines_belongs_to_no_state() -> None:
    """The lost lines may have had another body, or none: neither cloned nor a conflict, and the operator decides."""
    past = intent(attempt=0, job_uuid=None, open_jobs=(UNKNOWN_JOB,), is_mixed=True, age=HOUR)
    settlement = resumed(past, ("find", Found(service(name="y"))))
    assert end(settlement)[0] is State.UNCERTAIN
    assert "differs in name" in (settlement.records[-1].error or "")
    assert settlement.records[-1].until is not None
    assert end(resumed(past, ("find", Found(service())))) == (State.CLONED, None)


@pytest.mark.parametrize("known", [{"job_uuid": None}, {}], ids=["every line lost", "one job known"])
def test_a_service_is_no_clone_while_a_job_on_lost_lines_may_run(known: dict[str, Any]) -> None:
    """It may be taken back: it is cloned once the time of that job is over, or another ended."""
    past, seen = intent(open_jobs=(UNKNOWN_JOB,), **known), ("find", Found(service()))
    polls = [("poll", NO)] if "job_uuid" not in known else []
    settlement = resumed(past, *polls, seen)
    assert end(settlement)[0] is State.UNCERTAIN
    assert settlement.records[-1].until is None
    old = intent(open_jobs=(UNKNOWN_JOB,), age=HOUR, **known)
    assert end(resumed(old, *polls, seen)) == (State.CLONED, None)
    if polls:
        assert end(resumed(past, ("poll", MADE))) == (State.CLONED, None)


def test_a_node_that_is_not_ready_charges_no_attempt() -> None:
    """SYS.1010 from a node that boots: sent again until it is ready, under the same attempt."""
    refusal = [("submit", Accepted(None)), ("poll", STARTING), ("find", Absent())]
    settlement = settle_scripted([*refusal * 6, ("submit", MADE)], Send(1))
    assert end(settlement) == (State.CLONED, None)
    assert {r.attempt for r in settlement.records if r.state is not State.PLANNED} == {1}
    ends = [r for r in settlement.records if r.state is State.PLANNED]
    assert [(r.attempt, r.open_jobs) for r in ends[:1]] == [(0, (settlement.jobs[0],))], "each end is on record"
    assert len(set(settlement.jobs)) == 7


def test_an_unexecuted_end_beside_an_open_job_is_on_record() -> None:
    """The earlier job stays the open one, and the one that ended is kept beside it."""
    settlement = resumed(intent(), ("poll", STARTING), ("find", Absent()), ("submit", MADE))
    assert end(settlement) == (State.CLONED, None)
    last = settlement.records[0]
    assert (last.state, last.attempt) == (State.UNCERTAIN, 1)
    assert (last.job_uuid, last.open_jobs) == ("a" * 32, ("b" * 32,))


def test_uncharged_attempts_are_bounded() -> None:
    """After so many in a row each further POST charges one."""
    refusal = [("submit", Accepted(None)), ("poll", STARTING), ("find", Absent())]
    policy = Policy(uncharged_sends=2, attempts=2)
    reviews = [("poll", STARTING)] * 4
    settlement = settle_scripted([*refusal * 6, *reviews, ("find", Absent())], Send(1), policy=policy)
    assert end(settlement) == (State.FAILED, "SYS.1010")
    assert [r.attempt for r in settlement.records if r.state is State.SENT] == [1, 1, 1, 2, 2, 2]


def test_dead_sessions_in_a_row_are_bounded() -> None:
    """Sessions that die at once end in a charged attempt and then in a failure, not in endless POSTs."""
    dead = [("submit", Accepted(None)), ("poll", refused(ErrorClass.RENEW, "ID.1001", None)), ("renew", None)]
    policy = Policy(uncharged_sends=1, attempts=1)
    settlement = settle_scripted(
        [*dead * 2, ("find", Absent()), ("poll", refused(ErrorClass.RENEW, "ID.1001", None)), ("find", Absent())],
        Send(1),
        policy=policy,
    )
    assert end(settlement) == (State.FAILED, "ID.1001")


def test_the_servers_own_rate_limit_is_no_attempt() -> None:
    """429 "Rate limit exceeded" was not executed: no poll, no lookup, the same record."""
    busy = NotSent("HTTP 429: Rate limit exceeded", is_over_limit=True)
    settlement = settle_scripted([("submit", busy)] * 5 + [("submit", MADE)], Send(1))
    assert end(settlement) == (State.CLONED, None)
    assert {(r.attempt, r.job_uuid) for r in settlement.records if r.state is State.SENT} == {(1, settlement.jobs[0])}


def test_an_unready_node_is_tried_by_one_post_at_a_time() -> None:
    """After three such ends in a row POSTs wait; one tries after a pause, and the first other end releases all."""
    loop = VirtualLoop()
    clock, stop = VirtualClock(loop, Random(7)), Stop()
    readiness = Readiness(clock)

    async def scenario() -> list[float]:
        waits = [await readiness.wait(stop)]
        for _ in range(3):
            readiness.note(STARTING, sent_at=clock.time())
        waits += [await readiness.wait(stop), await readiness.wait(stop)]
        readiness.note(MADE, sent_at=clock.time() - HOUR)
        waits.append(await readiness.wait(stop))
        readiness.note(MADE, sent_at=clock.time())
        waits.append(await readiness.wait(stop))
        return waits

    before, first, second, third, ready = run_virtual(loop, scenario())
    assert before == 0.0
    assert 1.0 < first < second < third
    assert ready == 0.0


def test_a_pause_does_not_count_as_unready_time() -> None:
    """Paused for a day while the node was unready, the run continues; unready up to the limit, it ends."""
    loop = VirtualLoop()
    clock, stop = VirtualClock(loop, Random(7)), Stop()
    readiness = Readiness(clock, longest=HOUR)

    async def scenario() -> None:
        for _ in range(3):
            readiness.note(STARTING, sent_at=clock.time())
        readiness.suspend()
        loop.call_later(24 * HOUR, readiness.resume)
        assert await readiness.wait(stop) >= 24 * HOUR
        await asyncio.sleep(HOUR)
        with pytest.raises(RunStoppedError, match="has not been ready for 3600 s"):
            await readiness.wait(stop)

    run_virtual(loop, scenario())


def test_a_running_job_shows_that_the_node_is_ready() -> None:
    """A node that is not ready ends a job at once: one that still runs was accepted."""
    loop = VirtualLoop()
    clock, stop = VirtualClock(loop, Random(7)), Stop()
    readiness = Readiness(clock)

    async def scenario() -> float:
        for _ in range(3):
            readiness.note(STARTING, sent_at=clock.time())
        await readiness.wait(stop)
        sent_at = clock.time()
        readiness.note(Running(), sent_at=sent_at)
        await readiness.wait(stop)
        readiness.note(Running(), sent_at=sent_at)
        return await readiness.wait(stop)

    assert run_virtual(loop, scenario()) > 0.0


def test_a_node_that_stays_unready_stops_the_run() -> None:
    """After half an hour the run ends as an outage, to be resumed."""
    loop = VirtualLoop()
    clock, stop = VirtualClock(loop, Random(7)), Stop()
    readiness = Readiness(clock, longest=60.0)

    async def scenario() -> None:
        for _ in range(3):
            readiness.note(STARTING, sent_at=clock.time())
        for _ in range(20):
            await readiness.wait(stop)

    with pytest.raises(RunStoppedError) as stopped_by:
        run_virtual(loop, scenario())
    assert stopped_by.value.reason is EndReason.OUTAGE


def test_a_stop_ends_the_wait_for_the_node() -> None:
    """A waiting clone continues at the Stop; its POST is then not sent."""
    loop = VirtualLoop()
    clock, stop = VirtualClock(loop, Random(7)), Stop()
    readiness = Readiness(clock)

    async def scenario() -> float:
        for _ in range(3):
            readiness.note(STARTING, sent_at=clock.time())
        loop.call_later(0.5, stop.request, "signal", EndReason.SIGNAL)
        return await readiness.wait(stop)

    assert run_virtual(loop, scenario()) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["poll", "find", "review"])
def test_a_wait_cut_by_the_stop_leaves_the_clone_open(kind: str) -> None:
    """A poll or lookup that was not made is no answer: the step is left for the next run."""
    loop = VirtualLoop()
    stop, journal = Stop(), MemoryJournal()
    stop.request("signal", EndReason.SIGNAL)
    cut = CallCutError("stopped")
    scripts: dict[str, list[tuple[str, object]]] = {
        "poll": [("poll", cut)],
        "find": [("poll", Unknown()), ("find", cut)],
        "review": [("poll", NO), ("find", Absent()), ("poll", cut)],
    }
    world = new_dependencies(ScriptedApi(scripts[kind]), journal, VirtualClock(loop, Random(7)), stop=stop)
    with pytest.raises(CallCutError):
        run_virtual(loop, settle(CLONE, first_step(intent(), Policy(), now=EPOCH), world))
    assert journal.records == []


def test_a_repetition_prevented_by_the_stop_stays_open() -> None:
    """No byte of the second POST was sent, but the first of that job uuid may still run."""
    loop = VirtualLoop()
    stop, journal = Stop(), MemoryJournal()
    script: list[tuple[str, object]] = [("submit", NotSent("refused"))]
    world = new_dependencies(ScriptedApi(script), journal, VirtualClock(loop, Random(7)), stop=stop)
    loop.call_later(5.0, stop.request, "signal", EndReason.SIGNAL)
    policy = Policy(backoff_base=60.0, backoff_cap=60.0)
    send = Send(2, "b" * 32, EPOCH, End(State.UNCERTAIN, 1), needs_confirmation=True)
    world = replace(world, policy=policy)
    run_virtual(loop, settle(CLONE, send, world))
    assert [r.state for r in journal.records] in ([State.SENT], [])


def test_times_of_a_wrong_clock_count_as_now() -> None:
    """A deadline and a POST recorded 30 days ahead delay nothing for 30 days."""
    ahead = EPOCH + 30 * 86_400
    past = replace(intent(open_jobs=()), sent_at=ahead, first_sent_at=ahead, deadline=ahead + 1860)
    step = first_step(past, Policy(), now=EPOCH)
    assert isinstance(step, Poll)
    assert (step.ticket.sent_at, step.ticket.deadline) == (EPOCH, EPOCH + 1860)


def test_a_later_line_with_an_earlier_time_corrects_the_first() -> None:
    """A clone that was sent under a wrong clock thus has its time over like any other."""
    sent = Record(State.SENT, "a", EPOCH + 1e7, 1, job_uuid="b" * 32)
    known = functools.reduce(
        next_intent, [sent, Record(State.UNCERTAIN, "a", EPOCH, 1, job_uuid="b" * 32, open_jobs=())], None
    )
    assert known is not None
    step = first_step(known, Policy(), now=EPOCH + 100.0)
    assert isinstance(step, Poll)
    assert step.ticket.sent_at == EPOCH


@pytest.mark.parametrize(("api_timeout", "since"), [(20.0, 50.0), (None, 0.0)], ids=["the POST", "a poll"])
def test_the_servers_time_begins_with_the_answer_to_the_post(api_timeout: float | None, since: float) -> None:
    """A POST may wait at the gate after it was recorded; a poll that finds its job shows no later start."""
    sent = Record(State.SENT, "a", EPOCH, 1, job_uuid="b" * 32)
    accepted = Record(State.ACCEPTED, "a", EPOCH + 50.0, 1, job_uuid="b" * 32, api_timeout=api_timeout)
    known = functools.reduce(next_intent, [sent, accepted], None)
    assert known is not None
    assert known.sent_at == EPOCH + since


def test_a_deadline_in_the_far_future_is_counted_from_the_post() -> None:
    """A clock ahead recorded it: a job that still runs is overdue at the next process, and not later at each one."""
    ahead = intent(State.ACCEPTED, attempt=4, open_jobs=(), is_answered=True, deadline=EPOCH + 720 * HOUR)
    assert end(resumed(replace(ahead, sent_at=EPOCH - HOUR), ("poll", Running()), *LOOKS))[0] is State.UNCERTAIN
    step = first_step(replace(ahead, sent_at=EPOCH + 720 * HOUR), Policy(), now=EPOCH)
    assert isinstance(step, Poll)
    assert step.ticket.deadline == EPOCH + Policy().window(None)


def test_an_unanswered_lookup_before_the_post_leaves_the_target_planned() -> None:
    """Nothing was sent, and nothing is known: the next run looks again."""
    start = Look(Ticket(0, "", EPOCH, EPOCH, EPOCH), LookReason.GIVEN)
    settlement = settle_scripted([("find", LOST)] * Policy().max_failed_looks, start, clone=GIVEN)
    assert isinstance(settlement.step, Look)
    assert settlement.records == []


def test_a_forgotten_job_ends_once_its_time_is_over() -> None:
    """Unknown to a server that once accepted it, overdue, and nothing visible: failed when it can run no more."""
    past = intent(State.ACCEPTED, attempt=4, open_jobs=(), is_answered=True, deadline=EPOCH - 1)
    assert end(resumed(past, ("poll", Unknown()), *LOOKS))[0] is State.UNCERTAIN
    old = replace(past, sent_at=EPOCH - HOUR, first_sent_at=EPOCH - HOUR)
    assert end(resumed(old, ("poll", Unknown()), *LOOKS)) == (State.FAILED, "ZCLONE.UNANSWERED")
    assert end(resumed(old, ("poll", Running()), *LOOKS))[0] is State.UNCERTAIN


GONE = CLONE._replace(body=b"")
"""A clone whose target left the job file."""


@pytest.mark.parametrize(
    ("open_jobs", "script"),
    [
        ((), [("poll", Running()), *LOOKS]),
        (("a" * 32,), [("poll", refused(ErrorClass.TRANSIENT, retries=None)), ("find", Absent()), ("poll", Running())]),
    ],
    ids=["its job", "an earlier job"],
)
def test_a_removed_target_waits_for_the_operator(open_jobs: tuple[str, ...], script: list[tuple[str, object]]) -> None:
    """No later process sends it either, so that its uncertain end has a time, whatever attempts are left."""
    past = intent(open_jobs=open_jobs, deadline=EPOCH - 1)
    settlement = settle_scripted(script, first_step(past, Policy(), now=EPOCH), clone=GONE)
    assert end(settlement)[0] is State.UNCERTAIN
    assert settlement.records[-1].until == EPOCH - 60 + 1860


NAMELESS = GONE._replace(resource_uuid="", digest="")
"""A clone of which a repair kept only its key."""


def test_a_target_known_only_by_its_key_is_not_looked_up() -> None:
    """Its uuid was on lost lines and its target is not in the plan: it waits for the operator."""
    past = intent(attempt=0, resource_uuid="", digest="", job_uuid=None, open_jobs=(UNKNOWN_JOB,))
    settlement = settle_scripted([], first_step(past, Policy(), now=EPOCH), clone=NAMELESS)
    assert end(settlement)[0] is State.UNCERTAIN
    assert settlement.records[-1].until == EPOCH - 60 + 1860
    assert settlement.records[-1].open_jobs == (UNKNOWN_JOB,)


def test_a_target_known_only_by_its_job_is_polled() -> None:
    """The job reports what it made, and what stops the run, also if the requested uuid is unknown."""
    past = intent(resource_uuid="", digest="", open_jobs=())
    start = first_step(past, Policy(), now=EPOCH)
    made = settle_scripted([("poll", MADE)], start, clone=NAMELESS)
    assert (end(made)[0], made.records[-1].clone_uuid) == (State.CLONED, RESOURCE_UUID)
    with pytest.raises(RunStoppedError):
        settle_scripted([("poll", Running()), ("poll", refused(ErrorClass.FATAL))], start, clone=NAMELESS)


def test_a_post_sent_late_does_not_expire_early() -> None:
    """Refused connections for ten minutes, then 202 without a row: a POST is as old as its first sent byte."""
    loop = VirtualLoop()
    clock, policy, journal = VirtualClock(loop, Random(7)), Policy(attempts=1), MemoryJournal()
    away: list[tuple[str, object]] = [("submit", NotSent("cannot connect"))] * 100
    misses: list[tuple[str, object]] = [("poll", Unknown())] * policy.misses
    lost: list[tuple[str, object]] = [("submit", Accepted(300.0)), *misses, *LOOKS]
    world = new_dependencies(ScriptedApi(away + lost), journal, clock, policy=policy)
    first = run_virtual(loop, settle(CLONE, Send(1), world))
    assert isinstance(first, End)
    assert first.state is State.UNCERTAIN
    assert first.until is not None
    assert first.until - clock.time() > 200
    known = functools.reduce(next_intent, journal.records, None)
    assert known is not None
    step = first_step(known, policy, now=clock.time())
    loop = VirtualLoop(start=loop.now)
    world = new_dependencies(ScriptedApi([*misses, *LOOKS]), journal, VirtualClock(loop, Random(7)), policy=policy)
    again = run_virtual(loop, settle(CLONE, step, world))
    assert isinstance(again, End)
    assert again.state is State.UNCERTAIN


def test_the_time_of_lost_attempts_counts_from_the_last_repair() -> None:
    """Each repair may have lost a POST as late as itself."""
    lost = [
        Record(State.UNCERTAIN, "a", at, 1, job_uuid="b" * 32, open_jobs=(UNKNOWN_JOB,), error_code=REPAIRED)
        for at in (EPOCH, EPOCH + HOUR)
    ]
    sent = Record(State.SENT, "a", EPOCH - HOUR, 1, "s", RESOURCE_UUID, "b" * 32, "d" * 32, open_jobs=())
    past = functools.reduce(next_intent, [sent, *lost], None)
    assert past is not None
    assert past.sent_at == EPOCH + HOUR
    again = next_intent(past, lost[1]._replace(at=EPOCH + 2 * HOUR, error_code="ZCLONE.UNCERTAIN"))
    assert again.sent_at == EPOCH + HOUR


def test_a_visible_service_is_no_clone_after_one_404_at_the_deadline() -> None:
    """Its job may be running at another node and take it back; once the server's time is over it is the clone."""
    past = intent(State.ACCEPTED, open_jobs=(), is_answered=True, deadline=EPOCH - 1)
    missed, seen = ("poll", Unknown()), ("find", Found(service()))
    assert end(resumed(past, missed, seen, ("poll", Running()), seen))[0] is State.UNCERTAIN
    assert end(resumed(past, missed, seen, *[missed] * (Policy().misses - 1), seen)) == (State.CLONED, None)
    assert end(resumed(replace(past, sent_at=EPOCH - HOUR), missed, seen)) == (State.CLONED, None)


@pytest.mark.parametrize("attempt", [1, 2])
def test_only_several_attempts_without_the_flag_are_in_doubt_under_at_most_once(attempt: int) -> None:
    """One POST whose end proves that nothing ran may be sent again; of several one may have run."""
    past = intent(State.ACCEPTED, attempt=attempt, open_jobs=(), is_answered=True, was_repeated=attempt > 1)
    script = [("poll", STARTING), ("find", Absent()), ("submit", MADE)]
    settlement = resumed(past, *script[: 3 if attempt == 1 else 2], policy=Policy(at_most_once=True))
    assert end(settlement)[0] is (State.CLONED if attempt == 1 else State.UNCERTAIN)
    planned = intent(State.PLANNED, attempt=attempt, open_jobs=(), job_uuid=None, was_repeated=True)
    first = first_step(planned, Policy(at_most_once=True), now=EPOCH)
    assert isinstance(first, Poll)
    assert first.ticket.job_uuid == UNKNOWN_JOB
    assert isinstance(first_step(replace(planned, was_repeated=False), Policy(at_most_once=True), now=EPOCH), Send)


def test_a_later_attempt_may_have_made_what_is_under_a_given_uuid() -> None:
    """The first job is the last open one again, and a second attempt is open too: the clone may be its own."""
    jobs = (SentJob("b" * 32, CLONE.digest, 1, is_answered=True), SentJob("a" * 32, CLONE.digest, 2, is_answered=True))
    past = intent(age=HOUR, attempt=1, is_answered=True, sent_jobs=jobs)
    start = first_step(past, Policy(), now=EPOCH)
    script = [("poll", STARTING), ("find", Found(service()))]
    assert end(settle_scripted(script, start, clone=GIVEN)) == (State.CLONED, None)
    alone = first_step(replace(past, open_jobs=(), sent_jobs=jobs[:1]), Policy(), now=EPOCH)
    assert end(settle_scripted(script, alone, clone=GIVEN))[0] is State.UNCERTAIN


@pytest.mark.parametrize("is_job", [False, True], ids=["POST", "job"])
def test_what_a_dead_session_refused_is_recorded_before_the_run_stops(is_job: bool) -> None:  # noqa: FBT001 - both ways
    """No new session can be had; the refused POST was never executed, and the ended job is polled again."""
    dead = refused(ErrorClass.RENEW, "ID.1001", None)
    ends = [("submit", Accepted(None)), ("poll", dead)] if is_job else [("submit", dead)]
    api = ScriptedApi([*ends, ("renew", STOPPED)])
    loop, journal = VirtualLoop(), MemoryJournal()
    world = new_dependencies(api, journal, VirtualClock(loop, Random(7)))
    with pytest.raises(RunStoppedError):
        run_virtual(loop, settle(CLONE, Send(1), world))
    last = journal.records[-1]
    assert (last.state, last.attempt, len(last.open_jobs or ())) == (State.PLANNED, 0, int(is_job))


STOPPED = RunStoppedError("the session is dead", EndReason.LOGIN)
