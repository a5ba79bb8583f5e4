"""The jobs of three users, end to end on embedded nodes: a migration, a nightly cron job, the onboarding of tenants."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch import __version__
from batch.manifest import Header, open_manifest
from batch.plan.pins import read_saved
from tests.nodes import ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
ARM_IMAGE: Final = "1d919fda666b3bdcb5f4925f1cf17c71"
QUICK: Final = "version: 1\nnode: {latency: [0, 0.01]}\n"
SERVICES: Final = 300
GPUS: Final = ((1, "NVIDIA-A100"), (2, "AMD"))
LEGACY: Final = frozenset(range(0, SERVICES, 43))
"""Seven services with an image of another registry."""


def uuid_of(number: int) -> str:
    return f"{number:012x}4aaa8{number:015x}"


def image_of(number: int) -> str:
    registry = "legacy.example.com/amd64" if number in LEGACY else f"registry.example.com/x86_64/team{number % 3}"
    return f"{registry}/service-{number}:v{number % 5}"


def write_sources(path: Path, names: dict[str, str], images: dict[str, str] | None = None) -> Path:
    """Write a node script with these services; those with an image have it for x86_64."""
    rows = []
    for uuid, name in names.items():
        row = {"cpuArchitecture": "x86_64", "vmImageUuid": "21cb9f654e9d3feab962ce3f5eec5796"}
        fields = {"architectureImages": [row | {"dockerImage": images[uuid]}]} if images else {}
        rows.append(f"  - {json.dumps({'uuid': uuid, 'name': name, 'fields': fields})}\n")
    path.write_text(QUICK + "sources:\n" + "".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def registry_server(tmp_path: Path, serve_node: Callable[..., str]) -> dict[str, str]:
    """Return the settings of a server with 300 services, seven of them with images of another registry."""
    names = {uuid_of(number): f"service-{number}" for number in range(SERVICES)}
    images = {uuid_of(number): image_of(number) for number in range(SERVICES)}
    script = write_sources(tmp_path / "node.yaml", names, images)
    return {"ZSTACK_API_URL": serve_node("--faults", str(script)), "ZSTACK_SESSION_ID": SESSION}


def write_migration(folder: Path) -> Path:
    (folder / "services.jsonl").write_text("".join(f'"{uuid_of(n)}"\n' for n in range(SERVICES)), encoding="utf-8")
    write_rules(folder, {"registry.example.com/x86_64/": "registry.example.com/aarch64/"})
    job = folder / "migrate.yaml"
    job.write_text(
        "version: 1\nname: migrate\nlimits: {rate: 1000/s, concurrency: 64}\n"
        "targets: [{from: services.jsonl, params: {name: '${source.name}-arm64'}}]\n"
        "rearchitect: {to: [AARCH64], file: images.csv}\n",
        encoding="utf-8",
    )
    return job


def write_rules(folder: Path, rules: dict[str, str]) -> None:
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as stream:
        rows = [[source, to, ARM_IMAGE] for source, to in rules.items()]
        csv.writer(stream).writerows([["from", "to", "vmImageUuid"], *rows, ["never/", "used/", ""]])


def test_the_migration(tmp_path: Path, zclone: Run, registry_server: dict[str, str]) -> None:
    """Seven sources without a rule are reported at plan and nothing is sent; then 300 clones get the derived images."""
    job = write_migration(tmp_path)
    refused = zclone("plan", job, env=registry_server)
    assert refused.returncode == 2
    assert "293 of 300 sources are covered, 7 are not" in refused.stderr
    assert "no rule matches the source's image 'legacy.example.com/amd64/" in refused.stderr
    assert "(in 7 rows)" in refused.stderr
    assert all(f'not covered: {uuid_of(number)} "service-{number}"' in refused.stderr for number in LEGACY)
    assert "images.csv:3:1: rearchitect: the rule for AARCH64 from 'never/' matches nothing" in refused.stderr
    assert zclone("run", job, env=registry_server).returncode == 2
    assert "submit" not in ledger(registry_server["ZSTACK_API_URL"])["calls"]
    arm = "registry.example.com/aarch64/"
    write_rules(tmp_path, {"registry.example.com/x86_64/": arm, "legacy.example.com/amd64/": f"{arm}legacy/"})
    planned = zclone("plan", job, env=registry_server)
    assert planned.returncode == 0, planned.stderr
    assert "300 of 300 sources are covered" in planned.stderr
    done = zclone("run", job, env=registry_server)
    assert done.returncode == 0, done.stderr
    assert clones_of(registry_server) == {uuid_of(number): expected(number) for number in range(SERVICES)}


def clones_of(registry_server: dict[str, str]) -> dict[str, tuple[str, Any, Any]]:
    made = ledger(registry_server["ZSTACK_API_URL"])["clones"]
    assert len(made) == SERVICES
    return {
        row["source"]: (row["name"], row["params"]["cpuArchitectures"], row["params"]["architectureImages"])
        for row in made
    }


def expected(number: int) -> tuple[str, Any, Any]:
    name = image_of(number).replace("/x86_64/", "/aarch64/").replace("legacy.example.com/amd64", "legacy")
    image = name if name.startswith("registry") else f"registry.example.com/aarch64/{name}"
    row = {"cpuArchitecture": "AARCH64", "dockerImage": image, "vmImageUuid": ARM_IMAGE}
    return f"service-{number}-arm64", ["AARCH64"], [row]


def test_a_migration_to_other_gpus(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """A GPU vendor without a rule is reported at plan and nothing is sent; then the clone has the derived specs."""
    rows = [{"uuid": uuid_of(n), "fields": {"vendorToSpecUuidsMap": {vendor: [uuid_of(9)]}}} for n, vendor in GPUS]
    script = tmp_path / "node.yaml"
    script.write_text(QUICK + f"sources: {json.dumps(rows)}\n", encoding="utf-8")
    env = {"ZSTACK_API_URL": serve_node("--faults", str(script)), "ZSTACK_SESSION_ID": SESSION}
    rule = f"    - {{from: NVIDIA, to: Huawei, specUuids: [{ARM_IMAGE}]}}\n"
    text = f"version: 1\nname: gpus\ntargets: [{uuid_of(1)}, {uuid_of(2)}]\nrearchitect:\n  vendors:\n{rule}"
    job = tmp_path / "gpus.yaml"
    job.write_text(text, encoding="utf-8")
    refused = zclone("plan", job, env=env)
    assert refused.returncode == 2
    assert "rearchitect to GPUs of Huawei: 1 of 2 sources are covered, 1 are not" in refused.stderr
    assert f"{job}:3:45: targets[1]: rearchitect: no rule matches the source's GPU vendor 'AMD'" in refused.stderr
    assert zclone("run", job, env=env).returncode == 2
    job.write_text(text + rule.replace("NVIDIA", "AMD").replace(ARM_IMAGE, uuid_of(3)), encoding="utf-8")
    assert zclone("run", job, env=env).returncode == 0
    made = ledger(env["ZSTACK_API_URL"])["clones"]
    assert {row["source"]: row["params"]["vendorToSpecUuidsMap"] for row in made} == {
        uuid_of(1): {"Huawei": [ARM_IMAGE]},
        uuid_of(2): {"Huawei": [uuid_of(3)]},
    }


NIGHTLY: Final = """version: 1
name: nightly
run: nightly-${date}
limits: {rate: 200/s}
targets:
  - {query: ["name~=qwen%"], params: {name: "${source.name}-${date}"}}
