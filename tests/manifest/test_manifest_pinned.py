"""Pinned lines: what a plan took from the server is reused when the run resumes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from batch.errors import ManifestError
from batch.manifest import Header, open_manifest
from batch.manifest.records import encode_pinned, parse_line
from batch.model import Pins

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import JsonValue

HEADER = Header("j", "r", "http://localhost/zstack", simulated=False)
CONDITIONS = ("type=Endpoint", "name~=qwen%")


def source(number: int) -> str:
    return f"{number:032x}"


async def test_pins_survive_the_process(tmp_path: Path) -> None:
    """Sources and query results of any number are read back whole, also the fields without a value."""
    fields: dict[str, JsonValue] = {
        "name": 'a"\n\u2028',
        "size": 7,
        "system": None,
        "modelServiceImages": [{"dockerImage": "x"}],
    }
    pins = Pins(
        {source(number): {**fields, "readme": "r" * 5000} for number in range(300)},
        {CONDITIONS: tuple(map(source, range(1234))), ("name=none",): ()},
    )
    first = open_manifest(tmp_path / "m", HEADER)
    await first.write_pins(pins)
    await first.close(4)
    second = open_manifest(tmp_path / "m", HEADER)
    assert second.past.pinned.pins == pins
    await second.close(4)
    assert max(map(len, (tmp_path / "m").read_bytes().splitlines())) < 1 << 20


async def test_later_pins_add_to_the_first(tmp_path: Path) -> None:
    """A field that a later plan needs is added to those of its source."""
    manifest = open_manifest(tmp_path / "m", HEADER)
    await manifest.write_pins(Pins({source(1): {"name": "a"}}))
    await manifest.write_pins(Pins({source(1): {"size": 1}}, {CONDITIONS: (source(1),)}))
    await manifest.close(4)
    again = open_manifest(tmp_path / "m", HEADER)
    assert again.past.pinned.pins == Pins({source(1): {"name": "a", "size": 1}}, {CONDITIONS: (source(1),)})
    await again.close(4)


def test_a_pinned_line_of_another_shape_is_damage() -> None:
    """A pinned line without sources is refused, not skipped."""
    with pytest.raises(ManifestError, match="not a source"):
        parse_line(b'{"pinned":{"a":1}')


def test_pinned_lines_are_json() -> None:
    """A pinned line is a JSON object whose first field says its kind."""
    (body,) = encode_pinned(Pins({source(1): {"name": "a"}}))
    assert json.loads(body + b"}") == {"pinned": {source(1): {"name": "a"}}}
