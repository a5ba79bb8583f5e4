"""The real command, killed or failed at every Nth system call: one clone per target, and nothing hidden.

It has 12 targets on a served node. By default one point of each kind runs; the marker ``proof`` has all of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.crash.injection import (
    MANIFEST,
    QUICK,
    TARGETS,
    Fault,
    Point,
    Scene,
    Where,
    failures,
    is_hit,
    posts_after_failure,
    require_strace,
)
from tests.crash.stage import NodeProcess, node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

WRITES, SYNCS, SENDS, RECEIPTS = 12, 13, 22, 30
"""How many of each call an undisturbed run surely makes; a point that is not reached fails."""

AT_THAT_MOMENT = 0.2
"""Seconds; the next POSTs of a continued run would come after the polls, 0.25 s later and more."""


def points(*, where: Where, call: str, fault: Fault, whens: range, default: int) -> Iterator[ParameterSet]:
    for when in whens:
        point = Point(where, call, fault, when)
        yield pytest.param(point, id=point.name, marks=[] if when == default else [pytest.mark.proof])


KILLS = [
    *points(where=Where.DISK, call="write", fault=Fault.KILL, whens=range(1, WRITES), default=3),
    *points(where=Where.DISK, call="fdatasync", fault=Fault.KILL, whens=range(1, SYNCS), default=4),
    *points(where=Where.DISK, call="fsync", fault=Fault.KILL, whens=range(1, 2), default=0),
    *points(where=Where.NETWORK, call="sendto", fault=Fault.KILL, whens=range(1, SENDS), default=5),
    *points(where=Where.NETWORK, call="recvfrom", fault=Fault.KILL, whens=range(1, RECEIPTS), default=9),
]
FAILURES = [
    *points(where=Where.DISK, call="write", fault=Fault.EIO, whens=range(1, WRITES), default=0),
    *points(where=Where.DISK, call="write", fault=Fault.ENOSPC, whens=range(1, WRITES), default=4),
    *points(where=Where.DISK, call="fdatasync", fault=Fault.EIO, whens=range(1, SYNCS), default=6),
    *points(where=Where.DISK, call="fdatasync", fault=Fault.ENOSPC, whens=range(1, SYNCS), default=0),
    *points(where=Where.DISK, call="fsync", fault=Fault.EIO, whens=range(1, 2), default=0),
]
LIES = [*points(where=Where.DISK, call="write", fault=Fault.LIE, whens=range(1, WRITES), default=5)]
NETWORK = [
    *points(where=Where.NETWORK, call="sendto", fault=Fault.EIO, whens=range(1, SENDS), default=4),
    *points(where=Where.NETWORK, call="sendto", fault=Fault.NONE_TAKEN, whens=range(1, SENDS), default=0),
    *points(where=Where.NETWORK, call="recvfrom", fault=Fault.EIO, whens=range(1, RECEIPTS), default=11),
]
RENAMES = [
    pytest.param(Point(Where.NETWORK, "rename", fault, 1), id=f"rename-{fault.name.lower()}", marks=marks)
    for fault, marks in [(Fault.KILL, []), (Fault.EIO, [pytest.mark.proof]), (Fault.ENOSPC, [pytest.mark.proof])]
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node for all points of a worker."""
    folder = tmp_path_factory.mktemp("node")
    require_strace(folder)
    (folder / "quick.yaml").write_text(QUICK, encoding="utf-8")
    with node("quick.yaml", cwd=folder) as running:
        yield running


@pytest.fixture
def scene(point: Point, served: NodeProcess, tmp_path: Path) -> Scene:
    """The point's scene, with its job file."""
    made = Scene(point, tmp_path, served)
    made.write_job()
    return made


@pytest.mark.parametrize("point", KILLS)
def test_after_a_kill_at_any_call_the_same_command_resumes(scene: Scene) -> None:
    """SIGKILL at the Nth write, fdatasync, fsync, sendto or recvfrom: rerun, exit 0, one clone per target."""
    assert is_hit(scene, scene.inject())
    assert scene.settle() == 0
    scene.check()


@pytest.mark.parametrize("point", FAILURES)
def test_a_failing_disk_ends_the_sending(scene: Scene) -> None:
    """EIO or ENOSPC at the Nth write or sync of the manifest: no retry, no later POST, exit 1, a rerun works.

    A POST whose own record was durable may be on its way at that very moment; there is none without a record.
    """
    code = scene.inject()
    assert is_hit(scene, code)
    assert code == 1, scene.output()
    assert failures(scene.trace()) == 1
    assert not [later for later in posts_after_failure(scene.trace()) if later > AT_THAT_MOMENT]
    assert scene.posted() <= scene.recorded()
    assert scene.settle() == 0
    scene.check()


@pytest.mark.parametrize("point", LIES)
def test_a_lying_disk_is_detected(scene: Scene) -> None:
    """Bytes that never reached the disk are noticed by the next run; repaired, it ends with one clone per target."""
    assert is_hit(scene, scene.inject())
    assert b"\0" not in (scene.folder / MANIFEST).read_bytes()
    assert scene.settle() == 0
    scene.check()


@pytest.mark.parametrize("point", RENAMES)
def test_a_report_is_old_or_new_and_never_partial(scene: Scene) -> None:
    """Killed or failed at its rename, a report stays as it was; written again it is whole."""
    report = scene.folder / "r.json"
    assert scene.run() == 0
    report.write_text("old", encoding="utf-8")
    assert scene.inject("report", MANIFEST, "--out", "r.json") == (-9 if scene.point.fault is Fault.KILL else 2)
    assert report.read_text(encoding="utf-8") == "old"
    assert scene.zclone("report", MANIFEST, "--out", "r.json") == 0
    assert len(json.loads(report.read_text(encoding="utf-8"))["targets"]) == TARGETS


@pytest.mark.parametrize("point", NETWORK)
def test_a_failing_network_costs_no_clone(scene: Scene) -> None:
    """EIO, or no byte accepted, at the Nth sendto or recvfrom: reconciled within the same run, one clone per target."""
    code = scene.inject()
    assert is_hit(scene, code)
    assert scene.settle() == 0
    scene.check()