"""


def names_in(state: Path) -> set[str]:
    events = map(json.loads, state.read_text(encoding="utf-8").splitlines())
    return {event["n"] for event in events if event["e"] == "clone"}


def test_the_nightly_keeps_its_names(tmp_path: Path, zclone: Run, child_env: dict[str, str]) -> None:
    """A resumed nightly clones what its query first found, under the names of that time, despite later changes."""
    (tmp_path / "nightly.yaml").write_text(NIGHTLY, encoding="utf-8")
    write_sources(tmp_path / "node.yaml", {uuid_of(number): f"qwen-{number}" for number in range(1, 7)})
    flags = ["--simulate=node.yaml", "--run", "nightly-1", "--manifest", "n.manifest.jsonl", "nightly.yaml"]
    process = subprocess.Popen(
        [sys.executable, "-m", "batch", "run", "--rate", "8/s", *flags],
        cwd=tmp_path,
        env=child_env,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    while "clone.settled" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    assert process.returncode == 4
    today = time.strftime("%Y-%m-%d", time.gmtime())
    write_sources(tmp_path / "node.yaml", {uuid_of(number): f"qwen-new-{number}" for number in range(3, 11)})
    done = zclone("run", *flags)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "n.node.jsonl") == {f"qwen-{number}-{today}" for number in range(1, 7)}


def test_a_nightly_resumed_after_midnight_keeps_its_date(tmp_path: Path, zclone: Run) -> None:
    """The date of a run is that of its first start, also when it resumes on another day."""
    (tmp_path / "nightly.yaml").write_text(NIGHTLY, encoding="utf-8")
    write_sources(tmp_path / "node.yaml", {uuid_of(1): "qwen"})
    path = tmp_path / "nightly.old.simulated.manifest.jsonl"
    header = Header("nightly", "old", "embedded node", simulated=True, tool="zclone", created_at=1_000_000_000.0)

    async def begin() -> None:
        await open_manifest(path, header).close(4)

    asyncio.run(begin())
    done = zclone("run", "--simulate=node.yaml", "--run", "old", "nightly.yaml")
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path / "nightly.old.simulated.node.jsonl") == {"qwen-2001-09-09"}


def write_tenants(path: Path, tenants: list[int]) -> None:
    rows = "".join(
        f"tenant{number},tenant{number},{number % 4 + 1},tier::{number % 2},{account(number)},{partners(number)}\n"
        for number in tenants
    )
    path.write_text("id,tenant,params.requestCpu,userTags,account,partners\n" + rows, encoding="utf-8")


def account(number: int) -> str:
    return f"{number + 1:032x}"


def partners(number: int) -> str:
    """Name the accounts besides a tenant's own that use its service: none, one or two."""
    return ";".join(account(number + one) for one in range(1, number % 3 + 1))


