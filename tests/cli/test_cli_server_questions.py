"""Commands that query the server and change nothing there: plan, doctor, discover; and what run then refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from batch.app.schemas import plan_schema
from batch.cli.app import run_command
from batch.jobfile import load
from batch.plan import Planning
from batch.simulator.options import ADMIN_UUID
from tests.nodes import ledger

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
    """Work in a new directory, without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("ZSTACK_API_URL", "ZSTACK_SESSION_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def serve(
    folder: Path, serve_node: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Callable[[], Any]]:
    """Start a node with services named qwen-N and name it in the settings; yield a function that reads its ledger."""

    def start(services: int, *, version: str = "5.5.22") -> Callable[[], Any]:
        rows = "".join(f"  - {{uuid: '{uuid_of(n)}', name: qwen-{n}}}\n" for n in range(services))
        script = folder / "node.yaml"
        script.write_text(f"version: 1\nnode: {{version: {version}}}\nsources:\n{rows}", encoding="utf-8")
        url = serve_node("--faults", str(script))
        monkeypatch.setenv("ZSTACK_API_URL", url)
        monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
        return lambda: ledger(url)

    return start


def test_discover_writes_a_job_of_more_than_a_page(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`discover` lists every service that meets the conditions, beyond the server's 1,000, as a valid job file."""
    serve(MANY)
    assert run_command(["discover", "name~=qwen-%", "--out", "found.yaml"]) == 0
    planned = Planning(load(folder / "found.yaml"), run=None, started_at=0.0).plan()
    assert {clone.source_uuid for clone in planned.clones()} == {uuid_of(number) for number in range(MANY)}
    assert run_command(["discover", "name~=qwen-%", "--out", "found.yaml"]) == 2
    assert run_command(["discover", "name=nobody"]) == 2
    assert run_command(["discover", "nothing"]) == 2
    assert "no operator" in capsys.readouterr().err


def test_doctor_reports_and_changes_nothing(
    serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor` reports settings, credentials, version, permission and clock, without a call that changes anything."""
    ledger = serve(1, version="5.3.40")
    assert run_command(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "warn version: 5.3.40, too old for supportDistributed, containerCommand" in output
    assert [line.split(":")[0] for line in output.splitlines() if line.startswith("ok")] == [
        "ok   settings",
        "ok   reachable, credentials accepted",
        "ok   CloneModelService",
        "ok   permission",
        "ok   clock",
    ]
    assert ledger()["clones_made"] == 0
    assert "submit" not in ledger()["calls"]
    assert SESSION not in output


@pytest.mark.usefixtures("folder")
def test_doctor_fails_where_a_run_would(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings `doctor` exits with 2, with an unreachable server 5, and says which it is."""
    assert run_command(["doctor"]) == 2
    monkeypatch.setenv("ZSTACK_API_URL", "http://127.0.0.1:9/zstack")
    monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
    assert run_command(["doctor"]) == 5
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")][1].startswith(
        "FAIL server: cannot reach"
    )


def test_a_plan_is_checked_against_the_server(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` reports missing sources and parameters too new for the server, with places; run refuses too."""
    ledger = serve(1, version="5.3.40")
    job = folder / "job.yaml"
    params = "{containerCommand: x}"
    job.write_text(f"{HEAD}  - {uuid_of(0)}\n  - {{uuid: {uuid_of(7)}, params: {params}}}\n", encoding="utf-8")
    assert run_command(["plan", "job.yaml"]) == 2
    output = capsys.readouterr().err
    assert f"job.yaml:5:5: targets[1]: the source {uuid_of(7)} does not exist on the server" in output
    assert "targets[1].params.containerCommand: containerCommand needs ZStack 5.5.22" in output
    assert "^" in output
    assert run_command(["run", "job.yaml", "--progress", "none"]) == 2
    assert "containerCommand needs ZStack 5.5.22" in capsys.readouterr().err
    assert "submit" not in ledger()["calls"]


@pytest.mark.parametrize("command", [["plan", "job.yaml", "-o", "json"], ["discover"], ["doctor"]])
def test_warnings_go_to_stderr(
    command: list[str],
    folder: Path,
    serve: Callable[..., Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Commands without a log warn of the connection and of misspelt variables on stderr; stdout has data only."""
    serve(1)
    # A node on loopback gives no reason to warn.
    monkeypatch.setattr("batch.zstack.client.transport_warnings", lambda _: ("in clear",))
    monkeypatch.setenv("ZSTACK_SESION_ID", "x")
    (folder / "job.yaml").write_text(f"{HEAD}  - {uuid_of(0)}\n", encoding="utf-8")
    assert run_command(command) == 0
    output = capsys.readouterr()
    assert "warning: in clear" in output.err
    assert "did you mean ZSTACK_SESSION_ID" in output.out + output.err
    assert "operator.warned" not in output.out
    assert command[0] == "doctor" or "in clear" not in output.out


def test_fields_the_server_resets_are_reported(
    folder: Path,
    serve_node: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Size and system that the source has and nothing sends are reported as lost, unless `keep` copies them."""
    rows = "".join(f"  - {{uuid: '{uuid_of(n)}', fields: {{size: {5 * n}, system: {n == 1}}}}}\n" for n in range(2))
    (folder / "node.yaml").write_text(f"version: 1\nsources:\n{rows.lower()}", encoding="utf-8")
    monkeypatch.setenv("ZSTACK_API_URL", serve_node("--faults", str(folder / "node.yaml")))
    monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
    targets = f"  - {uuid_of(0)}\n  - {{uuid: {uuid_of(1)}, keep: [size]}}\n  - {{uuid: {uuid_of(1)}, id: b}}\n"
    (folder / "job.yaml").write_text(HEAD + targets, encoding="utf-8")
    assert run_command(["plan", "job.yaml", "--details"]) == 0
    output = capsys.readouterr()
    assert output.out.count("    system: true -> false  (reset by the server: `keep` copies it)") == 2
    assert output.out.count("    size: 5 -> 0  (reset") == 1
    assert "warning: 2 clones lose the source's size or system: `keep: [size, system]` copies them" in output.err
    assert run_command(["plan", "job.yaml", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    jsonschema.Draft7Validator(plan_schema()).validate(shown)
    assert [row["source_resets"] for row in shown["clones"]] == [{}, {"system": True}, {"size": 5, "system": True}]


TENANT: Final = "7" * 32
OWNED: Final = f"""version: 1
accounts:
  - {{uuid: '{TENANT}', name: tenant, password: p}}
  - {{uuid: '{"8" * 32}', name: other, password: p, denied: [GetResourceAccount]}}
sources:
  - {{uuid: '{uuid_of(0)}', owner: '{TENANT}', to_public: true}}
  - {{uuid: '{uuid_of(1)}', owner: '{"8" * 32}', to_public: true}}
  - {{uuid: '{uuid_of(2)}', owner: '{"8" * 32}', to_public: false}}
  - {{uuid: '{uuid_of(3)}'}}
"""


def test_sources_of_other_accounts_are_reported_with_their_place(
    folder: Path,
    serve_node: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another account's source is a warning at its first target; one that this account may not see is an error."""
    (folder / "node.yaml").write_text(OWNED, encoding="utf-8")
    monkeypatch.setenv("ZSTACK_API_URL", serve_node("--faults", str(folder / "node.yaml")))
    monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
    rows = [uuid_of(0), uuid_of(1), f"{{uuid: '{uuid_of(1)}', id: twice}}", uuid_of(3)]
    (folder / "job.yaml").write_text(HEAD + "".join(f"  - {row}\n" for row in rows), encoding="utf-8")
    assert run_command(["plan", "job.yaml"]) == 0
    output = capsys.readouterr().err
    admin = f"its clone will belong to yours, 'admin' ({ADMIN_UUID})"
    assert f"job.yaml:4:5: targets[0]: warning: the source {uuid_of(0)} belongs to account 'tenant'" in output
    assert f"job.yaml:5:5: targets[1]: warning: the source {uuid_of(1)} belongs to account 'other'" in output
    assert (output.count(admin), output.count(": warning: the source")) == (2, 2)
    monkeypatch.delenv("ZSTACK_SESSION_ID")
    monkeypatch.setenv("ZSTACK_ACCOUNT", "tenant")
    monkeypatch.setenv("ZSTACK_PASSWORD", "p")
    assert run_command(["plan", "job.yaml"]) == 0
    output = capsys.readouterr().err
    assert output.count("its clone will belong to yours, 'tenant'") == 2
    assert uuid_of(0) not in output
    (folder / "job.yaml").write_text(f"{HEAD}  - {uuid_of(2)}\n", encoding="utf-8")
    assert run_command(["plan", "job.yaml"]) == 2
    output = capsys.readouterr().err
    assert f"targets[0]: the source {uuid_of(2)} does not exist on the server, or this account may not see it" in output
    monkeypatch.setenv("ZSTACK_ACCOUNT", "other")
    assert run_command(["plan", "job.yaml"]) == 0
    assert "warning: the owners of the sources are not known: GetResourceAccount" in capsys.readouterr().err


def test_many_sources_are_queried_in_pages(
    folder: Path,
    serve: Callable[..., Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With too many sources to compare each is still looked up once, and missing ones have their places."""
    monkeypatch.setattr("batch.app.server_checks.MAX_COMPARED", 100)
    ledger = serve(MANY)
    rows = [uuid_of(number) for number in range(MANY)]
    twins = [f"{{uuid: '{uuid_of(number)}', id: 't{number}'}}" for number in range(MANY)]
    (folder / "job.yaml").write_text(HEAD + "".join(f"  - {row}\n" for row in rows + twins), encoding="utf-8")
    assert run_command(["plan", "job.yaml", "-o", "curl"]) == 0
    # One call checks the session; the others are the pages of 200.
    assert ledger()["calls"]["query"] == 1 + -(-MANY // 200)
    with (folder / "job.yaml").open("a", encoding="utf-8") as stream:
        stream.write(f"  - {uuid_of(MANY)}\n")
    capsys.readouterr()
    assert run_command(["plan", "job.yaml"]) == 2
    assert f"job.yaml:{4 + 2 * MANY}:5: targets[{2 * MANY}]: the source {uuid_of(MANY)}" in capsys.readouterr().err


def test_a_plan_explains_each_parameter(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The JSON plan fits its schema and gives each parameter's layer and the source's differing value."""
    serve(1)
    text = (
        "version: 1\nname: j\nlimits: {deadline: 1s, rate: 1/s}\ndefaults: {params: {requestCpu: 77}}\n"
        f"targets:\n  - {{uuid: {uuid_of(0)}, keep: [system], params: {{name: '${{source.name}}-x'}}}}\n"
        f"  - {{uuid: {uuid_of(0)}, id: b, params: {{name: qwen-0-x}}}}\n"
    )
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    assert run_command(["plan", "job.yaml", "-o", "json"]) == 0
    output = capsys.readouterr()
    shown = json.loads(output.out)
    jsonschema.Draft7Validator(plan_schema()).validate(shown)
    first = shown["clones"][0]
    assert {name: found["layer"] for name, found in first["set_by"].items()} == {
        "name": "target",
        "requestCpu": "defaults",
        "system": "source",
    }
    assert first["set_by"]["requestCpu"]["line"] == 4
    assert [name for name, found in first["set_by"].items() if found["rendered"]] == ["name"]
    assert first["source_differs"]["name"] == "qwen-0"
    assert "several clones get the same name: qwen-0-x" in output.err
    assert "does NOT fit the deadline" in output.err
    assert run_command(["plan", "job.yaml", "--details"]) == 0
    assert '    name: "qwen-0" -> "qwen-0-x"  (target, rendered, job.yaml:6:' in capsys.readouterr().out


def test_a_plan_without_an_endpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings a job that needs no server is planned and says what was not checked; another one is refused."""
    twins = "".join(f"  - {{uuid: {uuid_of(number)}, params: {{name: same}}}}\n" for number in range(2))
    (folder / "job.yaml").write_text(HEAD + twins, encoding="utf-8")
    assert run_command(["plan", "job.yaml"]) == 0
    output = capsys.readouterr().err
    assert "are not checked" in output
    assert "warning: several clones get the same name: same" in output
    (folder / "job.yaml").write_text(f"{HEAD}  - {{query: [name=a]}}\n", encoding="utf-8")
    assert run_command(["plan", "job.yaml"]) == 2
    assert "the plan needs the server" in capsys.readouterr().err
    assert run_command(["validate", "job.yaml"]) == 0


def test_a_plan_of_a_begun_run_reads_its_manifest(
    folder: Path, serve: Callable[..., Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` shows the run as it is pinned, not what its query finds now, and how many targets are left."""
    serve(3)
    (folder / "job.yaml").write_text(
        f"{HEAD}  - query: [name~=qwen%]\n    params: {{requestCpu: 2}}\n", encoding="utf-8"
    )
    quiet = ["--progress", "none", "--rate", "500/s"]
    assert run_command(["plan", "job.yaml"]) == 0
    assert " left" not in capsys.readouterr().err
    for only, left in ((["--only", f"key={uuid_of(0)}"], 2), ([], 0)):
        assert run_command(["run", "job.yaml", *quiet, *only]) == 0
        capsys.readouterr()
        assert run_command(["plan", "job.yaml", "-o", "json"]) == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out)["count"] == 3
        assert f"3 targets: {3 - left} cloned, {left} left, by job.manifest.jsonl" in shown.err
    assert run_command(["plan", "job.yaml", "--run", "again", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6
