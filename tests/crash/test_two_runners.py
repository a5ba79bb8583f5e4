"""Two processes without each other's manifest, on one server: each target is cloned once all the same."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.crash.stage import NodeProcess, finish, node, rows, start, write_job
from tests.crash.test_process import wait_for_posts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 25
RUN = ["run", "job.yaml", "--progress", "none"]
MANIFEST = "job.manifest.jsonl"
NODE = "version: 1\nnode: {latency: [0.05, 0.3]}\n"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[NodeProcess]:
    (tmp_path / "node.yaml").write_text(NODE, encoding="utf-8")
    with node("node.yaml", cwd=tmp_path) as running:
        yield running


def host(folder: Path) -> Path:
    """Another machine with the same job."""
    folder.mkdir()
    write_job(folder, COUNT, rate="60/s", concurrency=8)
    return folder


def run_both(hosts: list[Path], served: NodeProcess) -> None:
    """Start them together; a process that could not learn an end runs once more."""
    processes = [start(RUN, cwd=folder, url=served.url) for folder in hosts]
    outputs = [process.communicate(timeout=250)[1] for process in processes]
    for process, folder, text in zip(processes, hosts, outputs, strict=True):
        assert process.returncode in {0, 4}, text
        assert process.returncode == 0 or finish(RUN, cwd=folder, url=served.url)[0] == 0


def check(hosts: list[Path], served: NodeProcess) -> None:
    """Check that the ledger has one clone each, and that every manifest names exactly these."""
    made = {clone["uuid"]: clone["source"] for clone in served.ledger()["clones"]}
    assert sorted(made.values()) == [f"{number:032x}" for number in range(1, COUNT + 1)]
    for folder in hosts:
        assert {row["clone_uuid"]: row["source_uuid"] for row in rows(MANIFEST, cwd=folder)} == made


def test_two_hosts_without_a_manifest(tmp_path: Path, served: NodeProcess) -> None:
    """Started together on two hosts, the same job makes one clone each; the loser of each race adopts it."""
    hosts = [host(tmp_path / "one"), host(tmp_path / "two")]
    run_both(hosts, served)
    check(hosts, served)
    adopted = sum((folder / MANIFEST).read_text(encoding="utf-8").count('"adopted":true') for folder in hosts)
    assert adopted > 0


def test_a_manifest_copied_during_a_run(tmp_path: Path, served: NodeProcess) -> None:
    """A killed run resumed from its manifest and from a copy at once makes one clone each."""
    hosts = [host(tmp_path / "one"), host(tmp_path / "two")]
    first = start(RUN, cwd=hosts[0], url=served.url)
    wait_for_posts(served, 6)
    first.kill()
    first.communicate()
    shutil.copy(hosts[0] / MANIFEST, hosts[1] / MANIFEST)
    run_both(hosts, served)
    check(hosts, served)


def test_a_deleted_manifest_makes_no_second_clone(tmp_path: Path, served: NodeProcess) -> None:
    """After the manifest of a finished run was lost, the same command finds every clone by its uuid again."""
    hosts = [host(tmp_path / "one")]
    run_both(hosts, served)
    (hosts[0] / MANIFEST).unlink()
    run_both(hosts, served)
    check(hosts, served)
    assert (hosts[0] / MANIFEST).read_text(encoding="utf-8").count('"adopted":true') == COUNT
