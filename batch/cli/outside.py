"""What a run leaves for others: a report, metrics and pings. None of it can change how the run ends."""

from __future__ import annotations

import threading
import time
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from batch.cli.terminal import say
from batch.errors import UsageError, ZcloneError
from batch.manifest import summary
from batch.progress import BEAT, ticking
from batch.report.metrics import final_metrics, live_metrics
from batch.report.write import replace_file, require_ending, write_report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from batch.cli.preparation import Asked
    from batch.model import State

_PATIENCE: Final = 5.0
"""Seconds a ping may take, or the last metrics of a run."""


def check(asked: Asked) -> None:
    """Raise UsageError, before anything is sent, for files and addresses that cannot be used."""
    if asked.report is not None:
        require_ending(asked.report)
    for path in (asked.report, asked.metrics_file):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if asked.ping_url is not None and urlsplit(asked.ping_url).scheme not in {"http", "https"}:
        raise UsageError("--ping-url: must begin with http:// or https://")


def ping(url: str | None, what: str) -> None:
    """Tell a dead man's switch: POST to ``url``/start or ``url``/EXITCODE. A failure is said, without the url."""
    if url is None:
        return
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/{what}", data=b"", method="POST")  # noqa: S310 - checked
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310 - http or https, as ``check`` found # nosec B310
            pass
    except (OSError, ValueError) as error:
        say(f"the ping {what} was not delivered: {type(error).__name__}")


@asynccontextmanager
async def metrics_kept(
    file: Path | None, *, job: str, counts: Callable[[], Mapping[State, int]], every: float = BEAT
) -> AsyncIterator[None]:
    """Write the metrics of a run that is going on, at once and every ``every`` seconds; None: none.

    The event loop makes them, so that a run that hangs is seen by their age; a thread writes them, so that a disk that
    hangs holds up nothing.
    """
    if file is None:
        yield
        return
    began, writer = time.time(), _Writer(file)
    async with ticking(lambda: writer.put(*live_metrics(job, counts(), began=began, at=time.time())), 0.0, every):
        yield
    writer.finish()


class _Writer:
    """Puts texts in the place of a file, each in a thread; while one is being written the next are left out."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread: threading.Thread | None = None
        self._was_told = False

    def put(self, *texts: str) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._write, args=texts, name="metrics", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait for the last one, so that it does not come after what is written at the end."""
        if self._thread is not None:
            self._thread.join(_PATIENCE)

    def _write(self, *texts: str) -> None:
        try:
            replace_file(self._file, texts)
        except ZcloneError as error:
            if not self._was_told:
                say(f"zclone: {error}")
            self._was_told = True


def leave_files(manifest: Path, asked: Asked) -> None:
    """Write the report and the metrics that were asked for; what goes wrong is said and nothing more."""
    if not manifest.exists():
        return
    try:
        if asked.metrics_file is not None:
            replace_file(asked.metrics_file, final_metrics(summary(manifest), at=time.time()))
        if asked.report is not None:
            write_report(manifest, asked.report, at=time.time())
    except ZcloneError as error:
        say(f"zclone: {error}")
