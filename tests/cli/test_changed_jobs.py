"""Job files edited between two starts of a run: what is made stays, what is open is sent as the file is now."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 9)]
MANIFEST: Final = "job.simulated.manifest.jsonl"


def write(folder: Path, *, cpu: int, fault: str = "", count: int = len(SOURCES)) -> None:
    """Write a job whose ``defaults`` ask for ``cpu``, and a node with ``fault``."""
    targets = "".join(f"  - {source}\n" for source in SOURCES[:count])
    (folder / "job.yaml").write_text(
        "version: 1\nname: job\nlimits: {rate: 500/s, attempts: 1, timeout: 1s}\n"
        f"defaults: {{params: {{requestCpu: {cpu}}}}}\ntargets:\n{targets}",
        encoding="utf-8",
    )
    (folder / "f.yaml").write_text(f"version: 1\nnode: {{latency: [0, 0.01]}}\nfaults: [{fault}]\n", encoding="utf-8")


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / MANIFEST).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "state" in line]


def states(folder: Path) -> Counter[str]:
    return Counter({record["key"]: record["state"] for record in records(folder)}.values())


def test_fix_defaults_and_retry(tmp_path: Path, zclone: Run) -> None:
    """What failed is sent as the file is now; what is cloned is reported in one line and stays as it was made."""
    write(tmp_path, cpu=4, fault=f"{{fault: fail, code: SYS.1007, source: {SOURCES[0]}}}")
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 3
    first = {record["key"]: record["digest"] for record in records(tmp_path) if record["state"] == "sent"}
    write(tmp_path, cpu=8)
    done = zclone("retry", "job.yaml", "--simulate=f.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("7 clones were made before the job file was changed and stay as they were made") == 1
    assert states(tmp_path) == {"cloned": 8}
    sent = [record["key"] for record in records(tmp_path) if record["state"] == "sent"]
    assert Counter(sent) == {source: 1 + (source == SOURCES[0]) for source in SOURCES}
    last = {record["key"]: record["digest"] for record in records(tmp_path) if record["state"] == "sent"}
    assert [key for key in SOURCES if last[key] != first[key]] == [SOURCES[0]]


@pytest.mark.parametrize("command", ["run", "retry"])
def test_a_changed_target_in_doubt_is_refused_before_any_write(command: str, tmp_path: Path, zclone: Run) -> None:
    """A changed target whose attempt has no known end is refused by name; --accept-changes continues."""
    faults = f"{{fault: fail, code: SYS.1007, source: {SOURCES[0]}}}, {{fault: orphan, source: {SOURCES[1]}}}"
    write(tmp_path, cpu=4, fault=faults)
    assert zclone("run", "job.yaml", "--simulate=f.yaml").returncode == 4
    assert states(tmp_path) == {"cloned": 6, "failed": 1, "uncertain": 1}
    before = (tmp_path / MANIFEST).read_bytes()
    write(tmp_path, cpu=8)
    refused = zclone(command, "job.yaml", "--simulate=f.yaml")
    assert refused.returncode == 2, refused.stderr
    assert SOURCES[1] in refused.stderr
    assert SOURCES[0] not in refused.stderr
    assert "--accept-changes" in refused.stderr
    assert (tmp_path / MANIFEST).read_bytes() == before
    assert zclone(command, "job.yaml", "--simulate=f.yaml", "--accept-changes").returncode in {3, 4}


def test_a_retry_without_a_server_reopens_nothing(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """What failed stays failed, and nothing is written."""
    write(tmp_path, cpu=4, fault=f"{{fault: fail, code: SYS.1007, source: {SOURCES[0]}}}", count=2)
    url = serve_node("--faults", str(tmp_path / "f.yaml"))
    env = {"ZSTACK_API_URL": url, "ZSTACK_SESSION_ID": "b86c9016b4f24953a9edefb53ca0678c"}
    assert zclone("run", "job.yaml", env=env).returncode == 3
    manifest = tmp_path / "job.manifest.jsonl"
    before = manifest.read_bytes()
    refused = zclone("retry", "job.yaml", env=env | {"ZSTACK_SESSION_ID": "5" * 32})
    assert refused.returncode == 4, refused.stderr
    assert manifest.read_bytes() == before
