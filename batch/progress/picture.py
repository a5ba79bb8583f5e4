"""One frame of the live view, fitted to its terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from unicodedata import combining, east_asian_width

from rich.console import Group
from rich.text import Text

from batch.log import sanitised
from batch.model import State
from batch.progress.board import SETTLED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from batch.progress.board import Failure, Snapshot

_BAR: Final = 40
_SHORTEST_BAR: Final = 5
_GAP: Final = "  "
_CUT: Final = ".."
_COLOURS: Final = {
    State.CLONED: "green",
    State.FAILED: "red",
    State.CONFLICT: "red",
    State.UNCERTAIN: "yellow",
    State.UNDONE: "dim",
}


def picture(seen: Snapshot, *, width: int, height: int) -> RenderableType:
    """Draw one frame no wider than ``width`` columns and no higher than ``height`` lines.

    Plain ASCII but for what others wrote: nothing of it is as wide as two columns on an East-Asian terminal.
    """
    lines = [*_time_lines(seen, width), *_wrapped(_figures(seen), width)]
    told = [_failure_lines(failure) for failure in seen.failures]
    while len(told) > 1 and len(lines) + sum(map(len, told)) > height:
        told.pop(0)
    lines += [line for failure in told for line in failure]
    return Group(*(_fitted(line, width) for line in lines[:height]))


def _time_lines(seen: Snapshot, width: int) -> Iterator[Text]:
    parts = list(map(Text, _times(seen)))
    room = min(_BAR, width - sum(part.cell_len + len(_GAP) for part in parts))
    if room >= _SHORTEST_BAR:
        yield Text(_GAP).join([_bar(seen, room), *parts])
    else:
        yield from _wrapped([_bar(seen, _SHORTEST_BAR), *parts], width)


def _bar(seen: Snapshot, room: int) -> Text:
    done = 1.0 if seen.total == 0 else min(1.0, seen.settled / seen.total)
    filled = int(room * done)
    return Text.assemble(("=" * filled, "green"), ("-" * (room - filled), "bright_black"))


def _times(seen: Snapshot) -> Iterator[str]:
    yield f"{seen.settled}/{seen.total}"
    yield _clock(seen.elapsed)
    if seen.eta is not None and seen.settled < seen.total:
        late = "" if seen.eta_late is None else f" p90 {_clock(seen.eta_late)}"
        yield f"ETA p50 {_clock(seen.eta)}{late}"


def _figures(seen: Snapshot) -> Iterator[Text]:
    for state in SETTLED:
        count = seen.counts.get(state, 0)
        if count or state in (State.CLONED, State.FAILED):
            yield Text(f"{count} {state}", style=_COLOURS[state] if count else "bright_black")
    yield Text(f"{seen.in_flight} in flight")
    yield Text(f"{seen.calls_rate:.1f} calls/s of {seen.limit:g}")


def _failure_lines(failure: Failure) -> list[Text]:
    """Return the failure, its code before its key so that no key is too long for it, and the hint."""
    record, style = failure.record, _COLOURS.get(failure.record.state, "")
    kind = " ".join(filter(None, (str(record.state), record.error_code)))
    lines = [Text(f"{sanitised(kind)} {sanitised(record.key)}: {sanitised(failure.text)}", style=style)]
    return [*lines, Text(f"  hint: {sanitised(failure.hint)}")] if failure.hint else lines


def _wrapped(parts: Iterable[Text], width: int) -> Iterator[Text]:
    """Yield lines of whole parts."""
    line = Text()
    for part in parts:
        if line and line.cell_len + len(_GAP) + part.cell_len > width:
            yield line
            line = Text()
        line = Text.assemble(line, _GAP, part) if line else part
    yield line


def _fitted(line: Text, width: int) -> Text:
    """Cut a line that could be too wide."""
    line.no_wrap = True
    wide = _cells(line.plain)
    if sum(wide) <= width:
        return line
    kept, used = 0, min(len(_CUT), width)
    while kept < len(wide) and used + wide[kept] <= width:
        used += wide[kept]
        kept += 1
    line.right_crop(len(wide) - kept)
    return line.append(_CUT[:width])


def _cells(text: str) -> list[int]:
    """Return the columns of each character; ambiguous ones are wide on some East-Asian terminals, so on all."""
    return [0 if combining(char) else 2 if east_asian_width(char) in "WFA" else 1 for char in text]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
