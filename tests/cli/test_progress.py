"""Progress: both views show the manifest's counts, and neither can end a run."""

from __future__ import annotations

import asyncio
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from rich.console import Console, Group
from rich.text import Text
from structlog.testing import capture_logs

from batch.app.live_view import has_blocks
from batch.cli.app import run_command
from batch.model import Intent, Record, State
from batch.progress.board import Board, oldest_in_flight
from batch.progress.views import draw_frame, erase_folds, heartbeat, live, new_view
from batch.zstack.codes import CODES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.zstack.classify import Language


class World:
    """A run as the board sees it, with a clock that a test moves."""

    def __init__(self, language: Language = "en") -> None:
        self.now = 100.0
        self.calls = 0
        self.counts: dict[State, int] = {State.PLANNED: 100}
        self.board = Board(
            100,
            counts=lambda: self.counts,
            calls=lambda: self.calls,
            limit=lambda: 20.0,
            monotonic=lambda: self.now,
            language=language,
        )

    def advance(self, seconds: float, *, cloned: int = 0, calls: int = 0) -> None:
        self.now += seconds
        self.calls += calls
        self.counts[State.CLONED] = self.counts.get(State.CLONED, 0) + cloned
        self.counts[State.PLANNED] -= cloned


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def failure(text: str) -> Record:
    return Record(State.FAILED, "qwen\x1b[2J", 1.0, error_code="SYS.1006", error=text)


def drawn(world: World, width: int) -> str:
    paper = io.StringIO()
    frame = Group(*draw_frame(world.board.snapshot(), width=width, height=24))
    Console(file=paper, width=width, force_terminal=True, no_color=True).print(frame)
    return paper.getvalue()


def test_speeds_and_eta_come_from_the_last_seconds() -> None:
    """The rate counts calls, the ETA settled targets, both over the last seconds only."""
    world = World()
    world.board.snapshot()
    world.advance(100.0)
    world.board.snapshot()
    world.advance(20.0, cloned=20, calls=300)
    seen = world.board.snapshot()
    assert seen.calls_rate == pytest.approx(15.0)
    assert seen.eta == pytest.approx(80.0)
    assert seen.settled_count == 20


def test_no_eta_before_anything_settled() -> None:
    """Before the first settled target the ETA is unknown, not invented."""
    world = World()
    world.advance(5.0, calls=3)
    assert world.board.snapshot().eta is None


def test_sent_and_unsettled_clones_are_in_flight() -> None:
    """Sent and accepted clones are in flight."""
    world = World()
    world.counts = {State.SENT: 2, State.ACCEPTED: 3, State.UNCERTAIN: 1, State.CLONED: 4}
    seen = world.board.snapshot()
    assert (seen.in_flight, seen.settled_count) == (5, 5)


def test_a_frame_shows_the_newest_failures_escaped() -> None:
    """The last failures are shown with ZStack's code and their text escaped."""
    world = World()
    for number in range(5):
        world.board.fail(failure(f"error {number}\x1b]0;x\x07"))
    shown = drawn(world, 100)
    assert "failed SYS.1006 qwen\\x1b[2J: error 4" in shown
    assert "error 0" not in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown


def test_hints_follow_their_failures() -> None:
    """Each error of the server has its hint on a separate line, in the operator's language; others have none."""
    hints: dict[Language, str] = {"en": CODES["SYS.1007"].hint, "zh": CODES["SYS.1007"].hint_zh}
    for language, hint in hints.items():
        world = World(language)
        world.board.fail(failure("没有主机 (1 of 2)")._replace(error_code="SYS.1007"))
        world.board.fail(failure("too many (4 of 5)")._replace(error_code=None))
        lines = [line.rstrip() for line in drawn(world, 100).splitlines()[2:]]
        assert [line.partition(": ")[2] for line in lines] == ["没有主机 (1 of 2)", hint, "too many (4 of 5)"]


async def test_a_lowered_rate_is_in_view_and_heartbeat() -> None:
    """While the server's own limiter refuses more: the rate in force beside the set one; later only the set one."""
    world, rate = World(), [8.5]
    world.board = Board(
        100,
        counts=lambda: world.counts,
        calls=lambda: world.calls,
        limit=lambda: 20.0,
        monotonic=lambda: world.now,
        in_force=lambda: rate[0],
    )
    assert "0.0 calls/s of 8.5, lowered from 20" in drawn(world, 100)
    with capture_logs() as events:
        async with heartbeat(world.board, first=0.0, every=0.0):
            for now in (8.5, 20.0):
                rate[0] = now
                await asyncio.sleep(0)
                await asyncio.sleep(0)
    assert (events[0]["lowered_to"], events[0]["limit"]) == (8.5, 20.0)
    assert "lowered_to" not in events[-1]
    assert "0.0 calls/s of 20" in drawn(world, 100)
    assert "lowered" not in drawn(world, 100)


