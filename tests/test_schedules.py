"""The examples under jobs/schedule are valid for their programs, and zclone accepts their command lines."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml
from typer.main import get_command

from batch.cli.app import app
from batch.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_composer() -> str | None:
    """Return docker if it has the compose plugin."""
    docker = shutil.which("docker")
    has = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    return docker if has else None


FOLDER: Final = Path(__file__).resolve().parents[1] / "jobs" / "schedule"
COMPOSE: Final = FOLDER / "temporal-compose.yaml"
KUBERNETES: Final = sorted(path for path in FOLDER.glob("*.yaml") if path != COMPOSE)
UNITS: Final = ("zclone.service", "zclone.timer", "zclone-worker.service")
VERSION: Final = "1.33"
VALIDATOR: Final = shutil.which("kubernetes-validate", path=str(Path(sys.executable).parent)) or shutil.which(
    "kubernetes-validate"
)
COMPOSER: Final = find_composer()
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
def test_kubernetes_accepts_it(path: Path, tmp_path: Path) -> None:
    """Each Kubernetes example is valid by the API's own schema, and a misspelt field would be noticed."""
    assert VALIDATOR is not None
    command = [VALIDATOR, "--strict", "-k", VERSION]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "bad.yaml").write_text(path.read_text(encoding="utf-8").replace("terminationGrace", "terminationGrase"))
    assert subprocess.run([*command, str(tmp_path / "bad.yaml")], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_zclone_accepts_the_pods_commands(path: Path) -> None:
    """Arguments parse, exit codes in the failure policy are zclone's, and the container is the Dockerfile's."""
    for job, container in containers(path):
        require_command([word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in container["args"]])
        policy = job.get("podFailurePolicy", {"rules": []})
        rules = [rule["onExitCodes"]["values"] for rule in policy["rules"] if "onExitCodes" in rule]
        assert {code for values in rules for code in values} <= {ExitCode.USAGE, ExitCode.FAILED}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        pod = job["template"]["spec"]
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert "--adopt-manifest" not in container["args"]


def test_the_shards_cover_everything() -> None:
    """An Indexed Job has as many parts as completions."""
    ((job, container),) = containers(FOLDER / "indexed-job.yaml")
    assert f"$(JOB_COMPLETION_INDEX)/{job['completions']}" in container["args"]


def share_of(words: list[str]) -> Fraction:
    return Fraction(words[words.index("--share") + 1])


def test_the_workers_shares_are_those_of_their_replicas() -> None:
    """Each worker of the Deployment has one of as many shares, old and new ones never at the same time."""
    ((spec, container),) = containers(FOLDER / "worker-deployment.yaml")
    assert share_of(container["args"]) == Fraction(1, spec["replicas"])
    assert spec["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("age", [0, 3600])
def test_a_pod_is_ready_while_its_worker_writes(tmp_path: Path, age: int) -> None:
    """Each probe checks whether the file of --metrics-file is fresh, and the drain has more time than it needs."""
    ((spec, container),) = containers(FOLDER / "worker-deployment.yaml")
    file = container["args"][container["args"].index("--metrics-file") + 1]
    written = tmp_path / "worker.prom"
    written.touch()
    os.utime(written, (written.stat().st_mtime - age,) * 2)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, *words = container[name]["exec"]["command"]
        assert (program, file in words[-1]) == ("python", True)
        words = [word.replace(file, str(written)) for word in words]
        assert subprocess.run([sys.executable, *words], check=False).returncode == (age > 0)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 30


def test_the_composed_services_are_consistent() -> None:
    """The workers' arguments parse, their shares add up to one, and every referenced file exists."""
    found = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    services = found["services"]
    workers = [service for service in services.values() if service["image"].startswith("registry.example.com/zclone:")]
    for worker in workers:
        require_command(worker["command"])
        named = {
            value.removeprefix("/run/secrets/") for name, value in worker["environment"].items() if "_FILE" in name
        }
        assert named == set(worker["secrets"])
    assert (len(workers), sum(share_of(worker["command"]) for worker in workers)) == (2, 1)
    for service in services.values():
        assert ":" in service["image"]
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service.get("secrets", ())) <= set(found["secrets"])
        assert {config["source"] for config in service.get("configs", ())} <= set(found["configs"])
    port = services["temporal"]["ports"][0]
    assert port == "127.0.0.1:7233:7233"


@pytest.mark.skipif(COMPOSER is None, reason="docker compose is not installed")
def test_compose_accepts_it(tmp_path: Path) -> None:
    """The services are valid for Docker Compose itself, and a misspelt field would be noticed."""
    for name in ("session", "temporal.key", "database.env"):
        (tmp_path / name).touch()
    text = COMPOSE.read_text(encoding="utf-8")
    for index, (written, is_valid) in enumerate([(text, True), (text.replace("healthcheck:", "healthchek:"), False)]):
        file = tmp_path / f"{index}.yaml"
        file.write_text(written, encoding="utf-8")
        done = subprocess.run(
            [COMPOSER or "", "compose", "-f", str(file), "config", "-q"], capture_output=True, check=False
        )
        assert (done.returncode == 0) is is_valid, done.stderr


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_it(tmp_path: Path) -> None:
    """Services and timer pass systemd's own check, and a misspelt setting would be noticed."""
    assert ANALYZE is not None
    program = tmp_path / "zclone"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    for name in UNITS:
        text = (FOLDER / name).read_text(encoding="utf-8").replace("/usr/local/bin/zclone", str(program))
        (tmp_path / name).write_text(text, encoding="utf-8")
    units = [str(tmp_path / name) for name in UNITS]
    done = subprocess.run([ANALYZE, "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "zclone.service").write_text(
        Path(units[0]).read_text(encoding="utf-8") + "WantdBy=x\n", encoding="utf-8"
    )
    assert subprocess.run([ANALYZE, "verify", *units], capture_output=True, text=True, check=False).stderr


def test_zclone_accepts_the_services_command() -> None:
    """ExecStart parses, its credential is the one that is read, and the codes that stop a restart are final ones."""
    text = (FOLDER / "zclone.service").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert re.search(r"^Environment=ZSTACK_SESSION_ID_FILE=%d/session$", text, re.MULTILINE)
    require_command(shlex.split(settings["ExecStart"])[1:])
    assert settings["LoadCredential"].startswith("session:")
    codes = [ExitCode(int(code)) for code in settings["RestartPreventExitStatus"].split()]
    assert codes == [ExitCode.USAGE, ExitCode.FAILED]
    assert settings["SuccessExitStatus"] == str(int(ExitCode.LOCKED))
    assert settings["UMask"] == "0077"
    assert settings["CapabilityBoundingSet"] == ""
    assert settings["SystemCallFilter"] == "@system-service"
    # A manifest knows its user by name, which must not change with a dynamic number.
    assert settings["User"] == "zclone"
    assert "--adopt-manifest" not in settings["ExecStart"]


def test_zclone_accepts_the_worker_units_command() -> None:
    """The worker's ExecStart parses, its credentials are those that are read, and it is drained before it is killed."""
    text = (FOLDER / "zclone-worker.service").read_text(encoding="utf-8")
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    require_command(shlex.split(settings["ExecStart"])[1:])
    loaded = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert loaded == set(re.findall(r"^Environment=\w+_FILE=%d/(\w+)$", text, re.MULTILINE)) == {"session", "key"}
    assert int(settings["TimeoutStopSec"]) > 30
    assert (settings["Restart"], settings["RestartPreventExitStatus"]) == ("always", str(int(ExitCode.USAGE)))
    assert (settings["UMask"], settings["CapabilityBoundingSet"]) == ("0077", "")


def test_the_crontab_is_valid() -> None:
    """Five fields in their ranges, a command without a bare percent sign, and arguments that parse."""
    (line,) = cron_lines((FOLDER / "crontab").read_text(encoding="utf-8"))
    *times, command = line.split(None, 5)
    assert len(times) == len(RANGES)
    assert all(is_cron_field(text, low, high) for text, (low, high) in zip(times, RANGES, strict=True))
    assert not is_cron_field("61", 0, 59)
    assert not re.search(r"(?<!\\)%", command)
    require_command(shlex.split(command.partition("&& zclone ")[2]))
