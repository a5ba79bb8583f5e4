"""After the loss of any subset of a target's lines, the repaired manifest can be read."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

import pytest

from batch.manifest.fold import ManifestFold
from batch.manifest.line import Header
from batch.manifest.reader import open_reader
from batch.manifest.records import encode_planned, encode_record
from batch.manifest.repair import repair_manifest
from batch.model import Record, State

if TYPE_CHECKING:
    from pathlib import Path

UUID = "ab" * 16


def record(state: State, attempt: int, job: str | None = None, *, retried: bool | None = None) -> bytes:
    sent = state is State.SENT
    return encode_record(
        Record(
            state,
            "a",
            100.0 + attempt,
            attempt,
            source_uuid="s" if sent else None,
            resource_uuid=UUID if sent else None,
            job_uuid=job,
            digest="cd" * 16 if sent else None,
            clone_uuid=UUID if state is State.CLONED else None,
            retried=retried,
        )
    )


BODIES = [
    Header("job", "default", "url", simulated=False).body(),
    encode_planned([("a", "s")]),
    record(State.SENT, 1, "1"),
    record(State.FAILED, 1),
    record(State.PLANNED, 0, retried=True),
    record(State.SENT, 1, "2"),
    record(State.ACCEPTED, 1, "2"),
    record(State.CLONED, 1),
]


def lines() -> list[bytes]:
    found, crc = [], 0
    for number, bare in enumerate(BODIES):
        body = bare + b',"batch":%d' % number
        crc = zlib.crc32(body, crc)
        found.append(body + b',"crc":"%08x"}\n' % crc)
    return found


@pytest.mark.parametrize("lost", range(1, 1 << (len(BODIES) - 1)), ids=bin)
def test_the_rest_can_be_folded(lost: int, tmp_path: Path) -> None:
    """Whichever lines are damaged, the repaired file can be folded."""
    spoilt = [
        b"#" * (len(line) - 19) + line[-19:] if number and lost >> (number - 1) & 1 else line
        for number, line in enumerate(lines())
    ]
    path, out = tmp_path / "damaged.jsonl", tmp_path / "repaired.jsonl"
    path.write_bytes(b"".join(spoilt))
    repair_manifest(path, out)
    past = ManifestFold()
    with open_reader(out) as manifest:
        past.add_all(manifest.bodies())
        past.finish()
    assert all(json.loads(line) for line in out.read_bytes().splitlines())
    assert past.is_repaired
