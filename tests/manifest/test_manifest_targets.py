"""The targets of a manifest one by one, as ``verify`` compares them: what was made, by whom, and its possible owner."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft7Validator

import batch.manifest as manifest_package
from batch.errors import REPAIRED, ManifestError
from batch.manifest import open_manifest
from batch.manifest.kinds import ConnectedLine, ControlledLine, DeletingLine, HandOverTry, UpdatedLine, UpdatingLine
from batch.manifest.operations import encode_operation, parse_connected
from batch.manifest.records import parse_line
from batch.manifest.repair import repair_manifest
from batch.manifest.schema import manifest_schema
from batch.manifest.targets import open_targets
from batch.model import UNKNOWN_JOB, HandOver, HandOverRecord, Pins, Plan, Record, State
from tests.manifest.manifest_world import HEADER, cloned, failed, hex_id, inline, sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.manifest import Manifest
    from batch.manifest.operations import Operation
    from batch.manifest.target_state import TargetState

ALICE, BOB = "a" * 32, "b" * 32
KEYS = ("k0", "k1", "k2", "k3")


def nothing(_manifest: Manifest) -> None:
    """Write no more."""


async def write(path: Path, account: str | None, *records: Record, act: Callable[[Manifest], None] = nothing) -> None:
    """Write one process that calls as ``account`` and notes ``records``."""
    manifest = open_manifest(path, HEADER, in_thread=inline, clock=lambda: 1_000.0)
    manifest.note_operation(ConnectedLine(1_000.0, account, 20.0))
    await manifest.write_plan(
        Plan("job", "run", "aa", 4, lambda: iter(()), inputs="in"), ((key, f"s-{key}") for key in KEYS)
    )
    for record in records:
        manifest.note(record)
    act(manifest)
    await manifest.close(4)


def targets_of(path: Path) -> dict[str, TargetState]:
    with open_targets(path) as targets:
        found = [targets.read(ordinal) for ordinal in range(len(targets))]
        assert [targets.find(target.key) for target in found] == [*range(len(found))]
    return {target.key: target for target in found}


async def test_each_target_is_as_its_last_record_says(tmp_path: Path) -> None:
    """State, uuid, name, digest and error are those of the last record, the uuid of an attempt if there is no clone."""
    path = tmp_path / "m"
    await write(path, ALICE, sent("k0"), cloned("k0"), sent("k1"), failed("k1"), sent("k2"))
    found = targets_of(path)
    assert {key: target.state for key, target in found.items()} == dict(
        zip(KEYS, (State.CLONED, State.FAILED, State.SENT, State.PLANNED), strict=True)
    )
    first = found["k0"]
    assert (first.source_uuid, first.clone_uuid, first.name) == ("s-k0", hex_id(1), "clone of k0")
    assert (first.digest, first.attempts) == (hex_id(0xD1 << 120), 1)
    assert (found["k1"].error_code, found["k2"].clone_uuid, found["k3"].clone_uuid) == ("SYS.1007", hex_id(1), None)


async def test_the_longest_stated_api_timeout_counts(tmp_path: Path) -> None:
    """How long the server may work on a clone is the longest it stated for any; None if it never did."""
    path = tmp_path / "m"
    await write(path, ALICE, sent("k0"))
    with open_targets(path) as targets:
        assert targets.api_timeout is None
    times = (7200.0, 1800.0)
    accepted = [sent("k0")._replace(state=State.ACCEPTED, api_timeout=seconds) for seconds in times]
    await write(path, ALICE, *accepted)
    with open_targets(path) as targets:
        assert targets.api_timeout == 7200.0


@pytest.mark.parametrize(
    ("first", "second", "maker"),
    [(ALICE, ALICE, ALICE), (ALICE, BOB, None), (None, ALICE, None), (ALICE, None, None)],
)
async def test_the_maker_is_the_account_of_all_attempts(
    first: str | None, second: str | None, maker: str | None, tmp_path: Path
) -> None:
    """With two accounts, or one that is not recorded, there is no maker."""
    path = tmp_path / "m"
    await write(path, first, sent("k0"))
    await write(path, second, sent("k0", 2), cloned("k0", 2))
    assert targets_of(path)["k0"].account == maker


async def test_another_generation_is_another_clone(tmp_path: Path) -> None:
    """An undone clone does not affect the maker or owner of the next one."""
    path = tmp_path / "m"

    def give(manifest: Manifest) -> None:
        manifest.note_hand_over(HandOverRecord("k0", 25.0, HandOver(BOB), hex_id(1)))

    await write(path, ALICE, sent("k0"), cloned("k0"), act=give)
    assert targets_of(path)["k0"].has_new_owner
    undone = Record(State.UNDONE, "k0", 30.0, 1, resource_uuid=hex_id(1), clone_uuid=hex_id(1))
    await write(path, BOB, undone, Record(State.PLANNED, "k0", 31.0), sent("k0"), cloned("k0"))
    with open_targets(path) as targets:
        assert targets.undone.generation("k0") == 1
        assert (targets.read(0).account, targets.read(0).has_new_owner) == (BOB, False)


async def test_the_facts_of_the_whole_run(tmp_path: Path) -> None:
    """Plan, pins, rate, end, lines and checksums are those of the file; a share is no new owner."""
    path = tmp_path / "m"

    def share(manifest: Manifest) -> None:
        manifest.note_hand_over(HandOverRecord("k0", 25.0, HandOver(None, (BOB,)), hex_id(1)))

    await write(path, ALICE, sent("k0"), cloned("k0"), act=share)
    manifest = open_manifest(path, HEADER, in_thread=inline)
    await manifest.adopt("somebody")
    await manifest.write_pins(Pins({"u": {"name": "a"}}))
    await manifest.close(3)
    data = path.read_bytes()
    with open_targets(path) as targets:
        assert targets.plan is not None
        assert (targets.plan.digest, targets.plans, targets.has_hand_overs) == ("aa", {"aa"}, False)
        assert targets.pins == Pins({"u": {"name": "a"}})
        assert targets.ended is not None
        assert (targets.ended.exit_code, targets.rate) == (3, None)
        assert not targets.read(0).has_new_owner
        assert targets.find("nobody") is None
        assert (targets.lines, targets.later_lines) == (data.count(b"\n"), 0)
        assert targets.sha256() == hashlib.sha256(data).hexdigest()
        assert data.splitlines()[-1].endswith(f'"crc":"{targets.checksum}"}}'.encode())
        assert '"key":"k0","at":20.0' in data.splitlines()[targets.line_of(0) - 1].decode()
        assert b'"planned"' in data.splitlines()[targets.line_of(3) - 1]


async def test_the_first_lines_are_read_alone(tmp_path: Path) -> None:
    """With a number of lines, what comes after them is counted and not used."""
    path = tmp_path / "m"
    await write(path, ALICE, sent("k0"))
    lines = path.read_bytes().count(b"\n")
    first = path.read_bytes()
    await write(path, ALICE, cloned("k0"))
    with open_targets(path, lines) as targets:
        assert targets.read(0).state is State.SENT
        assert (targets.lines, targets.later_lines) == (lines, path.read_bytes().count(b"\n") - lines)
        assert targets.sha256() == hashlib.sha256(first).hexdigest()


def fail(manifest: Manifest) -> None:
    manifest.note(Record(State.FAILED, "x", 1.0, 1, source_uuid="s-x", error_code="E"))


def hand_over(manifest: Manifest) -> None:
    manifest.note_hand_over(HandOverRecord("x", 1.0, HandOver(BOB), hex_id(1)))


def try_to_hand_over(manifest: Manifest) -> None:
    manifest.note_operation(HandOverTry(HandOverRecord("x", 1.0, HandOver(BOB), hex_id(1))))


@pytest.mark.parametrize("is_unexecuted", [False, True])
async def test_a_try_may_have_given_a_clone_away(tmp_path: Path, *, is_unexecuted: bool) -> None:
    """Whatever the job file names now, its maker may not see it any more; not so where the try was not executed."""
    path = tmp_path / "m"

    def give(manifest: Manifest) -> None:
        line = HandOverRecord("k0", 25.0, HandOver(BOB), hex_id(1))
        manifest.note_operation(HandOverTry(line, is_unexecuted))

    await write(path, ALICE, sent("k0"), cloned("k0"), act=give)
    assert targets_of(path)["k0"].has_new_owner is not is_unexecuted


@pytest.mark.parametrize("act", [fail, hand_over, try_to_hand_over])
async def test_a_target_without_a_planned_line_is_found(tmp_path: Path, act: Callable[[Manifest], None]) -> None:
    """A manifest whose planned lines were lost still has the targets that other lines name."""
    path = tmp_path / "m"
    await write(path, ALICE, act=act)
    found = targets_of(path)
    assert [*found] == [*KEYS, "x"]


@pytest.mark.parametrize("change", [{"connected": "now"}, {"rate": True}, {"account": 5}, {"connected": None}])
def test_a_bad_line_about_the_connection_is_refused(change: dict[str, object]) -> None:
    """A line that no process writes is an error and no account."""
    with pytest.raises(ManifestError, match="a line has no"):
        parse_connected({"connected": 1.0, "rate": 2.0, "account": ALICE, **change})


def test_an_unknown_name_of_the_package_is_an_error() -> None:
    """Lazy imports accept only the package's names."""
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = manifest_package.no_such_name


