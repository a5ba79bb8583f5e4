"""A failed job that left its row behind: what is there is compared with what was asked for, and never deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.engine.match import differences
from batch.engine.steps import End, Send
from batch.model import State
from batch.zstack.answers import Accepted, ApiError, ErrorClass, Found, Refused, Service
from tests.engine.world import CLONE, R, Told, service, tell

if TYPE_CHECKING:
    from batch.model import JsonValue

CLASSES = (ErrorClass.PERMANENT, ErrorClass.AMBIGUOUS, ErrorClass.TRANSIENT)


def left(found: Service, klass: ErrorClass = ErrorClass.PERMANENT) -> Told:
    """A job that ended with an error of ``klass`` and left ``found``."""
    failed = Refused(ApiError(klass, "SYS.1007", "the tag is doubled", 0))
    return tell([("submit", Accepted(None)), ("poll", failed), ("find", Found(found))], Send(1))


@pytest.mark.parametrize("klass", CLASSES)
def test_what_a_failed_job_left_whole_is_the_clone(klass: ErrorClass) -> None:
    """A row with everything as asked for is cloned, told as found by its uuid: one POST, and no second clone."""
    told = left(service(), klass)
    assert isinstance(told.step, End)
    assert told.kinds == ["submit", "poll", "find"]
    last = told.records[-1]
    assert (last.state, last.clone_uuid, last.adopted) == (State.CLONED, R, True)


@pytest.mark.parametrize("klass", CLASSES)
@pytest.mark.parametrize(("name", "value"), [("name", "half"), ("requestCpu", "0")])
def test_what_a_failed_job_left_half_is_for_the_operator(klass: ErrorClass, name: str, value: str) -> None:
    """A row that differs is a conflict that names the field; R stands on record, and nothing is sent any more."""
    told = left(service(**{name: value}), klass)
    assert isinstance(told.step, End)
    assert told.kinds == ["submit", "poll", "find"]
    last = told.records[-1]
    assert (last.state, last.clone_uuid) == (State.CONFLICT, None)
    assert name in (last.error or "")
    assert told.records[0].resource_uuid == R


def test_a_field_the_server_does_not_show_is_no_difference() -> None:
    """Older servers answer fewer fields: what is not shown cannot differ."""
    told = left(Service(R, "x", {"name": "x"}))
    assert told.records[-1].state is State.CLONED


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
def test_a_clone_without_its_images_is_half(shown: list[JsonValue] | None, expected: list[str]) -> None:
    """Every architecture has the image that was asked for, in whatever case and order the server shows them."""
    clone = CLONE._replace(params={"architectureImages": ASKED})
    assert differences(clone, Service(R, "x", {"modelServiceImages": shown})) == expected
