"""A failed job that left its row behind: the row is compared with the request, and never deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.engine.comparison import differing_params
from batch.engine.policy import Policy
from batch.engine.steps import End, Send
from batch.model import State
from batch.zstack.answers import (
    Absent,
    Accepted,
    ApiError,
    Done,
    ErrorClass,
    Found,
    NoAnswer,
    Refused,
    Running,
    Service,
)
from tests.engine.scripted_api import CLONE, RESOURCE_UUID, Settlement, service, settle_scripted

if TYPE_CHECKING:
    from batch.model import JsonValue
    from batch.zstack.answers import PollAnswer

CLASSES = (ErrorClass.PERMANENT, ErrorClass.AMBIGUOUS, ErrorClass.TRANSIENT)


def settle_failed_job(found: Service, error_class: ErrorClass = ErrorClass.PERMANENT) -> Settlement:
    """Settle a job that ended with an error of ``error_class`` and left ``found``."""
    failed = Refused(ApiError(error_class, "SYS.1007", "the tag is doubled", 0))
    return settle_scripted([("submit", Accepted(None)), ("poll", failed), ("find", Found(found))], Send(1))


@pytest.mark.parametrize("error_class", CLASSES)
def test_a_complete_row_of_a_failed_job_is_the_clone(error_class: ErrorClass) -> None:
    """A row with everything as requested is cloned, recorded as found by its uuid: one POST, and no second clone."""
    settlement = settle_failed_job(service(), error_class)
    assert isinstance(settlement.step, End)
    assert settlement.kinds == ["submit", "poll", "find"]
    last = settlement.records[-1]
    assert (last.state, last.clone_uuid, last.adopted) == (State.CLONED, RESOURCE_UUID, True)


@pytest.mark.parametrize("error_class", CLASSES)
@pytest.mark.parametrize(("name", "value"), [("name", "half"), ("requestCpu", "0")])
def test_an_incomplete_row_of_a_failed_job_is_a_conflict(error_class: ErrorClass, name: str, value: str) -> None:
    """A row that differs is a conflict that names the field; the uuid is recorded, and nothing more is sent."""
    settlement = settle_failed_job(service(**{name: value}), error_class)
    assert isinstance(settlement.step, End)
    assert settlement.kinds == ["submit", "poll", "find"]
    last = settlement.records[-1]
    assert (last.state, last.clone_uuid) == (State.CONFLICT, None)
    assert name in (last.error or "")
    assert settlement.records[0].resource_uuid == RESOURCE_UUID


def test_a_field_the_server_does_not_show_is_no_difference() -> None:
    """Older servers answer fewer fields: a missing one cannot differ."""
    settlement = settle_failed_job(Service(RESOURCE_UUID, "x", {"name": "x"}))
    assert settlement.records[-1].state is State.CLONED


ASKED: list[JsonValue] = [
    {"cpuArchitecture": "X86_64", "vmImageUuid": "a" * 32, "dockerImage": "r/x86:1"},
    {"cpuArchitecture": "AARCH64", "dockerImage": "r/arm:1"},
]
WHOLE: list[JsonValue] = [
    {"cpuArchitecture": "x86_64", "vmImageUuid": "a" * 32, "dockerImage": "r/x86:1", "uuid": "1"},
    {"cpuArchitecture": "aarch64", "vmImageUuid": "b" * 32, "dockerImage": "r/arm:1", "uuid": "2"},
]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (WHOLE, []),
        ([*reversed(WHOLE), {"cpuArchitecture": "loongarch64"}], []),
        (None, []),
        (WHOLE[:1], ["architectureImages"]),
        ([], ["architectureImages"]),
        ([{"cpuArchitecture": "x86_64", "vmImageUuid": "a" * 32, "dockerImage": "r/x86:2"}], ["architectureImages"]),
    ],
)
def test_a_clone_without_its_images_is_incomplete(shown: list[JsonValue] | None, expected: list[str]) -> None:
    """Every architecture has the requested image, in any case and order the server shows them."""
    clone = CLONE._replace(params={"architectureImages": ASKED})
    assert differing_params(clone, Service(RESOURCE_UUID, "x", {"modelServiceImages": shown})) == expected


RUNNING: list[tuple[str, object]] = [("submit", Accepted(1800.0)), ("poll", Running()), ("find", Found(service()))]
"""A job that still runs at the user's timeout, and already shows its clone."""


@pytest.mark.parametrize("last", [Running(), NoAnswer("lost")])
def test_a_clone_of_a_running_job_is_not_made_yet(last: PollAnswer) -> None:
    """A complete row of a running job is uncertain, without an end: if the job fails the row is removed."""
    settlement = settle_scripted(
        [*RUNNING, ("poll", last), ("find", Found(service()))], Send(1), policy=Policy(timeout=0.1)
    )
    assert isinstance(settlement.step, End)
    assert (settlement.step.state, settlement.step.until) == (State.UNCERTAIN, None)


def test_a_job_that_ended_meanwhile_is_polled_before_the_verdict() -> None:
    """Its own end counts, whether the clone stays or is gone."""
    made = settle_scripted([*RUNNING, ("poll", Done(service()))], Send(1), policy=Policy(timeout=0.1))
    assert made.records[-1].state is State.CLONED
    failed = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1007", "the disk is full", 0))
    gone = settle_scripted([*RUNNING, ("poll", failed), ("find", Absent())], Send(1), policy=Policy(timeout=0.1))
    assert gone.records[-1].state is State.FAILED
