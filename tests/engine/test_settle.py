"""One Clone to its end: every answer of the server, and the resulting state."""

from __future__ import annotations

import pytest

from batch.engine.clone_records import NotHonouredError, first_step
from batch.engine.policy import Policy
from batch.engine.steps import End, Send
from batch.errors import RunStoppedError
from batch.model import Intent, State
from batch.zstack.answers import (
    Absent,
    Accepted,
    ApiError,
    Done,
    Duplicate,
    ErrorClass,
    Found,
    NoAnswer,
    NotSent,
    Refused,
    Running,
    Unknown,
)
from tests.engine.scripted_api import CLONE, RESOURCE_UUID, Settlement, service, settle_scripted
from tests.simulation.virtual import EPOCH

LOST = NoAnswer("reset")
MADE = Done(service())


def error(error_class: ErrorClass, code: str = "SYS.1000", retries: int | None = None) -> Refused:
    """Return an error of ``error_class`` as the client classifies it."""
    return Refused(ApiError(error_class, code, "text", retries, may_go_on=code in {"SYS.1001", "SYS.1015"}))


def fresh(*script: tuple[str, object], policy: Policy | None = None) -> Settlement:
    """Settle a Clone without a record."""
    return settle_scripted(list(script), Send(1), policy=policy)


def end(settlement: Settlement) -> tuple[State, int]:
    """Return the state and attempts it settled with."""
    assert isinstance(settlement.step, End)
    last = settlement.records[-1]
    assert (last.state, last.attempt) == (settlement.step.state, settlement.step.attempt)
    return settlement.step.state, settlement.step.attempt


def test_an_accepted_clone_is_polled_to_its_end() -> None:
    """202, 202 at the poll, 200: cloned, with one POST and its record before it."""
    settlement = fresh(("submit", Accepted(1800.0)), ("poll", Running()), ("poll", MADE))
    assert end(settlement) == (State.CLONED, 1)
    assert [record.state for record in settlement.records] == [State.SENT, State.ACCEPTED, State.CLONED]
    sent, accepted, cloned = settlement.records
    assert (sent.resource_uuid, sent.digest) == (RESOURCE_UUID, CLONE.digest)
    assert sent.job_uuid == settlement.jobs[0]
    assert accepted.deadline == pytest.approx(sent.at + 1860)
    assert cloned.clone_uuid == RESOURCE_UUID
    assert cloned.name == "x"


def test_a_synchronous_answer_is_an_end() -> None:
    """A 200 with the inventory needs no poll."""
    assert end(fresh(("submit", MADE))) == (State.CLONED, 1)


def test_duplicate_job_uuid_is_a_yes() -> None:
    """400 "Duplicate job uuid" means accepted before: poll it."""
    assert end(fresh(("submit", Duplicate()), ("poll", MADE))) == (State.CLONED, 1)


def test_a_lost_answer_is_reconciled_by_its_own_job() -> None:
    """A reset POST is polled under its own job uuid before anything is sent again."""
    settlement = fresh(("submit", LOST), ("poll", MADE))
    assert end(settlement) == (State.CLONED, 1)
    assert len(settlement.jobs) == 1


def test_a_lost_answer_is_reconciled_by_the_resource() -> None:
    """Job unknown but clone visible and matching: adopted, not sent again."""
    seen = ("find", Found(service()))
    settlement = fresh(("submit", LOST), ("poll", Unknown()), seen, *[("poll", Unknown())] * 3, seen)
    assert end(settlement) == (State.CLONED, 1)
    assert settlement.records[-1].adopted is True


def test_a_post_is_sent_again_only_after_the_resource_stayed_invisible() -> None:
    """Job unknown and clone invisible through all lookups: both uuids again, as a new recorded attempt."""
    absent = [("find", Absent())] * Policy().looks
    settlement = fresh(("submit", LOST), ("poll", Unknown()), *absent, ("submit", Accepted(None)), ("poll", MADE))
    assert end(settlement) == (State.CLONED, 2)
    assert settlement.jobs[0] == settlement.jobs[1]
    assert [r.attempt for r in settlement.records if r.state is State.SENT] == [1, 2]


def test_a_failed_job_is_retried_under_a_new_job_uuid() -> None:
    """Any terminal result uses the job uuid up: after a lookup the retry has a new one and the same resource uuid."""
    settlement = fresh(
        ("submit", Accepted(None)),
        ("poll", error(ErrorClass.TRANSIENT, "SYS.1011")),
        ("find", Absent()),
        ("submit", Accepted(None)),
        ("poll", MADE),
    )
    assert end(settlement) == (State.CLONED, 2)
    assert settlement.jobs[0] != settlement.jobs[1]


