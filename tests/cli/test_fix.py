"""``zclone verify --fix`` over sockets: drifted fields that can be set are set once, the rest is reported."""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests import forkserver, nodes
from tests.cli.test_verify import SOURCE, fields_by_finding, serve, uuid_of, verify

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Serve = Callable[..., str]

FIX: Final = ("verify", "job.yaml", "--fix", "--yes")
HEAD: Final = "version: 1\nname: j\ntag: true\nlimits: {rate: 1000/s, concurrency: 2}\ntargets:\n"
PARAMS: Final = (
    "description: d, readme: r, requestCpu: 2, requestMemory: 3, startCommand: s, "
    "architectureImages: [{cpuArchitecture: X86_64, dockerImage: a}, {cpuArchitecture: AARCH64, dockerImage: b}]"
)
IMAGES: Final = [
    {"cpuArchitecture": "X86_64", "dockerImage": "a"},
    {"cpuArchitecture": "AARCH64", "dockerImage": "other"},
]
DRIFTS: Final[dict[str, dict[str, Any]]] = {
    "t3": {"name": "x"},
    "t11": {"description": "x", "requestCpu": 9},
    "t20": {"requestMemory": 9},
    "t31": {"startCommand": None},
    "t42": {"architectureImages": IMAGES},
    "t57": {"name": "x", "readme": "x"},
    "t68": {"requestCpu": 9, "requestMemory": 9},
    "t80": {"readme": "x"},
    "t99": {"description": None},
    "t120": {"startCommand": "x", "architectureImages": IMAGES},
    "t150": {"name": "x", "description": "x"},
    "t177": {"requestCpu": 9},
    "t199": {"requestMemory": 9, "readme": "x"},
}
"""Together with one user tag that is removed, 20 fields of 8 kinds."""
UNTAGGED: Final = "t33"
LEFT: Final = {
    ("drifted", "t33"): ["userTags"],
    ("drifted", "t57"): ["readme"],
    ("drifted", "t80"): ["readme"],
    ("drifted", "t199"): ["readme"],
}


def write_job(folder: Path, count: int, *, head: str = HEAD, params: str = PARAMS) -> None:
    rows = (f"  - {{uuid: {SOURCE}, id: t{number}, params: {{name: n{number}, {params}}}}}" for number in range(count))
    (folder / "job.yaml").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


def updates(env: dict[str, str]) -> list[tuple[str, str]]:
    """Return uuid and field of every field that the server set."""
    rows = nodes.ledger(env["ZSTACK_API_URL"])["updates"]
    return [(row["uuid"], name) for row in rows for name in row["fields"]]


def drift(env: dict[str, str]) -> None:
    """Change 20 fields of 14 clones outside the run."""
    changes = {uuid_of(key): fields for key, fields in DRIFTS.items()}
    nodes.tamper(env["ZSTACK_API_URL"], {"change": changes, "tags": {uuid_of(UNTAGGED): []}})


def kill_after(count: int, folder: Path, env: dict[str, str]) -> None:
    """Start ``verify --fix`` and kill it once the server has executed ``count`` updates in all."""
    with forkserver.start_text(FIX, cwd=folder, env=env) as process:
        while len(nodes.ledger(env["ZSTACK_API_URL"])["updates"]) < count:
            assert process.poll() is None
        process.kill()


