"""What `plan` and `doctor --job` report about images, tags, GPU specs, accounts and model centres."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.cli.app import run_command
from tests.nodes import ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SESSION: Final = "b86c9016b4f24953a9edefb53ca0678c"
TENANT: Final = "7" * 32
SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(300)]
GOOD, LOST, WRONG, DISABLED = ("1" * 32, "2" * 32, "3" * 32, "4" * 32)
SPEC, CENTER, AWAY = ("5" * 32, "6" * 32, "8" * 32)
OTHERS: Final = [
    {"uuid": GOOD, "kind": "ImageVO", "fields": {"architecture": "aarch64"}},
    {"uuid": WRONG, "kind": "ImageVO", "fields": {"architecture": "x86_64"}},
    {"uuid": DISABLED, "kind": "ImageVO", "fields": {"architecture": "aarch64", "state": "Disabled"}},
    {"uuid": SPEC, "kind": "GpuDeviceSpecVO"},
    {"uuid": CENTER, "kind": "ModelCenterVO"},
    {"uuid": AWAY, "kind": "ModelCenterVO", "fields": {"status": "Disconnected"}},
]
JOB: Final = """\
version: 1
name: migration
defaults:
  params:
    cpuArchitectures: [AARCH64]
    architectureImages: [{cpuArchitecture: AARCH64, vmImageUuid: %s, dockerImage: r/a}]
targets:
"""


def target(number: int, *, image: str | None = None, **more: Any) -> str:
    params: dict[str, Any] = {"vendorToSpecUuidsMap": {"NVIDIA": [SPEC]}, **more}
    if image is not None:
        params["architectureImages"] = [{"cpuArchitecture": "AARCH64", "vmImageUuid": image}]
    return f"  - {json.dumps({'uuid': SOURCES[number], 'params': params})}\n"


@pytest.fixture
def serve(tmp_path: Path, serve_node: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Start a node with 300 sources and what a migration references; work in a new folder."""
    monkeypatch.chdir(tmp_path)

    def start(*, away: int | None = None, account: dict[str, Any] | None = None) -> str:
        rows = [
            {"uuid": uuid, "fields": {"modelCenterUuid": AWAY if number == away else CENTER}}
            for number, uuid in enumerate(SOURCES)
        ]
        script = {
            "version": 1,
            "node": {"invent_sources": False},
            "sources": rows + OTHERS,
            "accounts": [account] if account else [],
        }
        (tmp_path / "node.yaml").write_text(json.dumps(script), encoding="utf-8")
        url = serve_node("--faults", str(tmp_path / "node.yaml"))
        monkeypatch.setenv("ZSTACK_API_URL", url)
        if account is None:
            monkeypatch.setenv("ZSTACK_SESSION_ID", SESSION)
        else:
            monkeypatch.delenv("ZSTACK_SESSION_ID", raising=False)
            monkeypatch.setenv("ZSTACK_ACCOUNT", account["name"])
            monkeypatch.setenv("ZSTACK_PASSWORD", account["password"])
        return url

    return start


def write(folder: Path, *targets: str, image: str = GOOD) -> None:
    (folder / "job.yaml").write_text(JOB % image + "".join(targets), encoding="utf-8")


