"""The live view on a terminal and the heartbeat in the log; neither can end a run."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog
from rich.console import Group
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType

from batch.progress.board import SETTLED
from batch.progress.frame import draw_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from rich.console import Console
    from rich.text import Text

    from batch.progress.board import Board, Snapshot, Waiting

_FIRST_BEAT: Final = 2.0
BEAT: Final = 15.0
"""Seconds between two heartbeats."""
_FRAME: Final = 0.25
_TIMEOUT: Final = 0.5
"""Timeout for each of the last frames, in seconds."""


@asynccontextmanager
async def no_view() -> AsyncIterator[None]:
    """Show nothing."""
    yield


@asynccontextmanager
async def heartbeat(board: Board, *, first: float = _FIRST_BEAT, every: float = BEAT) -> AsyncIterator[None]:
    """Log ``run.progressed`` after ``first`` seconds and then every ``every`` seconds."""
    board.snapshot()
    async with ticking(lambda: _log_beat(board.snapshot()), first, every):
        yield


def _log_beat(snapshot: Snapshot) -> None:
    structlog.get_logger().info(
        "run.progressed",
        settled=snapshot.settled,
        total=snapshot.total,
        **{str(state): count for state, count in snapshot.counts.items() if count and state in SETTLED},
        in_flight=snapshot.in_flight,
        rate=round(snapshot.calls_rate, 1),
        limit=snapshot.limit,
        eta_seconds=None if snapshot.eta is None else round(snapshot.eta),
        eta_p90_seconds=None if snapshot.eta_late is None else round(snapshot.eta_late),
        **({} if snapshot.lowered_to is None else {"lowered_to": round(snapshot.lowered_to, 2)}),
        **_waiting(snapshot.waiting),
    )


def _waiting(waiting: Waiting | None) -> dict[str, object]:
    if waiting is None:
        return {}
    known = {
        "waiting_for": waiting.key,
        "waiting_seconds": round(waiting.seconds),
        "at_most_seconds": None if waiting.left is None else round(waiting.left),
    }
    return {name: value for name, value in known.items() if value is not None}


@asynccontextmanager
async def live(board: Board, view: Live, *, has_blocks: bool = False) -> AsyncIterator[None]:
    """Redraw the view four times per second and once at the end; ``has_blocks`` as for ``draw_frame``.

    A closed terminal ends the view silently; a blocked one misses frames and delays nothing.
    """
    thread = _DrawThread()
    before: list[Text] = []

    def draw() -> None:
        size = view.console.size
        # Leave the last line to the cursor after the view.
        frame = draw_frame(board.snapshot(), width=size.width, height=max(1, size.height - 1), has_blocks=has_blocks)

        def show() -> None:
            erase_folds(view.console, before, width=size.width)
            before[:] = frame
            view.update(Group(*frame), refresh=True)

        thread.use(show)

    thread.use(view.start)
    try:
        async with ticking(draw, 0.0, _FRAME):
            yield
    finally:
        thread.wait()
        draw()
        thread.wait()
        thread.use(view.stop)
        thread.wait()


def show_until(take_snapshot: Callable[[], Snapshot | None], view: Live, *, every: float, has_blocks: bool) -> None:
    """Draw the result of ``take_snapshot`` every ``every`` seconds until it is None or the terminal is closed."""
    before: list[Text] = []
    with suppress(OSError), view:
        while (seen := take_snapshot()) is not None:
            size = view.console.size
            erase_folds(view.console, before, width=size.width)
            before = draw_frame(seen, width=size.width, height=max(1, size.height - 1), has_blocks=has_blocks)
            view.update(Group(*before), refresh=True)
            time.sleep(every)


def erase_folds(console: Console, lines: Iterable[Text], *, width: int) -> None:
    """Erase the extra rows of ``lines`` that a narrower terminal wrapped, as rich counts each line as one row."""
    folds = sum((line.cell_len - 1) // max(1, width) for line in lines if line.cell_len)
    if folds:
        console.control(Control(*[(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * folds))


class _DrawThread:
    """Draws in a thread, one action at a time; actions that would have to wait are dropped."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def use(self, action: Callable[[], None]) -> None:
        """Start ``action``, unless the previous one is still waiting for the terminal."""

        def quietly() -> None:
            with suppress(OSError):
                action()

        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=quietly, name="view", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Wait for the last action, with a timeout."""
        if self._thread is not None:
            self._thread.join(_TIMEOUT)


@asynccontextmanager
async def ticking(action: Callable[[], None], first: float, every: float) -> AsyncIterator[None]:
    """Run ``action`` after ``first`` seconds and then every ``every`` seconds; an OSError ends only this loop."""

    async def tick() -> None:
        await asyncio.sleep(first)
        while True:
            action()
            await asyncio.sleep(every)

    task = asyncio.create_task(tick(), name="progress")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, OSError):
            await task


def new_view(console: Console) -> Live:
    """Return the view for ``live``, which redraws only on request, in the run's own loop."""
    return Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