@pytest.mark.timeout(300)
def test_every_settable_field_is_set_once(
    tmp_path: Path, zclone: Run, child_env: dict[str, str], serve_node: Serve
) -> None:
    """Of 20 drifted fields of 8 kinds, 16 are set once in the server's ledger through 5 kills, 4 are reported."""
    env = serve(tmp_path, serve_node, latency=[0.05, 0.15])
    write_job(tmp_path, 200)
    assert zclone("run", "job.yaml", "--concurrency", "32", env=env).returncode == 0
    drift(env)
    assert sum(len(one["differences"]) for one in verify(zclone, env=env, exits=3)["findings"]) == 20
    for count in (2, 4, 6, 8, 10):
        kill_after(count, tmp_path, child_env | env)
    done = zclone(*FIX, "-o", "json", env=env)
    assert done.returncode == 3, done.stderr
    settable = {(uuid_of(key), name) for key, fields in DRIFTS.items() for name in fields if name != "readme"}
    assert Counter(updates(env)) == Counter(settable)
    assert len(settable) == 16
    found = json.loads(done.stdout)
    assert fields_by_finding(found) == LEFT
    assert {one["detail"] for one in found["findings"]} == {
        "userTags: UpdateModelService cannot set it",
        "readme: UpdateModelService cannot set it",
    }
    lines = [json.loads(line) for line in (tmp_path / "job.manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    begun = {(line["mending"], *line["fields"]) for line in lines if "mending" in line}
    twice = {(line["mending"], *line["fields"]) for line in lines if "sent_before" in line}
    assert begun - twice <= {(line["mended"], *line["fields"]) for line in lines if "mended" in line} <= begun
    assert fields_by_finding(verify(zclone, env=env, exits=3)) == LEFT
    assert zclone("run", "job.yaml", env=env).returncode == 0


def test_nothing_is_set_without_confirmation(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """The fields are listed first; without --yes and a terminal: 2, and nothing is sent; with it all is in sync: 0."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 4)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t1"): {"requestCpu": 9, "name": "x"}}})
    unsaid = zclone("verify", "job.yaml", "--fix", env=env)
    assert (unsaid.returncode, updates(env)) == (2, []), unsaid.stdout
    assert "to set    t1  name, requestCpu" in unsaid.stdout
    assert "add --yes" in unsaid.stderr
    done = zclone(*FIX, env=env)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "j, run default: 4 targets: 4 in-sync"), done.stderr
    assert "1 of 1 clones updated" in done.stderr
    again = zclone(*FIX, env=env)
    assert (again.returncode, len(updates(env))) == (0, 2)
    for flag in (["--reopen"], ["--proof", "p.json"]):
        assert zclone(*FIX, *flag, env=env).returncode == 2
    assert zclone("verify", "job.manifest.jsonl", "--fix", "--yes", env=env).returncode == 2


def test_an_edited_target_is_set_as_the_file_is_now(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """The current job file counts, as for every verification, and the listing says edited."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 3)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    write_job(tmp_path, 2, params=PARAMS.replace("requestCpu: 2", "requestCpu: 7"))
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t2"): {"name": "x"}}})
    done = zclone(*FIX, "-o", "json", env=env)
    assert done.returncode == 3, done.stderr
    assert "edited" in done.stderr
    assert set(updates(env)) == {(uuid_of("t0"), "requestCpu"), (uuid_of("t1"), "requestCpu")}
    (left,) = json.loads(done.stdout)["findings"]
    assert (left["key"], left["detail"].split(",")[0]) == ("t2", "its target left the job file")


def test_a_refused_put_leaves_its_field_drifted(tmp_path: Path, zclone: Run, serve_node: Serve) -> None:
    """A value that the server refuses stays drifted with its error: 3; while another process holds the manifest: 75."""
    env = serve(tmp_path, serve_node)
    write_job(tmp_path, 2)
    assert zclone("run", "job.yaml", env=env).returncode == 0
    nodes.tamper(env["ZSTACK_API_URL"], {"change": {uuid_of("t1"): {"requestCpu": 9}}})
    with (tmp_path / "job.manifest.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert zclone(*FIX, env=env).returncode == 75
    rule = {"fault": "fail", "on": "update", "code": "SYS.1006", "probability": 1.0}
    nodes.control(env["ZSTACK_API_URL"], {"faults": {"version": 1, "faults": [rule]}})
    refused = zclone(*FIX, "-o", "json", env=env)
    assert refused.returncode == 3, refused.stderr
    (left,) = json.loads(refused.stdout)["findings"]
    assert (left["key"], left["detail"].startswith("not updated: ")) == ("t1", True)
    assert updates(env) == []
