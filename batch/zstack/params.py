"""The parameters of CloneModelService in one table, and the comparison of a service with those of a request.

A new parameter is a row here and a field in ``zstack/action.py``, the vendor's SDK; one that can be changed later is in
``SETTABLE`` too. ``jobfile/check.py`` checks values
by the table, ``plan/clones.py`` sends them; JSON Schema, docs and simulator use it too. What is compared before a clone
is adopted is in ``engine/comparison.py``.

Source: the vendor's API page (names, types, choices, since-versions), the server's database columns (limits), and
zstack/README.md 1 and 4 for the comparison: nulls are left out of answers, texts are trimmed, architectures are in
lower case, images are rows of their own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batch.model import JsonValue


class ParamType(StrEnum):
    """The API page's types; LONG and INTEGER differ in range only."""

    STRING = "String"
    INTEGER = "Integer"
    LONG = "Long"
    BOOLEAN = "Boolean"
    STRINGS = "List<String>"
    IMAGES = "List<ArchitectureImage>"
    """Rows of cpuArchitecture, vmImageUuid, dockerImage (IMAGE_FIELDS)."""
    UUIDS_BY_NAME = "Map<String, List<String>>"


@dataclass(frozen=True, slots=True)
class Param:
    """One row of the API page."""

    name: str
    type: ParamType
    since: tuple[int, int, int]
    description: str
    choices: tuple[str, ...] = ()
    max_bytes: int | None = None
    """Length of the database column, UTF-8 bytes for TEXT and characters for VARCHAR; None where none is known."""
    in_params: bool = True
    """False for the url's uuid and for the tags, which are beside ``params``."""


IMAGE_FIELDS: Final = {"cpuArchitecture": 32, "vmImageUuid": 32, "dockerImage": 255}
"""Fields of an architectureImages row and the length of their columns."""

ARCHITECTURES: Final = ("X86_64", "AARCH64")
"""Spelling in requests, as on the API page; answers use lower case."""

QUERY_OPERATORS: Final = ("!=", ">=", "<=", "!?=", "!~=", "~=", "?=", "=", ">", "<", "is null", "not null")
"""Operators of QueryModelService, in the order in which the server searches a condition for them (zstack/README.md
8)."""


def split_condition(text: str) -> tuple[str, str, str] | None:
    """Parse a query condition as the server does: its first operator in the server's order, at its first occurrence.

    Return field, operator and value; None where there is no operator.
    """
    parts = (text.partition(operator) for operator in QUERY_OPERATORS)
    return next(((field.strip(), operator, value) for field, operator, value in parts if operator), None)


_API = (5, 3, 20)
_ARCHITECTURES = (5, 3, 40)
_DISTRIBUTED = (5, 3, 46)
_CONTAINER = (5, 5, 22)

_ROWS: Final = (
    Param("uuid", ParamType.STRING, _API, "source model service", in_params=False),
    Param("name", ParamType.STRING, _API, "name of the clone", max_bytes=255),
    Param("description", ParamType.STRING, _API, "description", max_bytes=2048),
    Param("readme", ParamType.STRING, _API, "documentation of the model service", max_bytes=65535),
    Param("size", ParamType.LONG, _API, "size of the model service in bytes; omitted means 0, not the source's"),
    Param("gpuComputeCapability", ParamType.STRING, _API, "GPU compute capability, such as 7.5", max_bytes=32),
    Param("installPath", ParamType.STRING, _API, "URL where the model service is stored", max_bytes=512),
    Param("startCommand", ParamType.STRING, _API, "start command", max_bytes=1024),
    Param("pythonVersion", ParamType.STRING, _API, "Python version, such as 3.10", max_bytes=32),
    Param("condaVersion", ParamType.STRING, _API, "conda version", max_bytes=32),
    Param("system", ParamType.BOOLEAN, _API, "built-in model service; omitted means false, not the source's"),
    Param(
        "type",
        ParamType.STRING,
        _API,
        "kind of model service, exact case",
        choices=("Endpoint", "FineTune", "App", "ModelEval"),
        max_bytes=32,
    ),
    Param("yaml", ParamType.STRING, _API, "YAML configuration of the model service", max_bytes=16777215),
    Param(
        "source",
        ParamType.STRING,
        _API,
        "where the model service comes from, exact case",
        choices=("Other", "Bentoml", "HuggingFace"),
        max_bytes=32,
    ),
    Param("framework", ParamType.STRING, _API, "framework", max_bytes=255),
    Param("requestCpu", ParamType.INTEGER, _API, "CPUs requested"),
    Param("requestMemory", ParamType.LONG, _API, "memory requested"),
    Param("resourceUuid", ParamType.STRING, _API, "uuid of the clone; derived when omitted", max_bytes=32),
    Param("tagUuids", ParamType.STRINGS, _API, "uuids of tags to attach"),
    Param("systemTags", ParamType.STRINGS, _API, "system tags", in_params=False),
    Param("userTags", ParamType.STRINGS, _API, "user tags", in_params=False),
    Param("cpuArchitectures", ParamType.STRINGS, _ARCHITECTURES, "CPU architectures the clone supports", max_bytes=255),
    Param("architectureImages", ParamType.IMAGES, _ARCHITECTURES, "image of each CPU architecture"),
    Param("supportDistributed", ParamType.BOOLEAN, _DISTRIBUTED, "whether distributed inference is supported"),
    Param("containerCommand", ParamType.STRING, _CONTAINER, "start command of the container"),
    Param("containerArgs", ParamType.STRING, _CONTAINER, "arguments of the container's start command"),
    Param("vendorToSpecUuidsMap", ParamType.UUIDS_BY_NAME, _CONTAINER, "GPU spec uuids by GPU vendor"),
)

