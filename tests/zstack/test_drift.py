"""The request compared with what the server shows: equal, different, or not visible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batch.zstack.params import Comparison, Difference, compare, shown_names

if TYPE_CHECKING:
    from batch.model import JsonValue

IMAGE: dict[str, JsonValue] = {"cpuArchitecture": "AARCH64", "vmImageUuid": "1" * 32, "dockerImage": "r/a:1"}
SHOWN: dict[str, JsonValue] = {**IMAGE, "cpuArchitecture": "aarch64", "uuid": "2" * 32}
OTHER: dict[str, JsonValue] = {"cpuArchitecture": "x86_64", "vmImageUuid": "3" * 32, "dockerImage": "r/x:1"}


@pytest.mark.parametrize(
    ("name", "wanted", "shown"),
    [
        ("name", " qwen ", "qwen"),
        ("name", "", None),
        ("requestCpu", 4, 4.0),
        ("system", True, True),
        ("cpuArchitectures", ["X86_64", "AARCH64"], ["aarch64", "x86_64"]),
        ("cpuArchitectures", ["X86_64", "AARCH64"], "x86_64,aarch64"),
        ("vendorToSpecUuidsMap", {"NVIDIA": ["1" * 32]}, {"NVIDIA": ["1" * 32]}),
        ("vendorToSpecUuidsMap", {"NVIDIA": ["1" * 32]}, '{"NVIDIA": ["11111111111111111111111111111111"]}'),
    ],
)
def test_another_form_of_the_same_value_is_no_difference(name: str, wanted: JsonValue, shown: JsonValue) -> None:
    """Blanks at the ends, the case of architectures, their order and a map written as text are the server's own."""
    assert compare({name: wanted}, {name: shown}) == Comparison()


@pytest.mark.parametrize(
    ("name", "wanted", "shown"),
    [
        ("name", "qwen", "Qwen"),
        ("requestCpu", 4, 5),
        ("system", True, 1),
        ("system", False, True),
        ("requestCpu", 1, True),
        ("cpuArchitectures", ["X86_64"], ["x86_64", "aarch64"]),
        ("vendorToSpecUuidsMap", {"NVIDIA": ["1" * 32]}, "no JSON"),
        ("vendorToSpecUuidsMap", {"NVIDIA": ["1" * 32]}, {"NVIDIA": ["2" * 32]}),
        ("description", "text", ""),
    ],
)
def test_any_other_value_is_a_difference(name: str, wanted: JsonValue, shown: JsonValue) -> None:
    """A value of another meaning is a difference, reported with both; true is not 1."""
    assert compare({name: wanted}, {name: shown}) == Comparison((Difference(name, wanted, shown),))


def test_a_missing_field_is_unseen() -> None:
    """A field that the inventory does not have, or has as null, is neither equal nor different."""
    unseen = (("requestCpu", Difference("requestCpu", 4, None)),)
    assert compare({"requestCpu": 4}, {}) == compare({"requestCpu": 4}, {"requestCpu": None}) == Comparison((), unseen)
    images = (("modelServiceImages", Difference("architectureImages", [IMAGE], None)),)
    assert compare({"architectureImages": [IMAGE]}, {}) == Comparison((), images)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([SHOWN], Comparison()),
        ([OTHER, SHOWN], Comparison()),
        ([{**SHOWN, "dockerImage": "r/a:2"}, SHOWN], Comparison()),
        ([OTHER], Comparison((Difference("architectureImages[AARCH64]", IMAGE, None),))),
        (
            [{**SHOWN, "dockerImage": "r/a:2"}],
            Comparison((Difference("architectureImages[AARCH64].dockerImage", "r/a:1", "r/a:2"),)),
        ),
        (
            [{"cpuArchitecture": "aarch64", "dockerImage": "r/a:1"}],
            Comparison(
                (),
                (
                    (
                        "modelServiceImages.vmImageUuid",
                        Difference("architectureImages[AARCH64].vmImageUuid", "1" * 32, None),
                    ),
                ),
            ),
        ),
    ],
)
def test_images_are_compared_by_architecture(rows: list[JsonValue], expected: Comparison) -> None:
    """Each requested image is searched under its architecture, in any case; others do not matter."""
    assert compare({"architectureImages": [IMAGE]}, {"modelServiceImages": rows}) == expected


def test_shown_fields_have_their_names() -> None:
    """The fields of an inventory are named as they are, those of its images after the list's name."""
    assert set(shown_names({"uuid": "u", "modelServiceImages": [{"dockerImage": "d"}, 5]})) == {
        "uuid",
        "modelServiceImages",
        "modelServiceImages.dockerImage",
    }
