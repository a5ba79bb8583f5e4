"""The live view on a terminal, frame by frame, and the heartbeat in the log; neither can end a run.

The bar uses block characters if the terminal shows UTF-8 and East Asian ambiguous characters in one column, else ASCII;
in the latter case ambiguous characters in foreign text count as two columns.
"""

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
from rich.text import Text

from batch.model import State
from batch.progress.board import SETTLED
from batch.text import columns, escape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from rich.console import Console

    from batch.progress.board import Board, Failure, Snapshot, Waiting

_FIRST_BEAT: Final = 2.0
BEAT: Final = 15.0
"""Seconds between two heartbeats."""
_FRAME: Final = 0.25
_DRAW_TIMEOUT: Final = 0.5
"""Timeout for each of the last frames, in seconds."""
_SHORTEST_BAR: Final = 5
_GAP: Final = "  "
_CUT: Final = ".."
_BLOCKS: Final = ("█", "░")
_ASCII: Final = ("=", "-")
_COLOURS: Final = {
    State.CLONED: "green",
    State.FAILED: "red",
    State.CONFLICT: "red",
    State.UNCERTAIN: "yellow",
    State.UNDONE: "dim",
}


@asynccontextmanager
async def no_view() -> AsyncIterator[None]:
    """Show nothing."""
    yield


@asynccontextmanager
async def heartbeat(board: Board, *, first: float = _FIRST_BEAT, every: float = BEAT) -> AsyncIterator[None]:
    """Log ``run.progressed`` after ``first`` seconds and then every ``every`` seconds."""
    board.snapshot()
    async with run_periodically(lambda: _log_beat(board.snapshot()), first, every):
        yield


def _log_beat(snapshot: Snapshot) -> None:
    structlog.get_logger().info(
        "run.progressed",
        settled=snapshot.settled_count,
        total=snapshot.total,
        **{str(state): count for state, count in snapshot.counts.items() if count and state in SETTLED},
        in_flight=snapshot.in_flight,
        rate=round(snapshot.calls_rate, 1),
        limit=snapshot.limit,
        eta_seconds=None if snapshot.eta is None else round(snapshot.eta),
        eta_p90_seconds=None if snapshot.eta_late is None else round(snapshot.eta_late),
        **({} if snapshot.lowered_to is None else {"lowered_to": round(snapshot.lowered_to, 2)}),
        **_waiting_fields(snapshot.waiting),
    )


def _waiting_fields(waiting: Waiting | None) -> dict[str, object]:
    if waiting is None:
        return {}
    fields: dict[str, object] = {"waiting_for": waiting.key, "waiting_seconds": round(waiting.seconds)}
    return fields if waiting.left is None else {**fields, "at_most_seconds": round(waiting.left)}


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
        async with run_periodically(draw, 0.0, _FRAME):
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
            self._thread.join(_DRAW_TIMEOUT)


@asynccontextmanager
async def run_periodically(action: Callable[[], None], first: float, every: float) -> AsyncIterator[None]:
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


def draw_frame(snapshot: Snapshot, *, width: int, height: int, has_blocks: bool = False) -> list[Text]:
    """Return the lines of one frame, none wider than ``width`` columns, at most ``height`` of them.

    ``has_blocks``: whether to draw block characters; otherwise everything but foreign text is ASCII.
    """
    lines = [
        *_time_lines(snapshot, width, has_blocks=has_blocks),
        *_wrap(_figures(snapshot), width),
        *_waiting_lines(snapshot.waiting),
    ]
    shown = [_failure_lines(failure) for failure in snapshot.failures]
    while len(shown) > 1 and len(lines) + sum(map(len, shown)) > height:
        shown.pop(0)
    lines += [line for failure in shown for line in failure]
    return [_fit(line, width, ambiguous=1 if has_blocks else 2) for line in lines[:height]]