DELETING = DeletingLine("k0", 30.0, hex_id(1), hex_id(8))
MENDING = UpdatingLine("k1", 31.0, hex_id(2), hex_id(9), ("name", "requestCpu"), "d1")
MENDED = UpdatedLine("k1", 32.0, hex_id(2), ("name", "requestCpu"))


@pytest.mark.parametrize(
    "line",
    [
        ConnectedLine(1.0, ALICE, 20.0),
        ConnectedLine(1.0, None, 20.0),
        ControlledLine(2.0, "rate=5/s", 5.0, 8, is_paused=False, is_draining=False),
        ControlledLine(2.0, "pause", 5.0, 8, is_paused=True, is_draining=True),
        DELETING,
        replace(DELETING, was_sent_before=True),
        replace(DELETING, is_refused=True),
        MENDING,
        replace(MENDING, was_sent_before=True),
        replace(MENDING, is_refused=True),
        MENDED,
    ],
    ids=lambda line: type(line).__name__,
)
def test_lines_of_operations_round_trip(line: Operation) -> None:
    """Each line about a command to a run or an operation on a clone is read as it was written."""
    assert parse_line(encode_operation(line)) == line


async def test_an_operation_is_open_until_its_end(tmp_path: Path) -> None:
    """A deletion or change without an end is open, one that ended is not, and the rate is the last one set."""
    path = tmp_path / "m"

    def begin(manifest: Manifest) -> None:
        manifest.note_operation(DELETING)
        manifest.note_operation(MENDING)
        manifest.note_operation(UpdatingLine("k2", 31.0, hex_id(3), hex_id(7), ("name",), "d2"))
        manifest.note_operation(MENDED)
        manifest.note_operation(ControlledLine(33.0, "rate=5/s", 5.0, 8, is_paused=False, is_draining=False))

    await write(path, ALICE, sent("k0"), cloned("k0"), act=begin)
    with open_targets(path) as targets:
        assert (targets.deleting, [*targets.updating]) == ({"k0": DELETING}, ["k2"])
        assert targets.rate == 5.0
    controlled = manifest_package.summary(path).controlled
    assert controlled is not None
    assert controlled.order == "rate=5/s"
    await write(path, BOB, Record(State.UNDONE, "k0", 34.0, 1, resource_uuid=hex_id(1)))
    with open_targets(path) as targets:
        assert targets.deleting == {}


