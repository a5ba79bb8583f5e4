"""The live view as people see it: a real run in a real terminal of a fixed size, read cell by cell and photographed."""

from __future__ import annotations

import fcntl
import io
import json
import re
import signal
import struct
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import pyte
import pytest
from rich.console import Console

from batch.model import Record, State
from batch.progress.board import Board
from batch.progress.views import live, new_view
from batch.zstack.codes import CODES
from tests.report.browser import CHROMIUM, browser
from tests.report.made_manifest import make_manifest
from tests.report.pictures import FAILING, TARGETS, environment, is_telling, live_terminal, source
from tests.report.terminal import Screen, Terminal, photograph

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "migrate.simulated.manifest.jsonl"
QUOTED = "“配额”不足…… " * 30
"""Text with characters whose width, one or two columns, depends on the terminal."""


def states(manifest: Path) -> Counter[str]:
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return Counter({line["key"]: line["state"] for line in lines if "state" in line}.values())


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])


def seconds(pattern: str, text: str) -> int:
    found = re.search(pattern + r" (\d+):(\d\d)", text)
    assert found is not None, text
    return int(found[1]) * 60 + int(found[2])


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Screen]:
    """Return the folder and the screen of a run that was killed halfway."""
    folder = tmp_path_factory.mktemp("halfway")
    # So slow that a busy machine does not miss the middle.
    with closing(live_terminal(folder, environment(), "--rate", "20/s")) as terminal:
        return folder, terminal.until(is_telling)


def test_the_screen_shows_the_manifests_counts(halfway: tuple[Path, Screen]) -> None:
    """Counts by state add up and are never ahead of the manifest; rate and clones in flight stay below their limits."""
    folder, screen = halfway
    text = screen.text
    cloned, failed = (int(number(rf"(\d+) {state}", text)) for state in ("cloned", "failed"))
    assert cloned + failed == number(rf"(\d+)/{TARGETS} ", text)
    assert failed == len(FAILING)
    assert cloned <= states(folder / MANIFEST)["cloned"]
    assert 1 <= number(r"(\d+) in flight", text) <= 8
    assert 1 <= number(r"([\d.]+) calls/s of 20", text) <= 22
    assert seconds("ETA p50", text) <= seconds("p90", text) <= 60
    assert (screen.colour_of(f"{cloned} cloned"), screen.colour_of("failed SYS")) == ("green", "red")
    assert screen.cursor_shown


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
async def test_the_screen_is_photographed(tmp_path: Path, halfway: tuple[Path, Screen]) -> None:
    """The last failures are on the screen with ZStack's code and the hint, and the browser shows it unchanged."""
    _, screen = halfway
    for code in FAILING.values():
        (at,) = (row for row, line in enumerate(screen.lines) if line.startswith(f"failed {code} "))
        assert screen.lines[at + 1] == f"  hint: {CODES[code].hint}"
    assert "向量检索-014" in "".join(screen.lines)
    async with browser(tmp_path) as page:
        await photograph(screen, page, tmp_path / "live.png", folder=tmp_path)
        shown = str(await page.run("document.querySelector('pre').innerText"))
        assert [line.rstrip() for line in shown.split("\n")] == screen.text.split("\n")
        assert page.complaints == []
    width, height = struct.unpack(">II", (tmp_path / "live.png").read_bytes()[16:24])
    assert (width, height) == (96 * 9 + 50, 40 + 20 * len(screen.text.split("\n")))


def test_a_message_stands_above_the_view(tmp_path: Path) -> None:
    """The message about a signal is a line above the view, of which no line is left behind."""
    # So slow that it is not over before the signal arrives.
    with closing(live_terminal(tmp_path, environment(), "--rate", "8/s")) as terminal:
        terminal.until(lambda seen: re.search("[1-9] cloned", seen.text) is not None)
        terminal.process.send_signal(signal.SIGINT)
        screen = terminal.until(lambda seen: "stopping: " in seen.text)
    bars = [row for row, line in enumerate(screen.lines) if f"/{TARGETS} " in line]
    messages = [row for row, line in enumerate(screen.lines) if "SIGINT" in line or "topping:" in line]
    assert len(bars) == 1, screen.text
    assert messages[0] < bars[0] < messages[-1], screen.text


