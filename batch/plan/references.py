"""The resources that a clone names besides its source: images, tags, GPU specs, accounts, its source's model centre."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.problems import Complaint, quote
from batch.plan.rearchitect import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import Clone, JsonValue

CENTER_FIELD: Final = "modelCenterUuid"
"""Field of a source's inventory."""
_WORD: Final = re.compile(r"\w{1,64}", re.ASCII)


class ReferenceKind(StrEnum):
    """Kind of resource that a uuid names."""

    IMAGE = "image"
    TAG = "tag"
    SPEC = "GPU spec"
    ACCOUNT = "account"
    CENTER = "model centre"


class Reference(NamedTuple):
    """One uuid of a clone and its place in the job file."""

    kind: ReferenceKind
    uuid: str
    path: str
    architecture: str | None = None
    """The architecture that the image is for."""


@dataclass(frozen=True, slots=True)
class ServerResources:
    """The server's data about the resources that a plan names."""

    rows: Mapping[ReferenceKind, Mapping[str, Mapping[str, JsonValue]]]
    """Rows by kind and uuid; a kind that could not be queried is missing, and is not checked."""
    centers: Mapping[str, str] = field(default_factory=dict)
    """Uuid of the model centre of each source."""
    shows_all: bool = True
    """Whether the account sees everything, so that a resource that is not shown does not exist."""


def model_centers(inventories: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, str]:
    """Return the model centre of each source that shows one; ``inventories``: by the sources' uuids."""
    shown = ((uuid, source.get(CENTER_FIELD)) for uuid, source in inventories.items())
    return {uuid: center for uuid, center in shown if isinstance(center, str) and _WORD.fullmatch(center)}


def references(clone: Clone, centers: Mapping[str, str]) -> Iterator[Reference]:
    """Yield the references of a clone; ``centers``: the model centre of each source."""
    yield from _images(clone.params.get("architectureImages"))
    yield from _each(ReferenceKind.TAG, "params.tagUuids", clone.params.get("tagUuids"))
    specs = clone.params.get(SPECS)
    if isinstance(specs, dict):
        for vendor, uuids in specs.items():
            yield from _each(ReferenceKind.SPEC, f"params.{SPECS}.{vendor}", uuids)
    if clone.hand_over is not None:
        if clone.hand_over.owner is not None:
            yield Reference(ReferenceKind.ACCOUNT, clone.hand_over.owner, "owner")
        for uuid in clone.hand_over.share_with:
            yield Reference(ReferenceKind.ACCOUNT, uuid, "share_with")
    center = centers.get(clone.source_uuid)
    if center is not None:
        yield Reference(ReferenceKind.CENTER, center, "")


def _images(value: JsonValue) -> Iterator[Reference]:
    for index, row in enumerate(value if isinstance(value, list) else ()):
        if not isinstance(row, dict):
            continue
        uuid, architecture = row.get("vmImageUuid"), row.get("cpuArchitecture")
        if isinstance(uuid, str):
            path = f"params.architectureImages[{index}].vmImageUuid"
            yield Reference(ReferenceKind.IMAGE, uuid, path, architecture if isinstance(architecture, str) else None)


def _each(kind: ReferenceKind, path: str, value: JsonValue) -> Iterator[Reference]:
    for index, uuid in enumerate(value if isinstance(value, list) else ()):
        if isinstance(uuid, str):
            yield Reference(kind, uuid, f"{path}[{index}]")


class ReferenceProblem(NamedTuple):
    """A problem of a reference."""

    complaint: Complaint
    is_warning: bool = False
    """The account may not see the resource, so that the reference may be valid."""


def check_references(clone: Clone, resources: ServerResources) -> Iterator[ReferenceProblem]:
    """Yield the problems of a clone's references, as far as the server's data show them."""
    for reference in references(clone, resources.centers):
        objection = judge(reference, resources)
        if objection is not None:
            yield objection


def judge(reference: Reference, resources: ServerResources) -> ReferenceProblem | None:
    """Return the problem of a reference; None where there is none, or its kind was not queried."""
    rows = resources.rows.get(reference.kind)
    if rows is None:
        return None
    row = rows.get(reference.uuid)
    if row is None:
        return _absence_problem(reference, shows_all=resources.shows_all)
    fault = _fault(reference, row)
    return None if fault is None else ReferenceProblem(Complaint(reference.path, f"{_name(reference)} {fault}"))


def _name(reference: Reference) -> str:
    whose = " of its source" if reference.kind is ReferenceKind.CENTER else ""
    return f"the {reference.kind}{whose} {reference.uuid}"


def _absence_problem(reference: Reference, *, shows_all: bool) -> ReferenceProblem:
    if shows_all:
        return ReferenceProblem(Complaint(reference.path, f"{_name(reference)} does not exist on the server"))
    message = f"warning: {_name(reference)} does not exist on the server, or this account may not see it"
    return ReferenceProblem(Complaint(reference.path, message), is_warning=True)


def _fault(reference: Reference, row: Mapping[str, JsonValue]) -> str | None:
    """Return why an existing resource cannot be used; None where it can."""
    if reference.kind is ReferenceKind.CENTER:
        status = row.get("status")
        return None if status in ("Connected", None) else f"is {_word(status)}, needs to be Connected"
    if reference.kind is ReferenceKind.IMAGE:
        return _image_fault(reference.architecture, row)
    return None


def _image_fault(wanted: str | None, row: Mapping[str, JsonValue]) -> str | None:
    for name, needed in (("status", "Ready"), ("state", "Enabled")):
        if row.get(name) not in (needed, None):
            return f"is {_word(row[name])}, needs to be {needed}"
    has = row.get("architecture")
    # zstack/README.md 4: requests write X86_64, answers x86_64.
    if wanted is None or not isinstance(has, str) or has.casefold() == wanted.casefold():
        return None
    return f"is for {_word(has)}, not for {wanted}"


def _word(value: JsonValue) -> str:
    """Return a word of the server; any other text is quoted, so that it cannot look like text of zclone."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else quote(value)
