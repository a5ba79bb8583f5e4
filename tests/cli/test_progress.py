"""Progress: both views tell what the manifest counts, and neither can end a run."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from rich.console import Console
from structlog.testing import capture_logs

from batch.model import Record, State
from batch.progress import Board, heartbeat, live, new_view, picture
from batch.zstack.codes import CODES
from batch.zstack.hints import apart

if TYPE_CHECKING:
    from collections.abc import Iterator


class World:
    """A run as the board sees it, with a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls = 0
        self.counts: dict[State, int] = {State.PLANNED: 100}
        self.board = Board(
            100,
            counts=lambda: self.counts,
            calls=lambda: self.calls,
            limit=20.0,
            monotonic=lambda: self.now,
            apart=apart,
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
    frame = picture(world.board.look(), width=width, height=24)
    Console(file=paper, width=width, force_terminal=True, no_color=True).print(frame)
    return paper.getvalue()


def test_speeds_and_eta_come_from_the_last_seconds() -> None:
    """The rate counts calls, the ETA settled targets, both over the last seconds only."""
    world = World()
    world.board.look()
    world.advance(100.0)
    world.board.look()
    world.advance(20.0, cloned=20, calls=300)
    seen = world.board.look()
    assert seen.calls_rate == pytest.approx(15.0)
    assert seen.eta == pytest.approx(80.0)
    assert seen.settled == 20


def test_no_eta_before_anything_settled() -> None:
    """Before the first settled target the ETA is unknown, not invented."""
    world = World()
    world.advance(5.0, calls=3)
    assert world.board.look().eta is None


def test_in_flight_is_what_was_sent_and_is_not_settled() -> None:
    """Sent and accepted clones are in flight."""
    world = World()
    world.counts = {State.SENT: 2, State.ACCEPTED: 3, State.UNCERTAIN: 1, State.CLONED: 4}
    seen = world.board.look()
    assert (seen.in_flight, seen.settled) == (5, 5)


def test_a_frame_shows_the_newest_failures_unarmed() -> None:
    """The last failures are shown with ZStack's code, their text unable to steer the terminal."""
    world = World()
    for number in range(5):
        world.board.fail(failure(f"error {number}\x1b]0;x\x07"))
    shown = drawn(world, 100)
    assert "failed SYS.1006 qwen\\x1b[2J: error 4" in shown
    assert "error 0" not in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown


def test_hints_stand_below_their_failures() -> None:
    """Where the server's words come with a hint, the hint has a line of its own; where not, none is invented."""
    world = World()
    world.board.fail(failure(f"no host ({CODES['SYS.1007'].hint})"))
    world.board.fail(failure(f"配额不足 ({CODES['ID.1003'].hint_zh})"))
    world.board.fail(failure("too many (4 of 5)"))
    lines = [line.rstrip() for line in drawn(world, 100).splitlines()[2:]]
    assert [line.partition(": ")[2] for line in lines] == [
        "no host",
        CODES["SYS.1007"].hint,
        "配额不足",
        CODES["ID.1003"].hint_zh,
        "too many (4 of 5)",
    ]


async def test_the_heartbeat_comes_soon_and_again() -> None:
    """Without a terminal a log line tells now and then how far the run is."""
    world = World()
    with capture_logs() as events:
        async with heartbeat(world.board, first=0.0, every=0.0):
            for _ in range(10):
                await asyncio.sleep(0)
    assert {event["event"] for event in events} == {"run.progressed"}
    assert len(events) > 1
    assert events[0]["total"] == 100


async def test_a_lost_terminal_ends_the_view_only() -> None:
    """When the terminal goes away the run goes on without a view."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(5, "Input/output error")

    view = new_view(Console(file=Gone(), force_terminal=True))
    reached: list[Any] = []
    async with live(World().board, view):
        await asyncio.sleep(0)
        reached.append(True)
    assert reached