PARAMS: Final = {row.name: row for row in _ROWS}
"""Every parameter of the API page by name, in the page's order."""

BODY_PARAMS: Final = {name: row for name, row in PARAMS.items() if row.in_params}
"""The parameters that are inside ``params`` of the body."""

SETTABLE: Final = frozenset(
    {
        "name",
        "description",
        "yaml",
        "requestCpu",
        "requestMemory",
        "gpuComputeCapability",
        "startCommand",
        "containerCommand",
        "containerArgs",
        "pythonVersion",
        "type",
        "source",
        "framework",
        "architectureImages",
        "supportDistributed",
        "vendorToSpecUuidsMap",
    }
)
"""The parameters that UpdateModelService sets (zstack/README.md 11)."""


Version: TypeAlias = tuple[int, int, int]
_VERSION = re.compile(r"\s*v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


def parse_version(text: str) -> Version | None:
    """Parse ``5.3.46`` with an optional suffix; None where it is not a version."""
    match = _VERSION.match(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3] or 0))


def too_new(names: Iterable[str], version: Version) -> dict[str, Version]:
    """Return the parameters among ``names`` that the server does not support yet, with their first version."""
    return {name: PARAMS[name].since for name in names if name in PARAMS and PARAMS[name].since > version}


_IMAGES: Final = "architectureImages"
_SHOWN_IMAGES: Final = "modelServiceImages"
_ARCHITECTURE: Final = "cpuArchitecture"
_ARCHITECTURE_LIST: Final = "cpuArchitectures"


class Difference(NamedTuple):
    """One field that differs from the request."""

    field: str
    """Such as ``requestCpu`` or ``architectureImages[AARCH64].dockerImage``."""
    wanted: JsonValue
    found: JsonValue
    """None where the server has no value."""


class Comparison(NamedTuple):
    """Result of comparing one inventory with one request."""

    differences: tuple[Difference, ...] = ()
    unseen: tuple[tuple[str, Difference], ...] = ()
    """Fields that the inventory does not have, each after the name by which a server shows it: null, or never shown."""


def compare(params: Mapping[str, JsonValue], inventory: Mapping[str, JsonValue]) -> Comparison:
    """Compare the ``params`` of a request with an ``inventory``."""
    differences: list[Difference] = []
    unseen: list[tuple[str, Difference]] = []
    for name, wanted in params.items():
        shown = _SHOWN_IMAGES if name == _IMAGES else name
        value = inventory.get(shown)
        if value is None:
            if wanted != "":
                unseen.append((shown, Difference(name, wanted, None)))
        elif name == _IMAGES and isinstance(wanted, list) and isinstance(value, list):
            for field, difference in _image_differences(wanted, value):
                if difference.found is None and field:
                    unseen.append((f"{shown}.{field}", difference))
                else:
                    differences.append(difference)
        elif not _is_same(name, wanted, value):
            differences.append(Difference(name, wanted, value))
    return Comparison(tuple(differences), tuple(unseen))


def shown_names(inventory: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield the names of the fields that the server shows, those of images after ``modelServiceImages.``."""
    yield from inventory
    images = inventory.get(_SHOWN_IMAGES)
    for row in images if isinstance(images, list) else ():
        if isinstance(row, dict):
            yield from (f"{_SHOWN_IMAGES}.{name}" for name in row)


def _image_differences(wanted: list[JsonValue], found: list[JsonValue]) -> Iterator[tuple[str, Difference]]:
    """Yield the differences, each after the name of the image's field, empty for a whole image that is missing."""
    rows = [row for row in found if isinstance(row, dict)]
    for image in wanted:
        assert isinstance(image, dict)
        architecture = str(image.get(_ARCHITECTURE, ""))
        place = f"{_IMAGES}[{architecture}]"
        same = [row for row in rows if str(row.get(_ARCHITECTURE, "")).lower() == architecture.lower()]
        if not same:
            yield "", Difference(place, image, None)
            continue
        # A server may have several images of one architecture: the closest match counts.
        best = min((_row_differences(place, image, row) for row in same), key=len)
        yield from best


def _row_differences(
    place: str, image: Mapping[str, JsonValue], row: Mapping[str, JsonValue]
) -> list[tuple[str, Difference]]:
    return [
        (name, Difference(f"{place}.{name}", value, row.get(name)))
        for name, value in image.items()
        if name != _ARCHITECTURE and value not in (None, "") and not _is_same(name, value, row.get(name))
    ]


def _is_same(name: str, wanted: JsonValue, found: JsonValue) -> bool:
    if name == _ARCHITECTURE_LIST:
        return _architectures(wanted) == _architectures(found)
    if isinstance(wanted, dict) and isinstance(found, str):
        # Some answers have a map as one text.
        try:
            found = json.loads(found)
        except ValueError:
            return False
    return _plain(wanted) == _plain(found)


def _architectures(value: JsonValue) -> frozenset[str]:
    names = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return frozenset(str(name).strip().lower() for name in names)


def _plain(value: JsonValue) -> object:
    """Return the value as the server stores it; true is not 1."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return (isinstance(value, bool), value)
