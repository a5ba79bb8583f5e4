"""`plan --server-check`: the server's verdict without making anything, and the canary that proves it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest

from batch.app.schemas import plan_schema
from batch.app.server_checks import CheckSummary
from batch.cli.app import run_command
from batch.engine.validation import CheckOutcome, CheckResult
from batch.errors import ExitCode
from batch.jobfile import load
from batch.plan import Identities, Planning, resource_uuid
from tests.nodes import ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., Callable[[], Any]]

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
GOOD: Final = "d76744cb53f9378abf42b907df3efb6e"
CHECKED: Final = Identities("j", "default").of_check(GOOD)


@pytest.fixture
def serve(tmp_path: Path, serve_node: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Start a node with its own lines and name it in the settings; yield a function that reads its ledger."""
    monkeypatch.chdir(tmp_path)

    def start(node: str = "", more: str = "") -> Callable[[], Any]:
        script = tmp_path / "node.yaml"
        script.write_text(f"version: 1\nnode: {{latency: [0, 0.01]{node}}}\n{more}", encoding="utf-8")
        url = serve_node("--faults", str(script))
        monkeypatch.setenv("ZSTACK_API_URL", url)
        monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
        return lambda: ledger(url)

    return start


def write_job(folder: Path, *targets: str) -> None:
    rows = "".join(f"  - {target}\n" for target in targets)
    text = f"version: 1\nname: j\nlimits: {{rate: 500/s, concurrency: 4}}\ntargets:\n{rows}"
    (folder / "job.yaml").write_text(text, encoding="utf-8")


def test_each_clone_is_checked_and_nothing_is_made(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal comes with the server's code beside the targets that are fine, exit code 2; nothing is made."""
    sources = f"sources: [{{uuid: {GOOD}, name: a}}]\n"
    ledger = serve("", sources)
    write_job(
        tmp_path,
        GOOD,
        f"{{uuid: {GOOD}, id: bad, systemTags: ['no::such']}}",
        f"{{uuid: {GOOD}, id: tagged, userTags: [x], params: {{name: n}}}}",
    )
    assert run_command(["plan", "job.yaml", "--server-check", "-o", "json", "--out", "a.plan"]) == 2
    output = capsys.readouterr()
    shown = json.loads(output.out)
    jsonschema.Draft7Validator(plan_schema()).validate(shown)
    checks = {row["key"]: row["server_check"] for row in shown["clones"]}
    assert {key: check["outcome"] for key, check in checks.items()} == {GOOD: "ok", "bad": "refused", "tagged": "ok"}
    assert (checks["bad"]["code"], checks[GOOD]["code"]) == ("SYS.1007", None)
    assert "2 ok, 1 would be refused, 0 without a clear answer" in output.err
    assert not (tmp_path / "a.plan").exists()
    assert not list(tmp_path.glob("*manifest*"))
    assert (ledger()["clones_made"], ledger()["calls"]["submit"]) == (0, 3)


def test_without_the_flag_nothing_is_sent(tmp_path: Path, serve: Serve) -> None:
    """`plan` alone sends no request that a server could take for a clone."""
    ledger = serve("", f"sources: [{{uuid: {GOOD}}}]\n")
    write_job(tmp_path, GOOD)
    assert run_command(["plan", "job.yaml"]) == 0
    assert "submit" not in ledger()["calls"]


def test_the_table_has_every_verdict(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the server's answer below each target, and a fully accepted plan exits with 0."""
    serve("", f"sources: [{{uuid: {GOOD}}}]\n")
    write_job(tmp_path, GOOD)
    assert run_command(["plan", "job.yaml", "--details", "--server-check"]) == 0
    assert "\n    server: ok\n" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["", "faults: [{fault: lost_reply, on: submit, requests: 1}]\n"])
def test_a_server_that_ignores_the_tag_is_detected_by_the_first(
    fault: str, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clone goes alone; what it made is reported with the way to delete it, and no other is sent."""
    ledger = serve(", honours_validation_only: false", f"sources: [{{uuid: {GOOD}}}]\n{fault}")
    write_job(tmp_path, GOOD, *(f"{{uuid: {GOOD}, id: t{number}}}" for number in range(9)))
    assert run_command(["plan", "job.yaml", "--server-check"]) == 1
    output = capsys.readouterr()
    assert f"made the model service {CHECKED}" in output.err
    assert "curl -X DELETE '" in output.err
    assert f"/v1/ai/model-services/{CHECKED}?deleteMode=Permissive'" in output.err
    assert output.out == ""
    assert [row["uuid"] for row in ledger()["clones"]] == [CHECKED]
    # A second check finds the same uuid; nothing more is made, and a run still has the target's own uuid.
    assert run_command(["plan", "job.yaml", "--server-check"]) == 1
    assert ledger()["clones_made"] == 1
    assert resource_uuid("j", "default", GOOD) != CHECKED
    assert run_command(["run", "job.yaml", "--progress", "none", "--only", f"key={GOOD}"]) == 0
    assert {row["uuid"] for row in ledger()["clones"]} == {CHECKED, resource_uuid("j", "default", GOOD)}


def test_a_refused_canary_proves_nothing(tmp_path: Path, serve: Serve) -> None:
    """Refused targets go one by one: the first that is not refused is the canary."""
    ledger = serve(", honours_validation_only: false", f"sources: [{{uuid: {GOOD}}}]\n")
    bad = [f"{{uuid: {GOOD}, id: bad{number}, systemTags: ['no::such']}}" for number in range(3)]
    write_job(tmp_path, *bad, *(f"{{uuid: {GOOD}, id: t{number}}}" for number in range(9)))
    assert run_command(["plan", "job.yaml", "--server-check"]) == 1
    assert (ledger()["clones_made"], ledger()["calls"]["submit"]) == (1, 4)


def test_a_check_needs_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without settings there is no server to query, which is an error."""
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, GOOD)
    assert run_command(["plan", "job.yaml", "--server-check"]) == 2
    assert "the plan needs the server, to check each clone" in capsys.readouterr().err


def test_a_missing_answer_is_no_refusal(tmp_path: Path) -> None:
    """Refusals exit with 2; without any, a missing answer asks for another try of the command."""
    write_job(tmp_path, GOOD, f"{{uuid: {GOOD}, id: b}}", f"{{uuid: {GOOD}, id: c}}")
    found = list(Planning(load(tmp_path / "job.yaml"), run=None, started_at=0.0).plan().clones())
    verdicts, codes = CheckSummary(), list[ExitCode]()
    answers = (
        CheckResult(CheckOutcome.OK),
        CheckResult(CheckOutcome.UNCLEAR, error="reset"),
        CheckResult(CheckOutcome.REFUSED, "SYS.1003", "gone"),
    )
    for clone, verdict in zip(found, answers, strict=True):
        verdicts.add(clone, verdict)
        codes.append(verdicts.exit_code)
    assert codes == [ExitCode.OK, ExitCode.UNFINISHED, ExitCode.USAGE]
    assert str(verdicts) == "server check: 1 ok, 1 would be refused, 1 without a clear answer"
    assert [verdicts.of(clone.key).code for clone in found] == [None, None, "SYS.1003"]
