"""``zclone list``: columns, rows, width, and the contents of its CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Final

import pytest

from batch.cli.app import run_command
from batch.manifest.line import seal
from batch.report.listings import COLUMNS
from batch.text import width
from tests.report.made_manifest import Maker, make_manifest
from tests.report.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST: Final = "made.manifest.jsonl"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest of 20 targets, with texts of all kinds."""
    make_manifest(tmp_path / MANIFEST, targets=20, hostile=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "table"])
def test_columns_and_limit(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--columns sets columns and their order, --limit the number of rows, in every format; others are refused."""
    assert run_command(["list", MANIFEST, "-o", form, "--columns", "state, key", "--limit", "3"]) == 0
    out = capsys.readouterr().out
    if form == "csv":
        head, *rows = csv.reader(io.StringIO(out))
        assert (head, len(rows)) == (["state", "key"], 3)
    elif form == "table":
        assert (out.split()[:2], len(out.splitlines())) == (["STATE", "KEY"], 4)
    else:
        found = json.loads(out) if form == "json" else [json.loads(line) for line in out.splitlines()]
        assert [list(row) for row in found] == [["state", "key"]] * 3


@pytest.mark.parametrize("columns", ["kay", "key,key", "", "key,"])
def test_invalid_columns_are_refused(columns: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown column, an empty one and a repeated one exit with 2 before anything is shown."""
    assert run_command(["list", MANIFEST, "--columns", columns]) == 2
    shown = capsys.readouterr()
    assert (shown.out, "--columns" in shown.err) == ("", True)


TENANTS: Final = f"""id,租户,account,note,params.requestCpu
a,Acme,{"1" * 32},=sum,4
b,Globex,{"2" * 32},,8
c,Init,{"3" * 32},"x;y",
"""
TENANT_JOB: Final = f"""version: 1
name: t
targets:
  - from: tenants.csv
    uuid: {"d" * 32}
    params: {{name: "${{租户}}"}}
    owner: "${{account}}"
    share_with: [{"5" * 32}]
"""


@pytest.fixture
def tenants(folder: Path) -> Path:
    """A run of three tenants, each with an owner; the rows of the file were reordered since."""
    (folder / "tenants.csv").write_text(TENANTS, encoding="utf-8")
    (folder / "t.yaml").write_text(TENANT_JOB, encoding="utf-8")
    assert run_command(["run", "t.yaml", "--simulate", "--rate", "500/s", "--progress", "none", "-q"]) == 0
    head, *rows = TENANTS.splitlines(keepends=True)
    (folder / "tenants.csv").write_text("".join([head, *reversed(rows)]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("named", ["t.yaml", "t.simulated.manifest.jsonl"])
@pytest.mark.usefixtures("tenants")
def test_the_operators_own_spreadsheet_is_reproduced(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--columns takes the columns of the job's rows, its parameters, owner and shares, beside the results."""
    wanted = "id,租户,note,params.requestCpu,owner,share_with,state,clone_uuid".replace("id,", "key,")
    capsys.readouterr()
    assert run_command(["list", named, "--columns", wanted, "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["key"] for row in rows] == ["a", "b", "c"]
    assert [(row["租户"], row["note"], row["params.requestCpu"]) for row in rows] == [
        ("Acme", "=sum", "4"),
        ("Globex", "", "8"),
        ("Init", "x;y", ""),
    ]
    assert [row["owner"] for row in rows] == ["1" * 32, "2" * 32, "3" * 32]
    assert {row["share_with"] for row in rows} == {"5" * 32}
    assert all(row["state"] == "cloned" and len(row["clone_uuid"]) == 32 for row in rows)
    assert run_command(["list", named, "--columns", "key,owner,share_with", "-o", "jsonl", "--state", "cloned"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first == {"key": "a", "owner": "1" * 32, "share_with": ["5" * 32]}
    assert run_command(["list", named, "--columns", "key,tenant"]) == 2
    assert "has no column 'tenant': it has owner, share_with, 租户, account, note" in capsys.readouterr().err


@pytest.mark.usefixtures("tenants")
def test_owner_and_shares_are_listed_if_the_job_has_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They follow the name in every format; without the job file they are left out, which is reported."""
    capsys.readouterr()
    assert run_command(["list", "t.yaml", "-o", "csv"]) == 0
    head = next(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert head == [*COLUMNS[:5], "owner", "share_with", *COLUMNS[5:]]
    assert run_command(["list", MANIFEST, "-o", "csv"]) == 0
    assert next(csv.reader(io.StringIO(capsys.readouterr().out))) == list(COLUMNS)
    (folder / "t.yaml").unlink()
    assert run_command(["list", "t.simulated.manifest.jsonl", "-o", "csv"]) == 0
    shown = capsys.readouterr()
    assert next(csv.reader(io.StringIO(shown.out))) == list(COLUMNS)
    assert "without the columns owner and share_with: t.yaml" in shown.err
    assert run_command(["list", "t.simulated.manifest.jsonl", "--columns", "key,owner"]) == 2


def test_the_values_of_a_matrix_are_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--columns also takes the axes of a matrix, and what its `include` adds; a column of a row hides an axis."""
    (folder / "m.yaml").write_text(
        f"""version: 1
name: m
targets:
  - uuid: {"d" * 32}
    matrix: {{tenant: [acme, globex], size: [s, l], include: [{{tenant: acme, size: s, contact: ops}}]}}
    params: {{name: "${{tenant}}-${{size}}"}}
  - from: sizes.csv
    matrix: {{size: [m]}}
""",
        encoding="utf-8",
    )
    (folder / "sizes.csv").write_text(f"uuid,id,tenant\n{'e' * 32},x,initech\n", encoding="utf-8")
    assert run_command(["run", "m.yaml", "--simulate", "--rate", "500/s", "--progress", "none", "-q"]) == 0
    assert run_command(["list", "m.yaml", "--columns", "tenant,size,contact,state", "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [tuple(row.values()) for row in rows] == [
        ("acme", "s", "ops", "cloned"),
        ("acme", "l", "", "cloned"),
        ("globex", "s", "", "cloned"),
        ("globex", "l", "", "cloned"),
        ("initech", "m", "", "cloned"),
    ]
    assert run_command(["list", "m.yaml", "--columns", "tier"]) == 2
    assert "it has owner, share_with, tenant, size, contact" in capsys.readouterr().err


@pytest.mark.parametrize("plain", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_states_have_colours_on_a_terminal(plain: dict[str, str], child_env: dict[str, str], folder: Path) -> None:
    """A state is green if it is cloned, red if it failed, yellow otherwise; none if colours are disabled."""
    coloured = {name: value for name, value in child_env.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    terminal = Terminal(["list", MANIFEST, "--limit", "15"], cwd=folder, env=coloured | plain, size=(100, 24))
    try:
        screen, code = terminal.end()
    finally:
        terminal.close()
    states = {word for line in screen.lines[1:] for word in line.split() if word in {"cloned", "failed", "planned"}}
    assert (code, states >= {"cloned", "failed"}) == (0, True), screen.text
    colours = {"cloned": "green", "failed": "red", "planned": "brown"}
    for state in states:
        row = next(row for row, line in zip(screen.cells, screen.lines, strict=True) if f" {state} " in line)
        at = "".join(cell.data or "\0" for cell in row).find(f" {state} ") + 1
        assert row[at].fg == ("default" if plain else colours[state])


@pytest.mark.parametrize("columns", [60, 100])
def test_a_table_fits_the_terminal(columns: int) -> None:
    """On a terminal a table has the main columns and fits its width; elsewhere it has all."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    command = [sys.executable, "-m", "batch", "list", MANIFEST]
    subprocess.run(command, stdout=theirs, check=True, timeout=200)
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65_536):
            text += part
    except OSError:
        pass
    os.close(ours)
    lines = re.sub(r"\x1b\[\d+m", "", text.decode()).splitlines()
    assert lines[0].split()[:2] == ["KEY", "STATE"]
    assert len(lines) == 21
    assert max(map(width, lines)) <= columns
    heads = ["KEY", "STATE", "CLONE_UUID", "NAME", "ERROR"]
    assert all(full.startswith(head.removesuffix("…")) for head, full in zip(lines[0].split(), heads, strict=True))
    failed = [line for line in lines if " failed " in line]
    assert failed
    assert all("…" in line for line in failed)


def test_only_a_report_guards_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV of `list` has each text as JSON Lines have it; a report in CSV puts a ' before what looks like a formula."""
    crc, lines = 0, []
    for batch, body in enumerate(Maker(20, slots=16, seed=1, crash=False, hostile=True).bodies()):
        sealed, crc = seal([body.replace(b'"svc-', b'"=vc-')], crc, batch=batch)
        lines.append(sealed)
    (folder / MANIFEST).write_bytes(b"".join(lines))
    assert run_command(["list", MANIFEST, "-o", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert run_command(["list", MANIFEST, "-o", "jsonl"]) == 0
    keys = [json.loads(line)["key"] for line in capsys.readouterr().out.splitlines()]
    assert [row["key"] for row in rows] == keys
    assert any(key.startswith("=") for key in keys)
    assert list(rows[0]) == list(COLUMNS)
    assert run_command(["report", MANIFEST, "--out", "r.csv"]) == 0
    assert "begin with a '" in capsys.readouterr().err
    guarded = csv.DictReader(io.StringIO((folder / "r.csv").read_text(encoding="utf-8-sig")))
    assert [row["key"] for row in guarded] == [f"'{key}" if key.startswith("=") else key for key in keys]
