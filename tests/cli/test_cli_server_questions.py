"""Commands that ask the server and change nothing there: plan, doctor, discover; and what run refuses after asking."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from batch import plan
from batch.cli.app import exit_code
from batch.jobfile import load
from batch.plan.schema import plan_schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
HEAD: Final = "version: 1\nname: j\ntargets:\n"
MANY: Final = 1_203


def uuid_of(number: int) -> str:
    return f"{number:012x}4aaa8{number:015x}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory of the test's own, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("ZSTACK_API_URL", "ZSTACK_SESSION_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def serve(
    folder: Path, serve_node: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], Any]]:
    """Start a node with services named qwen-N and name it in the settings; gives a function that reads its ledger."""

    def start(services: int, *, version: str = "5.5.22") -> Callable[[], Any]:
        rows = "".join(f"  - {{uuid: '{uuid_of(n)}', name: qwen-{n}}}\n" for n in range(services))
        script = folder / "node.yaml"
        script.write_text(f"version: 1\nnode: {{version: {version}}}\nsources:\n{rows}", encoding="utf-8")
        url = serve_node("--faults", str(script))
        monkeypatch.setenv("ZSTACK_API_URL", url)
        monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
        return lambda: json.load(urllib.request.urlopen(url.removesuffix("/zstack") + "/__ledger"))

    return start


def test_discover_writes_a_job_of_more_than_a_page(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`discover` lists every service that meets the conditions, beyond the server's 1,000, as a valid job file."""
    serve(MANY)
    assert exit_code(["discover", "name~=qwen-%", "-o", "found.yaml"]) == 0
    planned = plan.expand(load(folder / "found.yaml"), run=None, started_at=0.0)
    assert {clone.source_uuid for clone in planned.clones()} == {uuid_of(number) for number in range(MANY)}
    assert exit_code(["discover", "name~=qwen-%", "-o", "found.yaml"]) == 2
    assert exit_code(["discover", "name=nobody"]) == 2
    assert exit_code(["discover", "nothing"]) == 2
    assert "no operator" in capsys.readouterr().err


def test_doctor_tells_what_is_and_changes_nothing(
    serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor` tells settings, credentials, version, permission and clock, without a call that changes anything."""
    ledger = serve(1, version="5.3.40")
    assert exit_code(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "warn version: 5.3.40, too old for supportDistributed, containerCommand" in told
    assert [line.split(":")[0] for line in told.splitlines() if line.startswith("ok")] == [
        "ok   settings",
        "ok   reachable, credentials accepted",
        "ok   CloneModelService",
        "ok   permission",
        "ok   clock",
    ]
    assert ledger()["clones_made"] == 0
    assert "submit" not in ledger()["calls"]
    assert SESSION not in told


@pytest.mark.usefixtures("folder")
def test_doctor_fails_where_a_run_would(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings `doctor` exits 2, with an unreachable server 5, and says which it is."""
    assert exit_code(["doctor"]) == 2
    monkeypatch.setenv("ZSTACK_API_URL", "http://127.0.0.1:9/zstack")
    monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
    assert exit_code(["doctor"]) == 5
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")][1].startswith(
        "FAIL server: cannot reach"
    )


def test_a_plan_is_checked_against_the_server(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` tells sources that do not exist and parameters too new for the server, with places; run refuses too."""
    ledger = serve(1, version="5.3.40")
    job = folder / "job.yaml"
    params = "{containerCommand: x}"
    job.write_text(f"{HEAD}  - {uuid_of(0)}\n  - {{uuid: {uuid_of(7)}, params: {params}}}\n", encoding="utf-8")
    assert exit_code(["plan", "job.yaml"]) == 2
    told = capsys.readouterr().err
    assert f"job.yaml:5:5: targets[1]: the source {uuid_of(7)} does not exist on the server" in told
    assert "targets[1].params.containerCommand: containerCommand needs ZStack 5.5.22" in told
    assert "^" in told
    assert exit_code(["run", "job.yaml", "--progress", "none"]) == 2
    assert "containerCommand needs ZStack 5.5.22" in capsys.readouterr().err
    assert "submit" not in ledger()["calls"]


def test_a_plan_says_why(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON plan fits its schema and tells each parameter's layer and the source's differing value."""
    serve(1)
    text = (
        "version: 1\nname: j\nlimits: {deadline: 1s, rate: 1/s}\ndefaults: {params: {requestCpu: 77}}\n"
        f"targets:\n  - {{uuid: {uuid_of(0)}, keep: [system], params: {{name: '${{source.name}}-x'}}}}\n"
        f"  - {{uuid: {uuid_of(0)}, id: b, params: {{name: qwen-0-x}}}}\n"
    )
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    assert exit_code(["plan", "job.yaml", "-o", "json"]) == 0
    told = capsys.readouterr()
    shown = json.loads(told.out)
    jsonschema.Draft7Validator(plan_schema()).validate(shown)
    first = shown["clones"][0]
    assert {name: found["layer"] for name, found in first["set_by"].items()} == {
        "name": "target",
        "requestCpu": "defaults",
        "system": "source",
    }
    assert first["set_by"]["requestCpu"]["line"] == 4
    assert first["source_differs"]["name"] == "qwen-0"
    assert "several clones get one name: qwen-0-x" in told.err
    assert "does NOT fit the deadline" in told.err
    assert exit_code(["plan", "job.yaml"]) == 0
    assert '    name: "qwen-0" -> "qwen-0-x"  (target, job.yaml:6:' in capsys.readouterr().out


def test_a_plan_without_an_endpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings a job that needs no server is planned and says what was not checked; another one is refused."""
    (folder / "job.yaml").write_text(f"{HEAD}  - {uuid_of(0)}\n", encoding="utf-8")
    assert exit_code(["plan", "job.yaml"]) == 0
    assert "are not checked" in capsys.readouterr().err
    (folder / "job.yaml").write_text(f"{HEAD}  - {{query: [name=a]}}\n", encoding="utf-8")
    assert exit_code(["plan", "job.yaml"]) == 2
    assert "the plan needs the server" in capsys.readouterr().err
    assert exit_code(["validate", "job.yaml"]) == 0
