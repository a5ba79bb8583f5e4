"""All outputs, the terminal, spreadsheets, files and logs, with any text of a server, a name or a manifest."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from batch import log, redaction
from batch.jobfile import load
from batch.manifest import Header, open_manifest
from batch.manifest.listing import Row
from batch.model import Record, State
from batch.plan import Planning
from batch.report.listings import csv_rows
from tests.cli.test_log import logged
from tests.manifest.manifest_world import scan
from tests.security.hostile import hostile

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import Clone
    from tests.conftest import Planted

    Run = Callable[..., subprocess.CompletedProcess[str]]

SOURCES: Final = [f"{number:012x}4aaa8{number:015x}" for number in range(1, 4)]
JOB: Final = "version: 1\nname: safe\nlimits: {rate: 100/s, attempts: 1, timeout: 1s}\ntargets:\n"
MANIFEST: Final = "job.manifest.jsonl"
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
SEQUENCES: Final = re.compile(r"\x1b\[(?:\d+(?:;\d+)*)?m|\x1b\[\d*[AK]|\x1b\[2K|\r")
"""The sequences that the terminal may get: colours and styles, up, erase the line, start of the line."""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "".join(f"  - {source}\n" for source in SOURCES), encoding="utf-8")
    return path


def on_terminal(arguments: list[str], folder: Path, env: dict[str, str]) -> str:
    """Return everything a command writes to its own terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "batch", *arguments]
    with subprocess.Popen(command, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # the other end was closed: that is how a terminal ends
            pass
    os.close(ours)
    return seen.decode()


@pytest.mark.parametrize("is_plain", [False, True])
def test_the_terminal_gets_listed_sequences_only(
    is_plain: bool,  # noqa: FBT001 - a parameter
    job: Path,
    tmp_path: Path,
    child_env: dict[str, str],
    planted: Planted,
) -> None:
    """From a server full of escapes, a terminal gets only the live view's own; under NO_COLOR no colours."""
    env = {name: value for name, value in child_env.items() if name != "NO_COLOR"} | {"TERM": "xterm-256color"}
    with hostile() as server:
        env |= {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        seen = on_terminal(
            ["run", job.name, "--progress", "live"], tmp_path, env | ({"NO_COLOR": "1"} if is_plain else {})
        )
    assert "SYS.1007" in seen
    rest = SEQUENCES.sub("", seen)
    assert [char for char in rest if ord(char) < 32 and char != "\n"] == []
    assert not re.search("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", rest)
    assert bool(re.search(r"\x1b\[[\d;]*3[1-7]m", seen)) is not is_plain


CELLS: Final = st.text(
    alphabet=st.one_of(st.sampled_from([*FORMULA, " ", '"', ",", ";", "'", "\u3000"]), st.characters())
)


@given(CELLS, CELLS, CELLS)
def test_no_cell_is_a_formula(key: str, name: str, error: str) -> None:
    """Read back by a CSV reader every cell is quoted, and none begins a formula, after spaces and in full width too."""
    row = Row(key, "source", State.FAILED, None, name, 1, "SYS.1007", error, None, None)
    text = "".join(csv_rows([row]))
    header, cells = csv.reader(io.StringIO(text), strict=True)
    assert len(cells) == len(header)
    assert text.count('"') >= 2 * (len(header) + len(cells))
    for cell in cells:
        assert not cell.startswith(FORMULA)
        assert not cell.strip().startswith(FORMULA)


@given(st.text(min_size=4, max_size=60), st.text(max_size=20))
def test_known_secrets_appear_in_no_form(secret: str, around: str) -> None:
    """A registered value is redacted everywhere, raw, hashed, base64, url- or JSON-encoded."""
    secrets = redaction.Secrets()
    secrets.add(secret)
    raw = secret.encode("utf-8", "surrogateescape") if secret.isprintable() else b""
    forms = [secret, json.dumps(secret)[1:-1]]
    if raw:
        forms += [hashlib.sha512(raw).hexdigest(), base64.b64encode(raw).decode(), quote(raw, safe="")]
    for form in forms:
        assert secrets.redact(form) == redaction.REDACTED
        # Several places at once may have to be redacted, with any text around them.
        shown = secrets.redact(f"{around}{form}|{form}{around}")
        assert redaction.REDACTED in shown
        assert form in redaction.REDACTED or form not in shown.replace(redaction.REDACTED, "").replace(around, "")


@pytest.mark.parametrize(
    "name", ["password", "Passwd", "session_id", "sessionUuid", "accessKeySecret", "token", "Authorization", "Cookie"]
)
def test_fields_named_like_secrets_are_redacted(name: str) -> None:
    """A field that is named like a secret is redacted whatever its value and the case of its name."""
    called = (name, name.upper(), f"x-{name}", f"{name}_1")
    try:
        for style in log.Format:
            (line,) = logged(style, lambda logger: logger.info("x.done", **dict.fromkeys(called, "v4lue")))
            assert b"v4lue" not in line
            assert line.count(redaction.REDACTED.encode()) == len(set(called))
    finally:
        structlog.reset_defaults()


def test_the_console_shows_the_start_of_a_job_uuid_at_most(
    zclone: Run, job: Path, tmp_path: Path, planted: Planted
) -> None:
    """A job uuid gives access to its result: 8 digits of it are shown, and none is used twice."""
    drawn: list[str] = []
    for name in ("one", "two"):
        with hostile() as server:
            env = {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session, "ZCLONE_LOG_FORMAT": "console"}
            done = zclone("run", job, "--manifest", name, env=env)
        lines = [line for line in scan(tmp_path / name) if isinstance(line, Record)]
        made = list({(line.key, line.attempt): line.job_uuid for line in lines if line.job_uuid}.values())
        shown = done.stdout + done.stderr + zclone("show", name, SOURCES[0]).stdout + zclone("list", name).stdout
        assert [uuid for uuid in made if uuid in shown] == []
        assert f"{made[0][:8]}…" in shown
        drawn += made
    assert len(set(drawn)) == len(drawn) >= 2
    assert all(re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", uuid) for uuid in drawn)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_report_is_written_synced_renamed_and_its_folder_synced(
    zclone: Run, job: Path, tmp_path: Path, child_env: dict[str, str]
) -> None:
    """In this order, in the report's own folder under a random name: write, fsync, rename, fsync of the folder."""
    zclone("run", "--simulate", job, "--manifest", MANIFEST, "--rate", "500/s")
    names = []
    for _ in range(2):
        calls = "trace=openat,write,fsync,fdatasync,rename,renameat,renameat2"
        command = ["strace", "-f", "-y", "-s", "0", "-o", "trace.txt", "-e", calls, sys.executable, "-m", "batch"]
        subprocess.run([*command, "report", MANIFEST, "--out", "r.html"], cwd=tmp_path, env=child_env, check=True)
        trace = (tmp_path / "trace.txt").read_text(encoding="utf-8")
        (made,) = re.findall(r'openat\([^"]*"([^"]*)", [^)]*O_CREAT\|O_EXCL', trace)
        names.append(made)
        here, new = re.escape(str(tmp_path)), re.escape(made)
        steps = rf"(write)\(\d+<{new}>|(f(?:data)?sync)\(\d+<{new}>|(rename)\w*\([^\n]*|(fsync)\(\d+<{here}>\)"
        order = ["".join(found) for found in re.findall(steps, trace)]
        assert list(dict.fromkeys(order[:-1])) == ["write", "fsync", "rename"], order
        assert order[-1] == "fsync"
        assert Path(made).parent == tmp_path
        assert not Path(made).exists()
    assert names[0] != names[1]


LIES: Final = (
    {"job_uuid": "../../../v1/vm-instances/x"},
    {"job_uuid": "http://192.0.2.9/evil"},
    {"resource_uuid": "../../../evil"},
    {"source_uuid": "../../../evil"},
    {"clone_uuid": "..%2f..%2fevil"},
)


def tampered_record(clone: Clone, lie: dict[str, str]) -> Record:
    """Return a record of a POST of ``clone`` that was tampered with."""
    true = Record(
        State.SENT, clone.key, time.time() - 5, 1, clone.source_uuid, clone.resource_uuid, clone.key, clone.digest
    )
    return Record(**{**true._asdict(), "deadline": time.time(), **lie})


def test_a_manifest_is_data(zclone: Run, tmp_path: Path, planted: Planted) -> None:
    """Tampered records lead no call to another path: each uuid is one quoted segment, sources are the job's."""
    job = tmp_path / "job.yaml"
    sources = [f"{number:012x}4aaa8{number:015x}" for number in range(1, len(LIES) + 1)]
    job.write_text(JOB + "".join(f"  - {source}\n" for source in sources), encoding="utf-8")
    clones = list(Planning(load(job), run=None, started_at=time.time()).plan().clones())
    with hostile() as server:
        header = Header("safe", "default", server.url, simulated=False, tool="zclone", created_at=time.time())

        async def plant() -> None:
            manifest = open_manifest(tmp_path / MANIFEST, header)
            for clone, lie in zip(clones, LIES, strict=True):
                await manifest.commit(tampered_record(clone, lie))
            await manifest.close(0)

        asyncio.run(plant())
        env = {"ZSTACK_API_URL": server.url, "ZSTACK_SESSION_ID": planted.session}
        done = zclone("run", job, env=env)
        paths = [line.split()[1] for line in server.lines]
        posted = [line.split()[1] for line in server.lines if line.startswith("POST")]
    assert any("evil" in path for path in paths), done.stderr
    segment = "[0-9a-zA-Z%-]+"
    known = rf"management-nodes/actions|accounts\?[a-zA-Z0-9=%&]+|ai/model-services/{segment}|api-jobs/{segment}"
    ours = f"/zstack/v1/({known})"
    assert [path for path in paths if not re.fullmatch(ours, path)] == []
    assert {path.rpartition("/")[2] for path in posted} <= set(sources)
    assert done.returncode in {3, 4}, done.stderr
    assert "Traceback" not in done.stderr
