"""Values on their way to Temporal and back: the histories of running workflows must stay readable."""

from __future__ import annotations

import json
import math
from dataclasses import is_dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload

from batch.errors import EndReason
from batch.model import Clone, HandOver, HandOverRecord, Intent, Limits, Record, State, Wave
from batch.temporal.messages import Course, Ending, Page, Part, Reply, Report
from batch.temporal.payloads import PayloadError, data_converter, dumps, loads
from batch.zstack import answers
from batch.zstack.answers import ApiError, ErrorClass, Refused, Service

_ERROR = ApiError(ErrorClass.NODE, "SYS.1010", "nicht bereit \udc80", 3, may_go_on=True)
_CLONE = Clone("k", "s", "r", '{"params": {"name": "ü$"}}'.encode(), "d", hand_over=HandOver("o", ("a", "b")))

VALUES: list[Any] = [
    None,
    {"a": [1, 2.5, True, None, "ü"], "$": "x"},
    (1, ("a", b"{}")),
    math.inf,
    answers.Accepted(1800.0),
    answers.Accepted(None),
    answers.Duplicate(),
    answers.Running(),
    answers.Unknown(),
    answers.Absent(),
    answers.Found(Service("u", None, {"cpu": 4, "$": [1]})),
    answers.Done(None),
    answers.Done(Service("u", "n", {})),
    answers.NotSent("refused", is_held_back=True),
    answers.NoAnswer("reset", 2.0, is_push_back=True),
    Refused(_ERROR),
    Reply(Refused(_ERROR), "worker:1", Ending("text", EndReason.LOGIN)),
    Record(State.UNCERTAIN, "k", 1.5, 2, open_jobs=("j", "unknown"), until=3.0),
    HandOverRecord("k", 1.0, HandOver("o"), "u", "SYS.1", "no"),
    Page("p", 3, "job", "run", (_CLONE,), (Intent("k", State.SENT, "s", "r", "d", 1, "j", 1.0, 1.0),), {"k": "u"}),
    Course(
        "s", "d", (Part(1, 2), Part(2, 1, is_new=True)), Limits(waves=(Wave(1), Wave(share=0.2))), {State.CLONED: 3}
    ),
    Report(1, {State.FAILED: 2}, 5, is_honoured=True, ending=Ending("x")),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_round_trip(value: Any) -> None:
    """Every answer, record and message is unchanged across the border, its type included."""
    found = loads(dumps(value))
    assert found == value
    assert type(found) is type(value)


@given(json_values, st.text())
def test_values_of_a_server_round_trip(shown: Any, text: str) -> None:
    """Fields of a service and texts may hold any JSON, also what looks like our own tags."""
    found = answers.Found(Service("u", text, {"shown": shown, "$": shown}))
    assert loads(dumps(found)) == found


def test_each_answer_can_cross_the_border() -> None:
    """No kind of answer that the engine decides on is missing from the table."""
    kinds = [kind for kind in vars(answers).values() if is_dataclass(kind) and isinstance(kind, type)]
    crossing = {type(value) for value in VALUES} | {ApiError, Service}
    assert set(kinds) <= crossing


def test_defaults_are_omitted() -> None:
    """A field that a later version adds is read from an older history as its default."""
    assert json.loads(dumps(Record(State.PLANNED, "k", 1.0))) == {
        "$": "Record",
        "state": {"$": "State", "is": "planned"},
        "key": "k",
        "at": 1.0,
    }


@pytest.mark.parametrize(
    "text", ['{"$":"Clown"}', '{"$":"Duplicate","since":1}', '{"$":"tuple"}', '{"$":"State","is":"x"}']
)
def test_another_version_is_refused(text: str) -> None:
    """An unknown class, field or value is an error, never a guess."""
    with pytest.raises((PayloadError, KeyError, ValueError)):
        loads(text.encode())


@pytest.mark.parametrize("value", [object(), {1, 2}, math.nan, {"a": object()}])
def test_only_known_values_cross_the_border(value: Any) -> None:
    """A value that is not in the table is an error where it is written."""
    with pytest.raises(ValueError, match=r"."):
        dumps(value)


async def test_a_payload_has_its_version() -> None:
    """Every payload names the version of its format, and one of another version is refused."""
    converter = data_converter()
    (payload,) = await converter.encode([Refused(_ERROR)])
    assert payload.metadata["zclone"] == b"1"
    assert await converter.decode([payload]) == [Refused(_ERROR)]
    newer = Payload(metadata={**payload.metadata, "zclone": b"2"}, data=payload.data)
    with pytest.raises(PayloadError):
        await converter.decode([newer])