def test_the_onboarding(tmp_path: Path, zclone: Run, serve_node: Callable[..., str]) -> None:
    """Forty tenants own a clone each and share it; reordered rows are the same clones, a new row is a new clone."""
    script = write_sources(tmp_path / "node.yaml", {uuid_of(1): "chat"})
    known = [{"uuid": account(number), "name": f"account{number}"} for number in range(43)]
    text = script.read_text(encoding="utf-8").replace("latency:", "invent_accounts: false, latency:")
    script.write_text(f"{text}accounts: {json.dumps(known)}\n", encoding="utf-8")
    env = {"ZSTACK_API_URL": serve_node("--faults", str(script)), "ZSTACK_SESSION_ID": SESSION}
    job = tmp_path / "onboard.yaml"
    job.write_text(
        "version: 1\nname: onboard\nlimits: {rate: 500/s, concurrency: 41, waves: [1, 5, rest]}\ntargets:\n"
        f"  - {{from: tenants.csv, uuid: {uuid_of(1)}, keep: [size, system],"
        " params: {name: '${tenant}-${source.name}'}, userTags: ['tenant::${tenant}'],"
        " owner: '${account}', share_with: ['${partners}']}\n",
        encoding="utf-8",
    )
    write_tenants(tmp_path / "tenants.csv", list(range(40)))
    assert zclone("run", job, env=env).returncode == 0
    write_tenants(tmp_path / "tenants.csv", [40, *reversed(range(40))])
    again = zclone("run", job, env=env)
    assert again.returncode == 0, again.stderr
    made = ledger(env["ZSTACK_API_URL"])["clones"]
    assert sorted(row["name"] for row in made) == sorted(f"tenant{number}-chat" for number in range(41))
    assert all("size" in row["params"] and "system" in row["params"] for row in made)
    shown = {row["name"]: (row["owner"], row["given"], row["shared"]) for row in made}
    assert shown == {
        f"tenant{number}-chat": (account(number), 1, list(filter(None, partners(number).split(";"))))
        for number in range(41)
    }
    # A query at each of the two starts checks the session; the source was queried once.
    assert ledger(env["ZSTACK_API_URL"])["calls"]["query"] == 3