def test_a_failed_job_whose_clone_exists_is_adopted() -> None:
    """SYS.1001 though created: the resource uuid is looked up before any retry and before failed is written."""
    settlement = fresh(
        ("submit", Accepted(None)), ("poll", error(ErrorClass.AMBIGUOUS, "SYS.1001")), ("find", Found(service()))
    )
    assert end(settlement) == (State.CLONED, 1)


def test_a_visible_uuid_with_other_content_is_a_conflict() -> None:
    """SYS.1000 and the resource uuid visible but different: conflict, never adopted, no new resource uuid invented."""
    settlement = fresh(
        ("submit", Accepted(None)), ("poll", error(ErrorClass.AMBIGUOUS)), ("find", Found(service(name="y")))
    )
    assert end(settlement) == (State.CONFLICT, 1)
    assert "name" in (settlement.records[-1].error or "")
    assert settlement.records[-1].clone_uuid is None


def test_a_permanent_error_fails_without_retry() -> None:
    """SYS.1007 and the like: one POST, one lookup, failed with ZStack's code."""
    settlement = fresh(
        ("submit", Accepted(None)), ("poll", error(ErrorClass.PERMANENT, "SYS.1007", 0)), ("find", Absent())
    )
    assert end(settlement) == (State.FAILED, 1)
    assert (settlement.records[-1].error_code, settlement.records[-1].error) == ("SYS.1007", "text")


def test_a_refused_post_fails_after_one_lookup() -> None:
    """A 400 text was not executed; nothing is called failed without a last lookup."""
    refused = ("submit", error(ErrorClass.PERMANENT, "HTTP.400", 0))
    assert end(fresh(refused, ("find", Absent()))) == (State.FAILED, 1)
    assert end(fresh(refused, ("find", Found(service())))) == (State.CLONED, 1)


def test_transient_errors_are_retried_until_the_attempts_are_spent() -> None:
    """Four attempts, then failed: each reported by the server and none visible."""
    one = [("submit", Accepted(None)), ("poll", error(ErrorClass.TRANSIENT, "SYS.1011")), ("find", Absent())]
    settlement = fresh(*one * 4)
    assert end(settlement) == (State.FAILED, 4)
    assert len(set(settlement.jobs)) == 4


def test_sys_1000_is_retried_once() -> None:
    """SYS.1000 and the resource uuid not visible: one retry, then permanent."""
    one = [("submit", Accepted(None)), ("poll", error(ErrorClass.AMBIGUOUS, "SYS.1000", 1))]
    looks = [("find", Absent())] * Policy().looks
    assert end(fresh(*one, *looks, *one, *looks)) == (State.FAILED, 2)


def test_unanswered_attempts_end_uncertain_and_never_failed() -> None:
    """Lost, unknown and invisible to the last attempt: unknown is not failed."""
    one = [("submit", LOST), ("poll", Unknown()), *[("find", Absent())] * Policy().looks]
    assert end(fresh(*one * 4)) == (State.UNCERTAIN, 4)


def test_at_most_once_never_sends_again_after_an_unanswered_post() -> None:
    """If the resource uuid protects nothing, an unanswered POST is uncertain."""
    policy = Policy(at_most_once=True)
    settlement = fresh(("submit", LOST), ("poll", Unknown()), *[("find", Absent())] * policy.looks, policy=policy)
    assert end(settlement) == (State.UNCERTAIN, 1)


def test_a_job_that_never_ends_is_abandoned_at_its_deadline() -> None:
    """Endless 202s end at the deadline with a lookup of the resource uuid, and uncertain when nothing is visible."""
    policy = Policy(timeout=2.0)
    script: list[tuple[str, object]] = [("submit", Accepted(1800.0))]
    script += [("poll", Running())] * 4 + [("find", Absent())] * policy.looks
    settlement = fresh(*script, policy=policy)
    assert end(settlement) == (State.UNCERTAIN, 1)
    assert settlement.seconds >= 2.0