async def test_a_refused_operation_is_not_open(tmp_path: Path) -> None:
    """A refusal ends a deletion or change, until the next one is recorded; every line meets the schema."""
    path, validator = tmp_path / "m", Draft7Validator(manifest_schema())

    def begin(manifest: Manifest) -> None:
        for line in (DELETING, MENDING):
            manifest.note_operation(line)
            manifest.note_operation(replace(line, is_refused=True))

    await write(path, ALICE, sent("k0"), cloned("k0"), sent("k1"), cloned("k1"), act=begin)
    with open_targets(path) as targets:
        assert (targets.deleting, targets.updating) == ({}, {})
    assert manifest_package.summary(path).deleting == 0
    deleting, mending = (replace(line, was_sent_before=True) for line in (DELETING, MENDING))

    def repeat(manifest: Manifest) -> None:
        manifest.note_operation(deleting)
        manifest.note_operation(mending)

    await write(path, ALICE, act=repeat)
    with open_targets(path) as targets:
        assert (targets.deleting, targets.updating) == ({"k0": deleting}, {"k1": mending})
    assert manifest_package.summary(path).deleting == 1
    for text in path.read_text(encoding="utf-8").splitlines():
        validator.validate(json.loads(text))


async def test_a_repair_is_known(tmp_path: Path) -> None:
    """Lines that name accounts and owners may be among those that were lost."""
    path, out = tmp_path / "m", tmp_path / "repaired"
    await write(path, ALICE, sent("k0"), cloned("k0"))
    with open_targets(path) as targets:
        assert not targets.is_repaired
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join((lines[0], b"#" * 20 + b"\n", *lines[2:])))
    repair_manifest(path, out, clock=lambda: 2_000.0)
    with open_targets(out) as targets:
        assert targets.is_repaired