def test_status_watch_shows_the_same_view(tmp_path: Path) -> None:
    """``status --watch`` shows the view as long as a process has the manifest, then the state as ``status`` does."""
    manifest = make_manifest(tmp_path / "made.manifest.jsonl", 40, hostile=False, crash=False)
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:90]))
    arguments = ["status", "--watch", manifest.name]
    with manifest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with closing(Terminal(arguments, cwd=tmp_path, env=environment(), size=(80, 24))) as terminal:
            screen = terminal.until(lambda seen: " in flight" in seen.text)
            fcntl.flock(held, fcntl.LOCK_UN)
            last, code = terminal.end()
    settled = int(number(r"(\d+)/40 ", screen.text))
    assert int(number(r"(\d+) cloned", screen.text)) <= settled < 40
    assert "calls/s" not in screen.text
    assert "killed: no process holds the manifest" in last.text
    assert code == 4


def test_a_stop_is_shown_to_watchers(tmp_path: Path) -> None:
    """During a signal's grace ``status``, its ``--watch`` and ``control`` say stopping, without a time left."""
    (tmp_path / "slow.yaml").write_text("version: 1\nnode: {latency: [25, 25]}\n", encoding="utf-8")
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: j\ntargets: [{source(1)}, {source(2)}]\n", encoding="utf-8")
    arguments = ["run", "--simulate=slow.yaml", "job.yaml", "--log-file", "run.log"]

    def output_of(*words: str) -> str:
        with closing(Terminal([*words], cwd=tmp_path, env=environment(), size=(80, 24))) as other:
            return other.until(lambda seen: "topping" in seen.text).text

    with closing(Terminal(arguments, cwd=tmp_path, env=environment(), size=(80, 24))) as terminal:
        terminal.until(lambda seen: "1 in flight" in seen.text)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(lambda seen: "stopping: 1 in flight" in seen.text)
        assert "process   stopping, running since" in output_of("status", "job.yaml")
        assert "stopping: 1 in flight" in output_of("status", "--watch", "job.yaml")
        assert "in flight at most, stopping" in output_of("control", "job.yaml")


async def draw(columns: int, rows: int) -> list[str]:
    """Return what a terminal shows after frames whose lines became more, longer and fewer."""
    paper = io.StringIO(newline="")
    counts = {State.PLANNED: 290, State.ACCEPTED: 10}
    clock = iter(range(100, 200))
    board = Board(300, counts=lambda: counts, calls=lambda: 7, limit=lambda: 20.0, monotonic=lambda: next(clock))
    view = new_view(Console(file=paper, width=columns, height=rows, force_terminal=True, color_system="standard"))
    async with live(board, view):
        for at in range(4):
            board.fail(Record(State.FAILED, f"向量检索-{at}-" * 9, 1.0, error_code="SYS.1006", error=QUOTED[at:]))
            counts.update({State.CLONED: 20 * at, State.PLANNED: 290 - 20 * at})
            view.update(view.get_renderable(), refresh=True)
    screen = pyte.Screen(columns, rows)
    pyte.Stream(screen).feed(paper.getvalue().replace("\n", "\r\n"))
    return [line for line in screen.display if line.strip()]


@pytest.mark.parametrize(("columns", "rows"), [(200, 50), (80, 24), (60, 8), (40, 12), (30, 5), (20, 3), (8, 2)])
async def test_a_frame_keeps_to_its_terminal(columns: int, rows: int) -> None:
    """However small the terminal and wide the characters, the frames replace each other and none wraps or scrolls."""
    lines = await draw(columns, rows)
    text = "\n".join(lines)
    assert len(re.findall(r"^[=-]{5,}", text, re.MULTILINE)) == 1, text
    assert text.count("calls/s") <= 1
    assert (text.count("向") > 0) is (rows > 5)
    for line in lines:
        assert sum(2 if east_asian_width(char) in "WFA" else 1 for char in line.rstrip()) <= columns, line


def test_a_run_fits_a_narrow_terminal(tmp_path: Path) -> None:
    """At 40 columns a real run is shown once, without colour if NO_COLOR is set."""
    with closing(live_terminal(tmp_path, environment() | {"NO_COLOR": "1"}, size=(40, 10))) as terminal:
        screen = terminal.until(lambda screen: re.search(r"[1-9]\d/60 ", screen.text) is not None)
    assert len(re.findall(r"\d+/60 ", screen.text)) == 1, screen.text
    assert {cell.fg for row in screen.cells for cell in row} == {"default"}
