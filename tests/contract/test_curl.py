"""The API page's curl example and ``zclone plan -o curl``: both sent with the real curl, both make the same clone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

PARAMS: Final = {
    "name": "example",
    "description": "This is an example description.",
    "size": 0,
    "gpuComputeCapability": "7.5",
    "startCommand": "python start.py",
    "pythonVersion": "3.8",
    "system": False,
    "type": "Endpoint",
    "yaml": "example-yaml-configuration",
    "framework": "HuggingFace",
    "requestCpu": 4,
    "requestMemory": 8192,
    "cpuArchitectures": ["X86_64", "AARCH64"],
    "architectureImages": [
        {
            "cpuArchitecture": "X86_64",
            "vmImageUuid": "21cb9f654e9d3feab962ce3f5eec5796",
            "dockerImage": "registry.example.com/x86_64/myimage:latest",
        },
        {
            "cpuArchitecture": "AARCH64",
            "vmImageUuid": "1d919fda666b3bdcb5f4925f1cf17c71",
            "dockerImage": "registry.example.com/aarch64/myimage:latest",
        },
    ],
}
SOURCE: Final = "d76744cb53f9378abf42b907df3efb6e"
SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
PLACE: Final = "http://localhost:8080/zstack"
EXAMPLE: Final = (
    'curl -H "Content-Type: application/json;charset=UTF-8" \\\n'
    f'-H "Authorization: OAuth {SESSION}" \\\n'
    f"-X POST -d '{json.dumps({'params': PARAMS}, separators=(',', ':'))}' \\\n"
    f"{PLACE}/v1/ai/model-services/{SOURCE}"
)
"""As on the API page."""
NASTY: Final = 'it\'s "$HOME" `id` $(id) \\ !! ${x} 例\nsecond line & ; | %s'


def sh(script: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def get(url: str, session: str = SESSION) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"OAuth {session}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, json.loads(answer.read())


def result(location: str) -> dict[str, Any]:
    """Poll a job to its end as the API page's users do."""
    for _ in range(200):
        status, answer = get(location)
        if status == 200:
            inventory: dict[str, Any] = answer["inventory"]
            return inventory
        assert (status, answer) == (202, {})
        time.sleep(0.05)  # another process ends the wait
    raise AssertionError("the job did not end")


def comparable(inventory: dict[str, Any]) -> dict[str, Any]:
    """Omit what differs between two clones."""
    rows = [
        {name: row[name] for name in ("cpuArchitecture", "vmImageUuid", "dockerImage")}
        for row in inventory["modelServiceImages"]
    ]
    own = {"uuid", "createDate", "lastOpDate", "modelServiceImages"}
    return {name: value for name, value in inventory.items() if name not in own} | {"modelServiceImages": rows}


def planned_curl(
    params: dict[str, object], url: str, tmp_path: Path, zclone: Callable[..., subprocess.CompletedProcess[str]]
) -> str:
    job = {"version": 1, "name": "pasted", "targets": [{"uuid": SOURCE, "params": params}]}
    (tmp_path / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    shown = zclone("plan", "job.yaml", "-o", "curl", env={"ZSTACK_API_URL": url})
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_the_vendors_example_is_accepted(serve_node: Callable[..., str], child_env: dict[str, str]) -> None:
    """The API page's curl example gets a 202 from the node and a 200 with the requested clone at the poll."""
    url = serve_node()
    done = sh(EXAMPLE.replace(PLACE, url).replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1), child_env)
    assert done.returncode == 0, done.stderr
    body, status = done.stdout.rsplit("\n", 1)
    assert status == "202"
    assert json.loads(body)["apiTimeout"] == 1_800_000
    made = result(json.loads(body)["location"])
    shown = {name: made[name] for name in PARAMS if name in made}
    answers_in_lower_case = {"cpuArchitectures": ["x86_64", "aarch64"]}
    assert shown == {name: value for name, value in PARAMS.items() if name in made} | answers_in_lower_case
    assert {"name", "type", "requestCpu", "yaml", "system"} <= shown.keys()


def test_the_plan_prints_an_equivalent_command(
    serve_node: Callable[..., str],
    child_env: dict[str, str],
    tmp_path: Path,
    zclone: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """``zclone plan -o curl`` of the same body, pasted into sh, makes the same clone under the planned uuid."""
    url = serve_node()
    example = sh(EXAMPLE.replace(PLACE, url).replace("curl ", "curl -sS ", 1), child_env)
    command = planned_curl(dict(PARAMS), url, tmp_path, zclone)
    assert SESSION not in command
    pasted = sh(command, child_env | {"ZSTACK_SESSION_ID": SESSION})
    assert pasted.returncode == 0, pasted.stderr
    ours, theirs = (result(json.loads(done.stdout)["location"]) for done in (pasted, example))
    assert comparable(ours) == comparable(theirs)
    assert ours["uuid"] in command
    without = sh(command, child_env)
    assert without.returncode != 0
    assert "ZSTACK_SESSION_ID" in without.stderr


def test_nothing_in_a_body_reaches_the_shell(
    serve_node: Callable[..., str],
    child_env: dict[str, str],
    tmp_path: Path,
    zclone: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Quotes, dollars, backticks and line breaks of a value arrive as they stand in the job file."""
    url = serve_node()
    # The job file's own escape of a dollar is a second one.
    command = planned_curl({"description": NASTY.replace("$", "$$")}, url, tmp_path, zclone)
    pasted = sh(command, child_env | {"ZSTACK_SESSION_ID": SESSION})
    assert result(json.loads(pasted.stdout)["location"])["description"] == NASTY


def test_a_missing_endpoint_comes_from_the_shell(
    serve_node: Callable[..., str],
    child_env: dict[str, str],
    tmp_path: Path,
    zclone: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Without an endpoint the command takes ZSTACK_API_URL from the shell it is pasted into."""
    url = serve_node()
    command = planned_curl({}, "", tmp_path, zclone)
    pasted = sh(command, child_env | {"ZSTACK_SESSION_ID": SESSION, "ZSTACK_API_URL": url})
    assert result(json.loads(pasted.stdout)["location"])["uuid"] in command