async def test_after_lost_lines_an_attempt_may_be_as_late_as_the_loss(tmp_path: Path) -> None:
    """One that made a clone was recorded before it, and before its lines were found to be lost."""
    path, repaired = tmp_path / "m", tmp_path / "repaired"
    await write(path, ALICE, sent("k0"), cloned("k0")._replace(at=25.0), sent("k1"), cloned("k1"))
    assert {target.lost_at for target in targets_of(path).values()} == {0.0}
    path.write_bytes(path.read_bytes().replace(b'"connected"', b'"unreadable"'))
    repair_manifest(path, repaired, clock=lambda: 40.0)
    await write(repaired, ALICE, cloned("k1")._replace(at=90.0))
    found = targets_of(repaired)
    assert (found["k0"].state, found["k0"].lost_at) == (State.CLONED, 25.0)


async def test_after_a_damaged_end_only_what_it_names_may_have_lost_attempts(tmp_path: Path) -> None:
    """A run records these as uncertain and does not call the manifest repaired; the next clone is another one."""
    path = tmp_path / "m"
    lost = Record(State.UNCERTAIN, "k0", 30.0, 1, error_code=REPAIRED, open_jobs=(UNKNOWN_JOB,))
    await write(path, ALICE, sent("k0"), lost, cloned("k0")._replace(at=50.0), sent("k1"), cloned("k1"))
    assert {key: target.lost_at for key, target in targets_of(path).items()} == {"k0": 30.0, "k1": 0, "k2": 0, "k3": 0}
    undone = Record(State.UNDONE, "k0", 60.0, 1, resource_uuid=hex_id(1), clone_uuid=hex_id(1))
    await write(path, ALICE, undone, Record(State.PLANNED, "k0", 61.0), sent("k0"), cloned("k0"))
    assert targets_of(path)["k0"].lost_at == 0.0


@pytest.mark.parametrize(("named", "are_open"), [(None, True), ((), False)])
async def test_a_line_of_an_older_zclone_ends_no_earlier_job(
    named: tuple[str, ...] | None, *, are_open: bool, tmp_path: Path
) -> None:
    """It does not name the jobs that were open."""
    path = tmp_path / "m"
    second = sent("k0", 2)._replace(job_uuid=hex_id(0xBEEF), open_jobs=named)
    await write(path, ALICE, sent("k0"), second, cloned("k0", 2))
    assert bool(targets_of(path)["k0"].open_jobs) is are_open


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_job_uuid_that_was_sent_twice_is_open_beside_itself(tmp_path: Path, attempt: int) -> None:
    """The second attempt under it may be executed after the first one made the clone; a line written again is none."""
    path = tmp_path / "m"
    first = sent("k0")
    await write(path, ALICE, first, first._replace(attempt=attempt, at=first.at + 1), cloned("k0"))
    assert bool(targets_of(path)["k0"].open_jobs) is (attempt == 2)
