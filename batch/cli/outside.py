"""What a run leaves for others: a report, metrics and pings. None of it can change how the run ends."""

from __future__ import annotations

import time
import urllib.request
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from batch.cli.terminal import say
from batch.errors import UsageError, ZcloneError
from batch.manifest import summary
from batch.report.metrics import metrics_text
from batch.report.write import replace_file, require_ending, write_report

if TYPE_CHECKING:
    from pathlib import Path

    from batch.cli.preparation import Asked

_PATIENCE: Final = 5.0
"""Seconds a ping may take."""


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
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310 - http or https, as ``check`` found
            pass
    except (OSError, ValueError) as error:
        say(f"the ping {what} was not delivered: {type(error).__name__}")


def leave_files(manifest: Path, asked: Asked) -> None:
    """Write the report and the metrics that were asked for; what goes wrong is said and nothing more."""
    if not manifest.exists():
        return
    try:
        if asked.metrics_file is not None:
            replace_file(asked.metrics_file, metrics_text(summary(manifest)))
        if asked.report is not None:
            write_report(manifest, asked.report, at=time.time())
    except ZcloneError as error:
        say(f"zclone: {error}")