def test_a_job_that_never_ends_is_adopted_when_its_clone_is_visible() -> None:
    """Endless 202s though the clone exists: adopted once the server's own time is over."""
    script: list[tuple[str, object]] = [("submit", Accepted(1.0)), *[("poll", Running())] * 4]
    settlement = fresh(*script, ("find", Found(service())), policy=Policy(timeout=2.0))
    assert end(settlement) == (State.CLONED, 1)
    assert settlement.seconds >= 2.0


def test_no_byte_sent_charges_no_attempt() -> None:
    """A refused connection is tried again under the same record."""
    settlement = fresh(("submit", NotSent("refused")), ("submit", NotSent("refused")), ("submit", MADE))
    assert end(settlement) == (State.CLONED, 1)
    assert len(set(settlement.jobs)) == 1
    assert [record.state for record in settlement.records] == [State.SENT, State.CLONED]


def test_a_dead_session_is_renewed_without_charging_an_attempt() -> None:
    """ID.1001 at the poll: log in again, a new job uuid, the same resource uuid, the same attempt."""
    settlement = fresh(
        ("submit", Accepted(None)),
        ("poll", error(ErrorClass.RENEW, "ID.1001")),
        ("renew", None),
        ("submit", Accepted(None)),
        ("poll", MADE),
    )
    assert end(settlement) == (State.CLONED, 1)
    assert settlement.jobs[0] != settlement.jobs[1]


def test_a_fatal_error_stops_the_run_and_returns_the_attempt() -> None:
    """Credentials, licence, clock: the run stops and the clone is planned again."""
    with pytest.raises(RunStoppedError, match="LICENSE.1000: text"):
        fresh(("submit", Accepted(None)), ("poll", error(ErrorClass.FATAL, "LICENSE.1000")), ("find", Absent()))


def test_another_uuid_than_requested_stops_the_run() -> None:
    """inventory.uuid != the resource uuid: the server does not honour resourceUuid, unless the run is at most once."""
    other = Done(service("1" * 32))
    with pytest.raises(NotHonouredError, match="--at-most-once"):
        fresh(("submit", other))
    assert end(fresh(("submit", other), policy=Policy(at_most_once=True))) == (State.CLONED, 1)


def test_a_success_without_a_clone_is_looked_up() -> None:
    """200 {} is believed only when the resource uuid is visible."""
    assert end(fresh(("submit", Accepted(None)), ("poll", Done(None)), ("find", Found(service())))) == (
        State.CLONED,
        1,
    )
    absent = [("find", Absent())] * Policy().looks
    settlement = fresh(("submit", Done(None)), *absent, policy=Policy(attempts=1))
    assert end(settlement) == (State.UNCERTAIN, 1)


def test_an_accepted_job_may_be_unknown_for_a_moment() -> None:
    """404 right after 202 may be another node lagging behind: polled again before the resource is looked up."""
    settlement = fresh(("submit", Accepted(None)), ("poll", Unknown()), ("poll", Unknown()), ("poll", MADE))
    assert end(settlement) == (State.CLONED, 1)


def test_unanswered_queries_end_uncertain() -> None:
    """When neither the job nor the resource can be queried, the clone is uncertain."""
    settlement = fresh(("submit", LOST), ("poll", Unknown()), *[("find", LOST)] * Policy().max_failed_looks)
    assert end(settlement) == (State.UNCERTAIN, 1)


def test_an_account_that_may_not_look_cannot_prove_absence() -> None:
    """A permission denial at the lookup leaves a lost POST uncertain."""
    settlement = fresh(("submit", LOST), ("poll", Unknown()), ("find", error(ErrorClass.PERMANENT, "SYS.1006", 0)))
    assert end(settlement) == (State.UNCERTAIN, 1)


def intent(state: State, *, attempt: int = 1, age: float = 10.0) -> Intent:
    """Return what a manifest says of a clone sent ``age`` seconds ago."""
    at = EPOCH - age
    deadline = at + 1860 if state is State.ACCEPTED else None
    return Intent("a", state, CLONE.source_uuid, RESOURCE_UUID, CLONE.digest, attempt, "b" * 32, at, at, deadline)


def resumed(past: Intent, *script: tuple[str, object], policy: Policy | None = None) -> Settlement:
    """Settle a Clone the manifest knows."""
    return settle_scripted(list(script), first_step(past, policy or Policy(), now=EPOCH), policy=policy)


@pytest.mark.parametrize("state", [State.SENT, State.ACCEPTED, State.UNCERTAIN])
def test_a_resumed_clone_is_queried_first(state: State) -> None:
    """An open attempt is polled under its own job uuid before anything is sent."""
    settlement = resumed(intent(state), ("poll", MADE))
    assert end(settlement) == (State.CLONED, 1)
    assert settlement.calls == [("poll", "b" * 32)]