def test_a_saved_plan_of_another_major_version_is_refused(tmp_path: Path, zclone: Run) -> None:
    """A plan saved by another major version is refused, as its rules may differ; a newer minor version runs it."""
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: j\ntargets: [{uuid_of(1)}]\n", encoding="utf-8")
    assert zclone("plan", "job.yaml", "--out", "a.plan").returncode == 0
    saved = read_saved((tmp_path / "a.plan").read_text(encoding="utf-8"))
    major = int(__version__.partition(".")[0])
    (tmp_path / "b.plan").write_text(replace(saved, tool=f"{major + 1}.0.0").text(), encoding="utf-8")
    (tmp_path / "c.plan").write_text(replace(saved, tool=f"{major}.999.0").text(), encoding="utf-8")
    refused = zclone("run", "--plan", "b.plan", "--simulate")
    assert refused.returncode == 2
    assert f"the plan was saved by zclone {major + 1}.0.0, this is {__version__}: plan again" in refused.stderr
    assert not list(tmp_path.glob("*manifest*"))
    done = zclone("run", "--plan", "c.plan", "--simulate")
    assert done.returncode == 0, done.stderr


def test_a_saved_plan_is_executed_exactly_or_refused(
    tmp_path: Path, zclone: Run, serve_node: Callable[..., str]
) -> None:
    """`run --plan` executes what was saved; a changed job file, source or saved plan is refused and nothing is sent."""
    script = write_sources(tmp_path / "node.yaml", {uuid_of(1): "chat", uuid_of(2): "rank"})
    env = {"ZSTACK_API_URL": serve_node("--faults", str(script)), "ZSTACK_SESSION_ID": SESSION}
    job = tmp_path / "saved.yaml"
    text = (
        f"version: 1\nname: saved\ntargets: [{{uuid: {uuid_of(1)}, params: {{name: '${{source.name}}-${{time}}'}}}}]\n"
    )
    job.write_text(text, encoding="utf-8")
    assert zclone("plan", job, "--out", "a.plan", env=env).returncode == 0
    digest = json.loads((tmp_path / "a.plan").read_text(encoding="utf-8"))["digest"]
    job.write_text(text + "  # x\n", encoding="utf-8")
    edited = (tmp_path / "a.plan").read_text(encoding="utf-8").replace('"chat"', '"chot"')
    (tmp_path / "edited.plan").write_text(edited, encoding="utf-8")
    refused = zclone("run", "--plan", "edited.plan", env=env)
    assert (refused.returncode, "was changed since it was saved" in refused.stderr) == (2, True)
    job.write_text(text.replace("-$", "+$"), encoding="utf-8")
    refused = zclone("run", "--plan", "a.plan", env=env)
    assert (refused.returncode, "was changed since the plan was saved" in refused.stderr) == (2, True)
    job.write_text(text, encoding="utf-8")
    write_sources(tmp_path / "other.yaml", {uuid_of(1): "renamed"})
    other = {**env, "ZSTACK_API_URL": serve_node("--faults", str(tmp_path / "other.yaml"))}
    refused = zclone("run", "--plan", "a.plan", "--manifest", "other.jsonl", env=other)
    assert (refused.returncode, f"sources {uuid_of(1)} were changed" in refused.stderr) == (2, True)
    assert "submit" not in ledger(other["ZSTACK_API_URL"])["calls"]
    done = zclone("run", "--plan", "a.plan", env=env)
    assert done.returncode == 0, done.stderr
    assert digest in (tmp_path / "saved.manifest.jsonl").read_text(encoding="utf-8")
    assert zclone("run", "--plan", "a.plan", env=env).returncode == 0
    assert len(ledger(env["ZSTACK_API_URL"])["clones"]) == 1