def _time_lines(snapshot: Snapshot, width: int, *, has_blocks: bool) -> Iterator[Text]:
    parts = list(map(Text, _times(snapshot)))
    room = width - sum(part.cell_len + len(_GAP) for part in parts)
    signs = _BLOCKS if has_blocks else _ASCII
    if room >= _SHORTEST_BAR:
        yield Text(_GAP).join([_bar(snapshot, room, signs), *parts])
    else:
        yield from _wrap([_bar(snapshot, _SHORTEST_BAR, signs), *parts], width)


def _bar(snapshot: Snapshot, room: int, signs: tuple[str, str]) -> Text:
    done = 1.0 if snapshot.total == 0 else min(1.0, snapshot.settled_count / snapshot.total)
    filled = int(room * done)
    full, empty = signs
    return Text.assemble((full * filled, "green"), (empty * (room - filled), "bright_black"))


def _times(snapshot: Snapshot) -> Iterator[str]:
    yield f"{snapshot.settled_count}/{snapshot.total}"
    yield _clock(snapshot.elapsed)
    if (
        snapshot.eta is not None
        and snapshot.settled_count < snapshot.total
        and not (snapshot.is_stopping or snapshot.is_paused)
    ):
        late = "" if snapshot.eta_late is None else f" p90 {_clock(snapshot.eta_late)}"
        yield f"ETA p50 {_clock(snapshot.eta)}{late}"


def _figures(snapshot: Snapshot) -> Iterator[Text]:
    for state in SETTLED:
        count = snapshot.counts.get(state, 0)
        if count or state in (State.CLONED, State.FAILED):
            yield Text(f"{count} {state}", style=_COLOURS[state] if count else "bright_black")
    limit = "" if snapshot.concurrency is None else f" of {snapshot.concurrency}"
    in_flight = f"{snapshot.in_flight}{limit} in flight"
    phase = "stopping" if snapshot.is_stopping else "paused" if snapshot.is_paused else ""
    yield Text(f"{phase}: {in_flight}", style="yellow") if phase else Text(in_flight)
    if snapshot.phase:
        yield Text(snapshot.phase)
    if snapshot.limit and snapshot.lowered_to is not None:
        yield Text(
            f"{snapshot.calls_rate:.1f} calls/s of {snapshot.lowered_to:.1f}, lowered from {snapshot.limit:g}",
            style="yellow",
        )
    elif snapshot.limit:
        yield Text(f"{snapshot.calls_rate:.1f} calls/s of {snapshot.limit:g}")


def _waiting_lines(waiting: Waiting | None) -> Iterator[Text]:
    if waiting is not None:
        until = "" if waiting.left is None else f", at most {_clock(waiting.left)} more"
        yield Text(f"waiting for {_clock(waiting.seconds)}{until}: {escape(waiting.key)}")


def _failure_lines(failure: Failure) -> list[Text]:
    """Return the failure and its hint; the code precedes the key, so that no long key hides it."""
    record, style = failure.record, _COLOURS.get(failure.record.state, "")
    kind = " ".join(filter(None, (str(record.state), record.error_code)))
    lines = [Text(f"{escape(kind)} {escape(record.key)}: {escape(failure.text)}", style=style)]
    return [*lines, Text(f"  hint: {escape(failure.hint)}")] if failure.hint else lines


def _wrap(parts: Iterable[Text], width: int) -> Iterator[Text]:
    """Wrap ``parts`` into lines without splitting a part."""
    line = Text()
    for part in parts:
        if line and line.cell_len + len(_GAP) + part.cell_len > width:
            yield line
            line = Text()
        line = Text.assemble(line, _GAP, part) if line else part
    yield line


def _fit(line: Text, width: int, *, ambiguous: int) -> Text:
    """Cut a line to ``width`` columns."""
    line.no_wrap = True
    wide = columns(line.plain, ambiguous=ambiguous)
    if sum(wide) <= width:
        return line
    kept, used = 0, min(len(_CUT), width)
    while kept < len(wide) and used + wide[kept] <= width:
        used += wide[kept]
        kept += 1
    line.right_crop(len(wide) - kept)
    return line.append(_CUT[:width])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