def test_an_old_job_uuid_is_not_sent_again() -> None:
    """After the server's memory of jobs a re-POST has a new job uuid: the old one could answer with an old result."""
    looks = [("find", Absent())] * Policy().looks
    settlement = resumed(intent(State.SENT, age=4000), ("poll", Unknown()), *looks, ("submit", MADE))
    assert end(settlement) == (State.CLONED, 2)
    assert settlement.jobs != ["b" * 32]
    young = resumed(intent(State.SENT), ("poll", Unknown()), *looks, ("submit", MADE))
    assert young.jobs == ["b" * 32]


def test_a_restart_does_not_reset_the_deadline() -> None:
    """The deadline comes from the manifest: past it, one 202 is enough to look up the resource."""
    settlement = resumed(intent(State.ACCEPTED, age=1900), ("poll", Running()), ("find", Found(service())))
    assert end(settlement) == (State.CLONED, 1)


def test_an_uncertain_clone_is_sent_again_by_the_next_run() -> None:
    """A rerun queries again, and if nothing shows it sends under a new job uuid with a new window."""
    looks = [("find", Absent())] * Policy().looks
    settlement = resumed(
        intent(State.UNCERTAIN, age=5000), ("poll", Running()), *looks, ("submit", Accepted(1800.0)), ("poll", MADE)
    )
    assert end(settlement) == (State.CLONED, 2)
    assert settlement.jobs != ["b" * 32]


def test_the_time_between_two_processes_is_not_the_clones_own() -> None:
    """A transient failure found after a crash is retried, however long the crash lasted."""
    ended = ("poll", error(ErrorClass.TRANSIENT, "SYS.1011"))
    past = intent(State.ACCEPTED, age=500)
    settlement = resumed(past, ended, ("find", Absent()), ("submit", MADE), policy=Policy(timeout=8.0))
    assert end(settlement) == (State.CLONED, 2)


def test_an_uncertain_clone_whose_job_failed_gets_a_new_window() -> None:
    """Its timeout began with its first POST long ago; the next run's POST begins a new one."""
    looks = [("find", Absent())] * Policy().looks
    ended = ("poll", error(ErrorClass.AMBIGUOUS, "SYS.1015"))
    settlement = resumed(intent(State.UNCERTAIN, age=500), ended, *looks, ("submit", MADE), policy=Policy(timeout=8.0))
    assert end(settlement) == (State.CLONED, 2)


def test_a_server_that_may_still_work_is_not_awaited_without_end() -> None:
    """An ambiguous end without attempts left is uncertain within the clone's time, and failed once that is over."""
    looks = [("find", Absent())] * Policy().looks
    ended = ("poll", error(ErrorClass.AMBIGUOUS, "SYS.1001"))
    young = resumed(intent(State.UNCERTAIN, attempt=4, age=60), ended, *looks)
    assert end(young) == (State.UNCERTAIN, 4)
    old = resumed(intent(State.UNCERTAIN, attempt=4, age=4000), ended, *looks)
    assert end(old) == (State.FAILED, 4)


def test_attempts_are_counted_across_resumes() -> None:
    """The fourth attempt of an earlier process was the last one."""
    looks = [("find", Absent())] * Policy().looks
    settlement = resumed(intent(State.SENT, attempt=4), ("poll", Unknown()), *looks)
    assert end(settlement) == (State.UNCERTAIN, 4)


def test_an_unanswered_target_fails_once_its_last_post_is_surely_dead() -> None:
    """Long after the last POST, unknown and invisible is a no."""
    looks = [("find", Absent())] * Policy().looks
    settlement = resumed(intent(State.UNCERTAIN, attempt=4, age=90_000), ("poll", Unknown()), *looks)
    assert end(settlement) == (State.FAILED, 4)


def test_a_clones_timeout_ends_the_retries() -> None:
    """No POST is sent after the clone's timeout: it settles as what is known by then."""
    settlement = fresh(
        ("submit", Accepted(None)),
        ("poll", error(ErrorClass.TRANSIENT, "SYS.1011")),
        ("find", Absent()),
        policy=Policy(timeout=0.2, backoff_base=60.0, backoff_cap=60.0),
    )
    assert end(settlement) == (State.FAILED, 1)
