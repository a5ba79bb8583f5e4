"""The server check's canary and its doubtful answers, with scripted answers on a virtual clock."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import pytest

from batch.engine.validation import CheckOutcome, CheckResult, UnexpectedCloneError, check_all
from batch.errors import RunStoppedError
from batch.zstack.answers import Absent, Accepted, ApiError, Done, ErrorClass, Found, NoAnswer, Refused, Running
from tests.engine.scripted_api import CLONE, RESOURCE_UUID, ScriptedApi, service
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from batch.model import Clone

Script = list[tuple[str, object]]
SENT: Final[Script] = [("submit", Accepted(1800.0)), ("poll", Running()), ("poll", Done(None))]


def refused(error_class: ErrorClass, *, retries: int | None = None) -> Script:
    return [("submit", Accepted(None)), ("poll", Refused(ApiError(error_class, "SYS.1", "no", retries, "hint")))]


def check(script: Script, clones: int = 1) -> list[CheckResult]:
    """Check the same clone ``times`` times; the script must be used up."""
    loop = VirtualLoop()
    api, results = ScriptedApi(list(script)), list[CheckResult]()

    def keep(_clone: Clone, verdict: CheckResult) -> None:
        results.append(verdict)

    work = check_all(iter([CLONE] * clones), keep, api=api, clock=VirtualClock(loop, Random(1)), workers=1)
    try:
        run_virtual(loop, work)
    finally:
        assert not api.script
    return results


def test_only_the_first_accepted_one_is_checked_for_existence() -> None:
    """Only for the canary is it checked whether something was made; the others are believed."""
    results = check([*SENT, ("find", Absent()), *SENT, *SENT], clones=3)
    assert [verdict.outcome for verdict in results] == [CheckOutcome.OK] * 3


def test_a_canary_that_exists_stops_everything() -> None:
    """A job that ends empty although the resource exists is a server that clones."""
    with pytest.raises(UnexpectedCloneError) as caught:
        check([*SENT, ("find", Found(service()))], clones=3)
    assert caught.value.uuid == RESOURCE_UUID


def test_an_answer_with_an_inventory_stops_everything() -> None:
    """Whatever a later job shows as made is reported, under the server's uuid."""
    made = [("submit", Accepted(None)), ("poll", Done(service("f" * 32)))]
    with pytest.raises(UnexpectedCloneError) as caught:
        check([*SENT, ("find", Absent()), *made], clones=2)
    assert caught.value.uuid == "f" * 32


def test_a_canary_whose_absence_cannot_be_proven_stops_everything() -> None:
    """Without proof that nothing was made no second one is sent."""
    with pytest.raises(RunStoppedError, match=RESOURCE_UUID):
        check([*SENT, *[("find", NoAnswer("reset"))] * 4], clones=2)


def test_refusals_before_the_canary_go_one_by_one() -> None:
    """A refusal is reported with code, words and hint, and the next one is the canary."""
    results = check([*refused(ErrorClass.PERMANENT), *SENT, ("find", Absent())], clones=2)
    assert results == [CheckResult(CheckOutcome.REFUSED, "SYS.1", "no", "hint"), CheckResult(CheckOutcome.OK)]


def test_doubtful_answers_are_queried_again_under_the_same_uuid() -> None:
    """After an error that may hide an execution the resource is looked up first; a dead session is renewed."""
    doubtful = [*refused(ErrorClass.AMBIGUOUS, retries=1), ("find", Absent())]
    assert check([*doubtful, *doubtful])[0].outcome is CheckOutcome.REFUSED
    again = [*refused(ErrorClass.RENEW), ("renew", None), *refused(ErrorClass.TRANSIENT), *SENT, ("find", Absent())]
    assert check(again) == [CheckResult(CheckOutcome.OK)]
    with pytest.raises(UnexpectedCloneError):
        check([*refused(ErrorClass.AMBIGUOUS), ("find", Found(service()))])


def test_an_error_that_applies_to_all_stops_everything() -> None:
    """A wrong licence or clock is reported once and not for every target."""
    with pytest.raises(RunStoppedError, match="SYS.1: no"):
        check(refused(ErrorClass.FATAL), clones=5)


def test_a_canary_without_an_answer_stops_everything() -> None:
    """A job that never ends is unclear, and no other is sent after it."""
    loop = VirtualLoop()

    class Silent(ScriptedApi):
        def _next(self, kind: str, argument: str) -> object:
            self.calls.append((kind, argument))
            return {"submit": Accepted(None), "poll": Running(), "find": Absent()}[kind]

    api, results = Silent([]), list[CheckResult]()
    clock = VirtualClock(loop, Random(1))
    work = check_all(iter([CLONE, CLONE]), lambda _, verdict: results.append(verdict), api=api, clock=clock, workers=1)
    with pytest.raises(RunStoppedError, match="did not end in time"):
        run_virtual(loop, work)
    assert [verdict.outcome for verdict in results] == [CheckOutcome.UNCLEAR]
    assert sum(kind == "submit" for kind, _ in api.calls) == 4


def test_an_immediate_answer_needs_no_poll() -> None:
    """A refusal of the POST itself is the verdict; the target is not queried."""
    results = check([("submit", Refused(ApiError(ErrorClass.PERMANENT, "SYS.1007", "no", 0, "hint")))])
    assert [verdict.outcome for verdict in results] != [CheckOutcome.OK]
