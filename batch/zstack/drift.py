"""Compares a model service with the requested parameters, field by field, for ``verify``. Pure.

Source: zstack/README.md 1 and 4: nulls are left out of answers, texts are trimmed, architectures are in lower case,
images are rows of their own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import JsonValue

_IMAGES: Final = "architectureImages"
_SHOWN_IMAGES: Final = "modelServiceImages"
_ARCHITECTURE: Final = "cpuArchitecture"
_ARCHITECTURES: Final = "cpuArchitectures"


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
        found = inventory.get(shown)
        if found is None:
            if wanted != "":
                unseen.append((shown, Difference(name, wanted, None)))
        elif name == _IMAGES and isinstance(wanted, list) and isinstance(found, list):
            for field, difference in _image_differences(wanted, found):
                if difference.found is None and field:
                    unseen.append((f"{shown}.{field}", difference))
                else:
                    differences.append(difference)
        elif not _is_same(name, wanted, found):
            differences.append(Difference(name, wanted, found))
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
    if name == _ARCHITECTURES:
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
