"""Reading without the lock: figures, rows and histories, also while a run writes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft7Validator

from batch.errors import ManifestError
from batch.manifest import open_manifest, rows, story, summary
from batch.manifest.kinds import EndedLine, PlanLine, PlannedLine, StartedLine
from batch.manifest.listing import Row
from batch.manifest.schema import manifest_schema
from batch.model import Record, State
from tests.manifest.manifest_world import HEADER, FakeDisk, cloned, failed, open_fake, plan, scan, sent, write_run

if TYPE_CHECKING:
    from pathlib import Path


def run_of(targets: int) -> bytes:
    disk = FakeDisk()
    asyncio.run(write_run(disk, targets))
    return disk.data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a run of 12 targets: 0, 5 and 10 failed, 11 stays sent, the others are cloned."""
    file = tmp_path / "m"
    file.write_bytes(run_of(12))
    return file


def test_summary_has_the_figures(path: Path) -> None:
    """Counts, plan, failures by code, the last process and its end are folded from the file."""
    found = summary(path)
    assert found.header == HEADER
    assert found.counts == {State.CLONED: 8, State.FAILED: 3, State.SENT: 1}
    assert [(cluster.code, cluster.count, cluster.key) for cluster in found.clusters] == [("SYS.1007", 3, "target-0")]
    assert found.plan is not None
    assert found.plan.targets == 12
    assert found.started is not None
    assert found.ended is not None
    assert found.ended.exit_code == 0
    assert found.settled_at == (20.0,) * 11
    assert found.torn_bytes == 0


def test_a_processs_warnings_are_recorded(tmp_path: Path) -> None:
    """The warnings at its start are in its first line, and the next process does not inherit them."""
    disk = FakeDisk()

    async def run() -> None:
        for warnings in (("the certificate is NOT checked",), ()):
            manifest = open_fake(disk)
            manifest.admitted = warnings
            await manifest.commit(sent("a" if warnings else "b"))
            await manifest.close(4)

    asyncio.run(run())
    (tmp_path / "m").write_bytes(disk.data)
    lines = [json.loads(line) for line in disk.data.splitlines()]
    started = [line for line in lines if "started" in line]
    assert [line.get("warnings") for line in started] == [["the certificate is NOT checked"], None]
    for line in lines:
        Draft7Validator(manifest_schema()).validate(line)
    found = summary(tmp_path / "m").started
    assert found is not None
    assert found.warnings == ()


def test_the_summary_counts_uncertain_targets_as_problems(tmp_path: Path) -> None:
    """An uncertain target is counted with its code, and a settled one no longer."""
    disk = FakeDisk()

    async def run() -> None:
        manifest = open_fake(disk)
        for key in "ab":
            await manifest.commit(sent(key))
            manifest.note(Record(State.UNCERTAIN, key, 11.0, 1, error_code="X", error="lost"))
        manifest.note(cloned("a"))
        manifest.note(failed("c"))
        await manifest.close(4)

    asyncio.run(run())
    (tmp_path / "m").write_bytes(disk.data)
    found = summary(tmp_path / "m")
    assert {(cluster.state, cluster.key) for cluster in found.clusters} == {
        (State.UNCERTAIN, "b"),
        (State.FAILED, "c"),
    }


def test_rows_come_in_the_order_of_the_plan(path: Path) -> None:
    """One row per target, in the plan's order, with the columns folded from its records."""
    found = list(rows(path))
    assert [row.key for row in found] == [f"target-{number}" for number in range(12)]
    assert found[1].clone_uuid is not None
    assert found[1] == Row(
        "target-1",
        "source of target-1",
        State.CLONED,
        found[1].clone_uuid,
        "clone of target-1",
        1,
        None,
        None,
        10.0,
        20.0,
    )
    assert (found[0].error_code, found[0].error) == ("SYS.1007", "invalid argument")
    assert (found[11].state, found[11].started_at, found[11].settled_at) == (State.SENT, 10.0, None)


async def test_rows_of_several_plans(tmp_path: Path) -> None:
    """Targets of later plans follow, also those that no plan line names, and planned ones have only a name."""
    path = tmp_path / "m"
    manifest = open_manifest(path, HEADER)
    await manifest.write_plan(plan(["a", "b"]), [("a", "a"), ("b", "source")])
    await manifest.commit(sent("stray"))
    await manifest.write_plan(plan(["a", "c"], "bb"), [("c", "c")])
    await manifest.commit(sent("a"))
    manifest.note(Record(State.PLANNED, "a", 30.0, 0))
    await manifest.close(4)
    found = {row.key: row for row in rows(path)}
    assert list(found) == ["a", "b", "stray", "c"]
    assert found["b"] == Row("b", "source", State.PLANNED, None, None, 0, None, None, None, None)
    assert (found["a"].state, found["a"].attempts, found["a"].started_at) == (State.PLANNED, 0, None)
    assert found["stray"].source_uuid == "source"


