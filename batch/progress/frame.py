"""One frame of the live view, fitted to its terminal.

The bar uses block characters if the terminal shows UTF-8 and East Asian ambiguous characters in one column, else ASCII;
in the latter case ambiguous characters in foreign text count as two columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from batch.model import State
from batch.progress.board import SETTLED
from batch.text import columns, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.progress.board import Failure, Snapshot, Waiting

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


def draw_frame(snapshot: Snapshot, *, width: int, height: int, has_blocks: bool = False) -> list[Text]:
    """Return the lines of one frame, none wider than ``width`` columns, at most ``height`` of them.

    ``has_blocks``: whether to draw block characters; otherwise everything but foreign text is ASCII.
    """
    lines = [
        *_time_lines(snapshot, width, has_blocks=has_blocks),
        *_wrap(_figures(snapshot), width),
        *_waiting(snapshot.waiting),
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
    done = 1.0 if snapshot.total == 0 else min(1.0, snapshot.settled / snapshot.total)
    filled = int(room * done)
    full, empty = signs
    return Text.assemble((full * filled, "green"), (empty * (room - filled), "bright_black"))


def _times(snapshot: Snapshot) -> Iterator[str]:
    yield f"{snapshot.settled}/{snapshot.total}"
    yield _clock(snapshot.elapsed)
    if (
        snapshot.eta is not None
        and snapshot.settled < snapshot.total
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


def _waiting(waiting: Waiting | None) -> Iterator[Text]:
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
