"""The live view of a run: its consoles, and ``status --watch``, which shows the run of another process."""

from __future__ import annotations

import io
import sys
import time
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from batch.app.control import query_process
from batch.app.messages import is_terminal, language
from batch.app.options import ProgressMode
from batch.manifest import is_locked, summary
from batch.model import Record, State
from batch.progress.board import CallRate, Failure, Snapshot, oldest_in_flight, time_left, wave_text
from batch.progress.views import new_view, show_until
from batch.zstack.classify import hint_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from batch.app.control import ProcessState
    from batch.manifest import Summary
    from batch.zstack.classify import Language

_STDERR: Final = 2
_MAX_FAILURES: Final = 3


class LiveConsole(Console):
    """A console that never hides the cursor, so that a killed process leaves a usable terminal."""

    def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002 - rich's own signature
        """Do nothing."""
        return False


def live_console(wanted: ProgressMode, environ: Mapping[str, str]) -> LiveConsole | None:
    """Return the console of the live view; None for other kinds of progress."""
    if sys.stderr is None or wanted in (ProgressMode.PLAIN, ProgressMode.NONE):
        return None
    if wanted is ProgressMode.AUTO and (not is_terminal(_STDERR) or environ.get("TERM") == "dumb"):
        return None
    # Unbuffered: a thread that hangs in a buffer's lock would keep the interpreter from exiting.
    stream = io.TextIOWrapper(
        io.FileIO(_STDERR, "w", closefd=False), sys.stderr.encoding, "backslashreplace", write_through=True
    )
    return LiveConsole(file=stream, force_terminal=True)


def watch_console(environ: Mapping[str, str]) -> LiveConsole | None:
    """Return the console of ``status --watch``; None if stdout shows no live view."""
    if sys.stdout is None or not sys.stdout.isatty() or environ.get("TERM") == "dumb":
        return None
    return LiveConsole(force_terminal=True)


def has_blocks(console: Console, environ: Mapping[str, str]) -> bool:
    """Return whether the terminal uses UTF-8 and shows East Asian ambiguous characters in one column."""
    locale = next(filter(None, map(environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return console.encoding.startswith("utf") and not locale.lower().startswith(("zh", "ja", "ko"))


def printer_above(console: Console) -> Callable[[bytes], None]:
    """Return a function that prints lines above the live view of ``console``."""

    def write(lines: bytes) -> None:
        for line in lines.decode("utf-8", "replace").splitlines():
            console.print(Text(line), soft_wrap=True)

    return write


def watch(manifest: Path, environ: Mapping[str, str], *, every: float) -> bool:
    """Redraw the view every ``every`` seconds while a process writes; return False if stdout is not a terminal.

    Raises UsageError or ManifestError if the manifest cannot be read.
    """
    console = watch_console(environ)
    if console is None:
        return False

    speed = CallRate()

    def take_snapshot() -> Snapshot | None:
        # Check the lock before reading: a process that ends in between has then written its ending line.
        locked = is_locked(manifest)
        found = summary(manifest)
        is_running = locked and found.ended is None
        if not is_running:
            return None
        process = query_process(manifest)
        calls_rate = speed.take(time.monotonic(), process.calls)
        return snapshot_of(found, process, calls_rate, now=time.time(), language=language(environ))

    show_until(take_snapshot, new_view(console), every=every, has_blocks=has_blocks(console, environ))
    return True


def snapshot_of(
    summary: Summary, process: ProcessState, calls_rate: float, *, now: float, language: Language
) -> Snapshot:
    """Return the snapshot of a manifest and its process; ``now``: seconds since the epoch."""
    counts, times = summary.counts, summary.settled_at
    in_flight = counts[State.SENT] + counts[State.ACCEPTED]
    left = counts[State.PLANNED] + in_flight
    seconds = max(times[-1], now) - times[0] if times else 0.0
    eta, eta_late = time_left(left, settled=len(times) - 1, seconds=seconds)
    waiting = None if counts[State.PLANNED] else oldest_in_flight(summary.open, now=now)
    total = counts.total() - counts[State.WITHDRAWN]
    wanted = 0 if summary.plan is None else summary.plan.hand_overs
    hand_over_phase = f"handing over: {summary.handed.done} of {wanted}" if wanted and not left else ""
    return Snapshot(
        total=total,
        counts=counts,
        in_flight=in_flight,
        calls_rate=calls_rate,
        limit=process.rate,
        lowered_to=process.rate_in_force if process.rate_in_force < process.rate else None,
        phase=hand_over_phase or wave_text(total - left, process.waves),
        is_stopping=process.is_stopping or (summary.controlled is not None and summary.controlled.is_draining),
        is_paused=summary.controlled is not None and summary.controlled.is_paused,
        concurrency=None if summary.controlled is None else summary.controlled.concurrency,
        elapsed=0.0 if summary.started is None else now - summary.started.at,
        eta=None if waiting else eta,
        failures=tuple(_failures(summary, language)),
        eta_late=None if waiting else eta_late,
        waiting=waiting,
    )


def _failures(summary: Summary, language: Language) -> Iterator[Failure]:
    for cluster in summary.clusters[:_MAX_FAILURES]:
        record = Record(cluster.state, cluster.key, 0.0, error_code=cluster.code, error=cluster.error)
        yield Failure(record, cluster.error, hint_of(cluster.code, cluster.error, language))