async def test_long_lines_are_read_again(tmp_path: Path) -> None:
    """A record longer than a usual one is listed whole."""
    path = tmp_path / "m"
    manifest = open_manifest(path, HEADER)
    manifest.note(Record(State.FAILED, "a", 1.0, 1, error="e" * 9_000))
    await manifest.close(3)
    assert [len(row.error or "") for row in rows(path)] == [9_000]


async def test_reading_while_a_run_writes(tmp_path: Path) -> None:
    """Figures and rows need no lock: they show what is written so far."""
    path = tmp_path / "m"
    manifest = open_manifest(path, HEADER)
    await manifest.commit(sent("a"))
    found = summary(path)
    assert found.counts == {State.SENT: 1}
    assert found.ended is None
    with path.open("ab") as file:
        file.write(b'{"state":"clo')
    assert summary(path).torn_bytes == 13
    assert len(list(rows(path))) == 1
    await manifest.close(0)


def test_growth_during_a_scan_is_no_damage(path: Path) -> None:
    """What a writer appends during a read is not taken for damage."""
    whole = path.read_bytes()
    cut = whole.rindex(b"\n", 0, -1) - 200
    path.write_bytes(whole[:cut])
    lines = scan(path)
    first = next(lines)
    assert isinstance(first, StartedLine)
    path.write_bytes(whole)
    assert list(lines)


def test_a_history_has_every_record(path: Path) -> None:
    """``show`` has every record of one target, none of the others, and knows a target that was only planned."""
    found = story(path, "target-5")
    assert found is not None
    assert [record.state for record in found.records] == [State.SENT, State.FAILED]
    assert found.source_uuid == "source of target-5"
    assert story(path, "unknown") is None


async def test_the_history_of_a_planned_and_of_an_unplanned_target(tmp_path: Path) -> None:
    """A target is known by its plan or by its records."""
    path = tmp_path / "m"
    manifest = open_manifest(path, HEADER)
    await manifest.write_plan(plan(["a"]), [("a", "source of a")])
    await manifest.commit(sent("b"))
    await manifest.close(4)
    planned, stray = story(path, "a"), story(path, "b")
    assert planned is not None
    assert (planned.source_uuid, planned.records) == ("source of a", ())
    assert stray is not None
    assert stray.source_uuid == "source"


def test_scan_yields_every_kind(path: Path) -> None:
    """``scan`` gives every line after the header as a value."""
    kinds = [type(line) for line in scan(path)]
    assert kinds.count(Record) == 23
    assert {PlanLine, PlannedLine, StartedLine, EndedLine, Record} == set(kinds)


def test_damage_is_named_with_its_line(path: Path) -> None:
    """A reader refuses damage in the middle as the writer does."""
    data = bytearray(path.read_bytes())
    data[data.index(b'"key":"target-3"') + 8] ^= 1
    path.write_bytes(data)
    for read in (summary, lambda at: list(rows(at)), lambda at: story(at, "target-1")):
        with pytest.raises(ManifestError, match=r"line 11: damaged.*zclone repair"):
            read(path)


def test_empty_file_is_no_manifest(tmp_path: Path) -> None:
    """A file without a whole header has no figures."""
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(ManifestError, match="not a zclone manifest"):
        summary(tmp_path / "m")


def test_every_line_meets_the_schema(path: Path) -> None:
    """The published schema describes every line that is written, and no other kind."""
    schema = manifest_schema()
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    for line in path.read_text().splitlines():
        validator.validate(json.loads(line))
    assert not validator.is_valid({"state": "sent", "key": "a", "at": 1, "attempt": 1, "batch": 1})
    assert not validator.is_valid({"weather": "fine", "batch": 1, "crc": "00000000"})


def test_no_secret_and_no_parameter_is_written(path: Path) -> None:
    """A record holds uuids, a digest and names, and no field for a parameter's value."""
    names = {name for line in path.read_text().splitlines() for name in json.loads(line)}
    assert not names & {"body", "params", "session", "password", "authorization"}