def test_the_log_says_when_the_servers_limiter_lowered_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The warning has the new rate and the set one."""
    monkeypatch.chdir(tmp_path)
    sources = ", ".join(f"{number:012x}4aaa8{number:015x}" for number in range(1, 31))
    Path("job.yaml").write_text(f"version: 1\nname: j\ntargets: [{sources}]\n", encoding="utf-8")
    limiter = "{requests_per_minute: 15, limit_window: 2, latency: [0.05, 0.1]}"
    Path("node.yaml").write_text(f"version: 1\nnode: {limiter}\n", encoding="utf-8")
    assert run_command(["run", "job.yaml", "--simulate=node.yaml", "--rate", "40/s", "--log-format", "json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    lowered = [event for event in events if event["event"] == "rate.lowered"]
    assert lowered
    assert all((event["level"], event["limit"]) == ("warning", 40.0) and event["rate"] < 40.0 for event in lowered)


async def test_heartbeats_begin_early_and_repeat() -> None:
    """Without a terminal a log line regularly reports the run's progress."""
    world = World()
    with capture_logs() as events:
        async with heartbeat(world.board, first=0.0, every=0.0):
            for _ in range(10):
                await asyncio.sleep(0)
    assert {event["event"] for event in events} == {"run.progressed"}
    assert len(events) > 1
    assert events[0]["total"] == 100


async def test_a_lost_terminal_ends_the_view_only() -> None:
    """When the terminal closes the run continues without a view."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    view = new_view(Console(file=Gone(), force_terminal=True))
    reached: list[Any] = []
    async with live(World().board, view):
        await asyncio.sleep(0)
        reached.append(True)
    assert reached


def test_once_the_rest_has_settled_the_view_shows_what_it_waits_for() -> None:
    """As no speed predicts the last clone's end, its key, since when, and until when replace the ETA."""
    world = World()
    intents = [
        Intent(key, State.ACCEPTED, "5" * 32, "6" * 32, "7" * 32, 1, "8" * 32, at, at, at + 1860)
        for key, at in (("late", 1100.0), ("first\x1b", 1000.0))
    ]
    world.board = Board(
        100,
        counts=lambda: world.counts,
        calls=lambda: world.calls,
        limit=lambda: 20.0,
        monotonic=lambda: world.now,
        waiting=lambda: oldest_in_flight(intents, now=1238.0),
    )
    world.board.snapshot()
    world.advance(10.0, cloned=97)
    world.counts |= {State.PLANNED: 1, State.ACCEPTED: 2}
    assert world.board.snapshot().waiting is None
    world.advance(10.0, cloned=1)
    seen = world.board.snapshot()
    assert (seen.eta, seen.eta_late) == (None, None)
    assert seen.waiting is not None
    assert (seen.waiting.key, seen.waiting.since, seen.waiting.until) == ("first\x1b", 1000.0, 2860.0)
    text = drawn(world, 100)
    assert "waiting for 3:58, at most 27:02 more: first\\x1b" in text
    assert "ETA" not in text
    assert oldest_in_flight([], now=0.0) is None
    undated = oldest_in_flight([replace(intents[0], deadline=None)], now=1101.0)
    assert undated is not None
    assert (undated.seconds, undated.left) == (1.0, None)


def test_the_bar_fills_the_width() -> None:
    """The first line is as wide as the terminal: of blocks where it shows them in one column, of ASCII elsewhere."""
    world = World()
    world.board.snapshot()
    world.advance(10.0, cloned=50, calls=60)
    for width in (60, 80, 120):
        for are_blocks, signs in ((True, "█░"), (False, "=-")):
            line = draw_frame(world.board.snapshot(), width=width, height=24, has_blocks=are_blocks)[0]
            assert line.cell_len == width
            bar = line.plain.split("  ")[0]
            assert (bar.count(signs[0]), set(bar)) == (len(bar) // 2, set(signs))


def test_the_view_names_wave_hand_overs_and_the_stop() -> None:
    """The view shows the current wave, then the progress of hand-overs, and that nothing new is sent after a stop."""
    world, stops = World(), [False]
    world.board = Board(
        100,
        counts=lambda: world.counts,
        calls=lambda: world.calls,
        limit=lambda: 20.0,
        monotonic=lambda: world.now,
        is_stopping=lambda: stops[0],
        waves=(10, 40, 50),
        hand_overs=lambda: "handing over: 3 of 7",
    )
    for cloned, phase in ((0, "wave 1 of 3"), (10, "wave 2 of 3"), (40, "wave 3 of 3"), (49, "wave 3 of 3")):
        world.advance(1.0, cloned=cloned)
        assert phase in drawn(world, 100)
    assert "ETA" in drawn(world, 100)
    world.counts[State.SENT] = 1
    stops[0] = True
    text = drawn(world, 100)
    assert "stopping: 1 in flight" in text
    assert "ETA" not in text
    world.counts[State.SENT] = 0
    world.advance(1.0, cloned=1)
    text = drawn(world, 100)
    assert "handing over: 3 of 7" in text
    assert "wave" not in text


def test_a_view_that_became_narrower_leaves_no_line_behind() -> None:
    """Rows that the terminal made of a line that became too wide are erased before the next frame."""
    paper = io.StringIO()
    console = Console(file=paper, width=30, force_terminal=True)
    lines = [Text("a" * 80), Text(""), Text("b" * 30)]
    erase_folds(console, lines, width=30)
    assert paper.getvalue() == "\x1b[2K\x1b[1A" * 2
    erase_folds(console, lines, width=80)
    assert paper.getvalue().count("\x1b[2K") == 2, "nothing is folded there"


@pytest.mark.parametrize(
    ("encoding", "locale", "has"),
    [("utf-8", "en_US.UTF-8", True), ("utf-8", "", True), ("utf-8", "zh_CN.UTF-8", False), ("ascii", "C", False)],
)
def test_blocks_are_drawn_where_they_are_one_column_wide(encoding: str, locale: str, *, has: bool) -> None:
    """Blocks need UTF-8 and a locale that is not East Asian, whose terminals may show them in two columns."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    assert has_blocks(Console(file=stream), {"LANG": locale}) is has
