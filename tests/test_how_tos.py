"""The how-tos of the three users, as jobs/README.md has them: each runs in an empty folder, at a terminal."""

from __future__ import annotations

import csv
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.report.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATIENCE: Final = 900.0
"""Seconds for all commands of a how-to, on a slow and busy machine."""
REFERENCE: Final = (Path(__file__).resolve().parents[1] / "jobs" / "README.md").read_text(encoding="utf-8")
SECTIONS: Final = {
    section.splitlines()[0]: section for section in re.split(r"^## How-to: ", REFERENCE, flags=re.MULTILINE)[1:]
}


def script_of(title: str) -> str:
    (script,) = re.findall(r"^```sh\n(.*?)^```$", SECTIONS[title], re.MULTILINE | re.DOTALL)
    return str(script)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def run_at_a_terminal(script: str, folder: Path, env: Mapping[str, str]) -> str:
    """Run a script of the reference with bash and return the terminal's whole output; it must exit with 0."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "zclone"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m batch "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{env['PATH']}"
    (folder / "work").mkdir()
    kept = {name: value for name, value in env.items() if name not in {"NO_COLOR", "PAGER"}}
    terminal = Terminal(
        ["-eu", "-c", script],
        cwd=folder / "work",
        env=kept | {"PATH": path, "TERM": "xterm", "HOME": str(folder), "PAGER": "cat"},
        size=(100, 40),
        command=("/bin/bash",),
        patience=_PATIENCE,
    )
    try:
        screen, code = terminal.end()
        assert code == 0, screen.text
    finally:
        terminal.close()
    return terminal.seen.decode("utf-8", "replace")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.timeout(960)
def test_the_migration(tmp_path: Path, child_env: dict[str, str]) -> None:
    """300 services are found, planned with old and new values, cloned, verified, and listed as CSV."""
    script = script_of("migrate 300 services to AARCH64")
    port = free_port()
    script = script.replace("simulate --sources", f"simulate --port {port} --sources").replace("8080", str(port))
    seen = run_at_a_terminal(script.replace("100/s", "1000/s"), tmp_path, child_env)
    assert "300 of 300 sources are covered" in seen
    assert "300 targets: 300 cloned, 0 left" in seen
    assert "300 in-sync" in seen
    assert [row["state"] for row in rows_of(tmp_path / "work" / "migrated.csv")] == ["cloned"] * 300


@pytest.mark.timeout(960)
def test_the_nightly(tmp_path: Path, child_env: dict[str, str]) -> None:
    """The example is planned and run without output; its report and metrics are named, and the run is listed."""
    seen = run_at_a_terminal(script_of("a nightly run from cron"), tmp_path, child_env)
    (report,) = (tmp_path / "work").glob("nightly-*.html")
    assert report.stat().st_size > 10_000
    assert (tmp_path / "work" / "nightly.prom").exists()
    assert "clone.settled" not in seen
    assert re.search(rf"{report.stem} \(rehearsal\) .* settled ", seen)


@pytest.mark.timeout(960)
def test_the_onboarding(tmp_path: Path, child_env: dict[str, str]) -> None:
    """The tenants' own columns are listed with the state and the clone of each."""
    seen = run_at_a_terminal(script_of("onboard 40 tenants"), tmp_path, child_env)
    assert "9 of 9 targets cloned" in seen
    rows = rows_of(tmp_path / "work" / "onboarded.csv")
    assert [row["tenant"] for row in rows[:5]] == ["acme", "globex", "initech", "umbrella", "hooli"]
    assert rows[4]["contact"] == "platform team, hooli@example.com"
    assert {row["state"] for row in rows} == {"cloned"}
    assert all(len(row["clone_uuid"]) == 32 for row in rows)