def test_everything_a_migration_lacks_is_reported_at_its_place(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that is missing, unfit or disabled, an unknown GPU spec or tag, and an unreachable model centre."""
    url = serve(away=3)
    bad = [
        target(0, image=LOST),
        target(1, image=WRONG),
        target(2, image=DISABLED),
        target(3),
        target(4, vendorToSpecUuidsMap={"NVIDIA": ["f" * 32]}),
        target(5, tagUuids=["e" * 32]),
    ]
    write(tmp_path, *bad)
    assert run_command(["plan", "job.yaml"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("job.yaml:")]
    wanted = [
        (8, "params.architectureImages[0].vmImageUuid", f"the image {LOST} does not exist on the server"),
        (9, "params.architectureImages[0].vmImageUuid", f"the image {WRONG} is for x86_64, not for AARCH64"),
        (10, "params.architectureImages[0].vmImageUuid", f"the image {DISABLED} is Disabled, needs to be Enabled"),
        (11, "targets[3]", f"the model centre of its source {AWAY} is Disconnected, needs to be Connected"),
        (12, "params.vendorToSpecUuidsMap.NVIDIA[0]", f"the GPU spec {'f' * 32} does not exist on the server"),
        (13, "params.tagUuids[0]", f"the tag {'e' * 32} does not exist on the server"),
    ]
    assert len(lines) == len(wanted), lines
    for line, (number, path, message) in zip(lines, wanted, strict=True):
        assert line.startswith(f"job.yaml:{number}:")
        assert f"{path}: {message}" in line
    assert ledger(url)["calls"].get("submit", 0) == 0


def test_a_problem_of_a_default_is_reported_once(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What all targets take from `defaults:` is one problem, at the place of the default."""
    serve()
    write(tmp_path, *(target(number) for number in range(20)), image=WRONG)
    assert run_command(["plan", "job.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.count(f"the image {WRONG} is for x86_64") == 1
    assert "job.yaml:6:" in err


def test_three_hundred_targets_cost_fifteen_calls(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind is queried once, in pages, whatever the number of targets."""
    url = serve()
    write(tmp_path, *(target(number) for number in range(300)))
    assert run_command(["plan", "job.yaml"]) == 0, capsys.readouterr().err
    assert ledger(url)["calls_total"] <= 15


def test_references_the_account_may_not_see_are_warnings(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """For an account that is not admin a missing image may exist, and a denied query proves nothing."""
    denied = ["QueryPciDeviceSpec"]
    serve(account={"uuid": TENANT, "name": "t", "password": "pw", "denied": denied})
    write(tmp_path, target(0, image=LOST))
    assert run_command(["plan", "job.yaml"]) == 0
    err = capsys.readouterr().err
    assert f"warning: the image {LOST} does not exist on the server, or this account may not see it" in err
    assert "warning: the GPU specs that the plan names are not checked: " in err


def test_a_visible_image_that_does_not_fit_is_an_error(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An image that the account sees and that does not fit is an error for everybody."""
    serve(account={"uuid": TENANT, "name": "t", "password": "pw"})
    write(tmp_path, target(0, image=DISABLED))
    assert run_command(["plan", "job.yaml"]) == 2
    assert f"the image {DISABLED} is Disabled" in capsys.readouterr().err


def test_too_many_references_are_not_queried(
    tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond a bound a kind is not queried, which is reported; the others are."""
    url = serve()
    monkeypatch.setattr("batch.app.server_checks.MAX_COMPARED", 2)
    write(tmp_path, *(target(number, image=f"{number:032x}") for number in range(3)))
    assert run_command(["plan", "job.yaml"]) == 0
    assert "warning: the images that the plan names are not checked: there are more than 2" in capsys.readouterr().err
    assert ledger(url)["calls"].get("queryImage", 0) == 0
    assert ledger(url)["calls"]["queryPciDeviceSpec"] == 1


def test_doctor_reports_the_same_in_short(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`doctor --job` says that everything exists, or the first five problems and how many more there are."""
    serve()
    write(tmp_path, target(0), target(1))
    assert run_command(["doctor", "--job", "job.yaml"]) == 0
    assert "ok   job file: 2 clones, and everything they refer to exists" in capsys.readouterr().out
    write(tmp_path, *(target(number, image=f"{number:032x}") for number in range(7)))
    assert run_command(["doctor", "--job", "job.yaml"]) == 2
    out = capsys.readouterr().out
    assert out.count("FAIL job file: job.yaml:") == 5
    assert "FAIL job file: 2 more problems: zclone plan job.yaml shows them" in out
