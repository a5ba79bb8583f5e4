"""The examples under jobs/schedule: each is valid for who reads it, and its command line is one zclone takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from typer.main import get_command

from batch.cli.app import app
from batch.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = Path(__file__).resolve().parents[1] / "jobs" / "schedule"
KUBERNETES: Final = sorted(FOLDER.glob("*.yaml"))
VERSION: Final = "1.33"
VALIDATOR: Final = shutil.which("kubernetes-validate", path=str(Path(sys.executable).parent)) or shutil.which(
    "kubernetes-validate"
)
ANALYZE: Final = shutil.which("systemd-analyze")
RANGES: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
FIELD: Final = re.compile(r"\*(?:/(\d+))?|(\d+)(?:-(\d+))?(?:/\d+)?")
COMMANDS: Final[dict[str, Any]] = dict(get_command(app).commands)  # type: ignore[attr-defined]


def require_command(words: list[str]) -> None:
    """Parse a command line as zclone does, without running it."""
    COMMANDS[words[0]].make_context(words[0], list(words[1:]))


def containers(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    job = spec.get("jobTemplate", {}).get("spec", spec)
    for container in job["template"]["spec"]["containers"]:
        yield job, container


def cron_lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line):
            yield line


def is_cron_field(text: str, low: int, high: int) -> bool:
    for part in text.split(","):
        found = FIELD.fullmatch(part)
        if found is None or not all(low <= int(number) <= high for number in found.groups()[1:] if number):
            return False
    return True


@pytest.mark.skipif(VALIDATOR is None, reason="kubernetes-validate is not installed: pip install '.[lint]'")
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_takes_it(path: Path, tmp_path: Path) -> None:
    """Each Kubernetes example is valid by the API's own schema, and a misspelt field would be noticed."""
    assert VALIDATOR is not None
    command = [VALIDATOR, "--strict", "-k", VERSION]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "bad.yaml").write_text(path.read_text(encoding="utf-8").replace("restartPolicy", "restartPolicie"))
    assert subprocess.run([*command, str(tmp_path / "bad.yaml")], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_pods_run_what_zclone_takes(path: Path) -> None:
    """Arguments parse, exit codes in the failure policy are zclone's, and the container is Dockerfile's."""
    for job, container in containers(path):
        require_command([word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["args"]])
        rules = [rule["onExitCodes"]["values"] for rule in job["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        assert {code for values in rules for code in values} <= {ExitCode.USAGE, ExitCode.FAILED}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert job["template"]["spec"]["securityContext"]["runAsUser"] == 65532


def test_the_shards_cover_everything() -> None:
    """An Indexed Job has as many parts as completions."""
    ((job, container),) = containers(FOLDER / "indexed-job.yaml")
    assert f"$(JOB_COMPLETION_INDEX)/{job['completions']}" in container["args"]


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_takes_it(tmp_path: Path) -> None:
    """Service and timer pass systemd's own check, and a misspelt setting would be noticed."""
    assert ANALYZE is not None
    program = tmp_path / "zclone"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    for name in ("zclone.service", "zclone.timer"):
        text = (FOLDER / name).read_text(encoding="utf-8").replace("/usr/local/bin/zclone", str(program))
        (tmp_path / name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / "zclone.service"), str(tmp_path / "zclone.timer")]
    done = subprocess.run([ANALYZE, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "zclone.service").write_text(
        Path(units[0]).read_text(encoding="utf-8") + "WantdBy=x\n", encoding="utf-8"
    )
    assert subprocess.run([ANALYZE, "verify", *units], capture_output=True, text=True, check=False).stderr


def test_the_service_runs_what_zclone_takes() -> None:
    """ExecStart parses, its credential is the one that is read, and the codes that stop a restart are final ones."""
    text = (FOLDER / "zclone.service").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert re.search(r"^Environment=ZSTACK_SESSION_ID_FILE=%d/session$", text, re.MULTILINE)
    require_command(shlex.split(settings["ExecStart"])[1:])
    assert settings["LoadCredential"].startswith("session:")
    codes = [ExitCode(int(code)) for code in settings["RestartPreventExitStatus"].split()]
    assert codes == [ExitCode.USAGE, ExitCode.FAILED]
    assert settings["SuccessExitStatus"] == str(int(ExitCode.LOCKED))


def test_the_crontab_is_one() -> None:
    """Five fields in their ranges, a command without a bare percent sign, and arguments that parse."""
    (line,) = cron_lines((FOLDER / "crontab").read_text(encoding="utf-8"))
    *times, command = line.split(None, 5)
    assert len(times) == len(RANGES)
    assert all(is_cron_field(text, low, high) for text, (low, high) in zip(times, RANGES, strict=True))
    assert not is_cron_field("61", 0, 59)
    assert not re.search(r"(?<!\\)%", command)
    require_command(shlex.split(command.partition("&& zclone ")[2]))
