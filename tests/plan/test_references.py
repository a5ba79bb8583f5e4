"""What a clone references on the server, and how it is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.model import Clone, HandOver
from batch.plan.references import ReferenceKind, ServerResources, check_references, model_centers, references

if TYPE_CHECKING:
    from batch.model import JsonValue

SOURCE: Final = "d" * 32
IMAGE: Final = "1" * 32
TAG: Final = "2" * 32
SPEC: Final = "3" * 32
OWNER: Final = "4" * 32
PARTNER: Final = "5" * 32
CENTER: Final = "6" * 32
PARAMS: Final[dict[str, JsonValue]] = {
    "name": "n",
    "architectureImages": [
        {"cpuArchitecture": "X86_64", "dockerImage": "r/a"},
        {"cpuArchitecture": "AARCH64", "vmImageUuid": IMAGE},
    ],
    "tagUuids": [TAG],
    "vendorToSpecUuidsMap": {"NVIDIA": [SPEC]},
}


def clone(params: dict[str, JsonValue] = PARAMS, hand_over: HandOver | None = None) -> Clone:
    return Clone("k", SOURCE, "e" * 32, b"{}", "f" * 32, params, hand_over)


def found(kind: ReferenceKind, uuid: str, *, shows_all: bool = True, **fields: JsonValue) -> ServerResources:
    return ServerResources({kind: {uuid: fields}}, {SOURCE: CENTER}, shows_all=shows_all)


def test_every_uuid_has_its_place() -> None:
    """Images, tags, GPU specs, owner, shares and the source's model centre are reported with their paths."""
    named = references(clone(hand_over=HandOver(OWNER, (PARTNER,))), {SOURCE: CENTER})
    assert [(one.kind, one.uuid, one.path, one.architecture) for one in named] == [
        (ReferenceKind.IMAGE, IMAGE, "params.architectureImages[1].vmImageUuid", "AARCH64"),
        (ReferenceKind.TAG, TAG, "params.tagUuids[0]", None),
        (ReferenceKind.SPEC, SPEC, "params.vendorToSpecUuidsMap.NVIDIA[0]", None),
        (ReferenceKind.ACCOUNT, OWNER, "owner", None),
        (ReferenceKind.ACCOUNT, PARTNER, "share_with", None),
        (ReferenceKind.CENTER, CENTER, "", None),
    ]


def test_a_clone_may_reference_nothing() -> None:
    """A bare clone of a source whose model centre is unknown needs nothing more."""
    assert list(references(clone({}), {})) == []


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"state": "Enabled", "status": "Ready", "architecture": "aarch64"}, None),
        ({"state": "Enabled", "status": "Ready", "architecture": "AArch64"}, None),
        ({"state": "Enabled", "status": "Ready"}, None),
        ({}, None),
        ({"state": "Disabled", "status": "Ready"}, "is Disabled, needs to be Enabled"),
        ({"state": "Enabled", "status": "Downloading"}, "is Downloading, needs to be Ready"),
        ({"architecture": "x86_64"}, "is for x86_64, not for AARCH64"),
        ({"status": []}, "is [], needs to be Ready"),
    ],
)
def test_an_image_must_fit(fields: dict[str, Any], problem: str | None) -> None:
    """It is Ready, Enabled and of the architecture that it is named for; a missing field proves nothing."""
    objections = list(check_references(clone(), found(ReferenceKind.IMAGE, IMAGE, **fields)))
    texts = [one.complaint.message for one in objections]
    assert texts == ([] if problem is None else [f"the image {IMAGE} {problem}"])
    assert not any(one.is_warning for one in objections)


@pytest.mark.parametrize(("status", "problem"), [("Connected", False), (None, False), ("Disconnected", True)])
def test_a_model_centre_must_be_connected(status: str | None, *, problem: bool) -> None:
    """It is the source's, so that the source's place is reported."""
    fields: dict[str, Any] = {} if status is None else {"status": status}
    objections = list(check_references(clone(), found(ReferenceKind.CENTER, CENTER, **fields)))
    message = f"the model centre of its source {CENTER} is Disconnected, needs to be Connected"
    assert [tuple(one.complaint[:2]) for one in objections] == ([("", message)] if problem else [])


def test_texts_of_the_server_are_quoted() -> None:
    """A status that is no word is quoted and cut, and a model centre that is no uuid is not queried."""
    (objection,) = check_references(
        clone(), found(ReferenceKind.IMAGE, IMAGE, status="Bad\nerror: all is lost " + "x" * 99)
    )
    assert "\n" not in objection.complaint.message
    assert len(objection.complaint.message) < 160
    shown: dict[str, dict[str, JsonValue]] = {
        "a": {"modelCenterUuid": CENTER},
        "b": {"modelCenterUuid": "x\ny"},
        "c": {"modelCenterUuid": 5},
        "d": {},
    }
    assert model_centers(shown) == {"a": CENTER}


@pytest.mark.parametrize("kind", [ReferenceKind.IMAGE, ReferenceKind.TAG, ReferenceKind.SPEC, ReferenceKind.ACCOUNT])
def test_an_invisible_reference_is_missing_to_an_admin_only(kind: ReferenceKind) -> None:
    """Others may not see everything, so that they are only warned; a kind that was not queried is not judged."""
    what = clone(hand_over=HandOver(OWNER, ()))
    (certain,) = check_references(what, found(kind, "0" * 32))
    assert (certain.is_warning, certain.complaint.message.endswith("does not exist on the server")) == (False, True)
    (unsure,) = check_references(what, found(kind, "0" * 32, shows_all=False))
    assert unsure.is_warning
    assert unsure.complaint.message.startswith(f"warning: the {kind} ")
    assert "or this account may not see it" in unsure.complaint.message
