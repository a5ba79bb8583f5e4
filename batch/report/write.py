"""Write a report beside nothing half-done: the file is there whole, or as it was before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.report.chronicle import read_chronicle
from batch.report.document import json_report
from batch.report.html import html_report
from batch.report.junit import junit_report
from batch.report.listing import ListFormat, render_rows
from batch.report.markdown import markdown_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batch.report.chronicle import Chronicle

ENDINGS: Final = (".html", ".md", ".csv", ".xml", ".json")
_BOM: Final = "\ufeff"


def write_report(manifest: Path, out: Path, *, at: float) -> None:
    """Write the report of ``manifest`` in the format of ``out``'s ending; ``at``: now, in seconds since the epoch.

    Raises UsageError for another ending or a file that cannot be written, and what reading a manifest raises.
    """
    require_ending(out)
    replace_file(out, _texts(read_chronicle(manifest), out.suffix.lower(), at))


def require_ending(out: Path) -> None:
    """Raise UsageError where no format has the ending of ``out``."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"{out}: a report ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")


def _texts(chronicle: Chronicle, ending: str, at: float) -> Iterator[str]:
    match ending:
        case ".html":
            yield html_report(chronicle, at=at)
        case ".md":
            yield from markdown_report(chronicle, at=at)
        case ".csv":
            # With the mark, spreadsheets read the file as UTF-8.
            yield _BOM
            yield from render_rows((course.row() for course in chronicle.courses), ListFormat.CSV)
        case ".xml":
            yield from junit_report(chronicle)
        case _:
            yield from json_report(chronicle, at=at)


def replace_file(path: Path, texts: Iterable[str]) -> None:
    """Put ``texts`` in the place of ``path`` at one stroke. Raises UsageError where that cannot be done."""
    name = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as new:
            name = new.name
            new.writelines(texts)
            new.flush()
            os.fchmod(new.fileno(), 0o666 & ~_umask())
            os.fsync(new.fileno())
        Path(name).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the new name durable: a power cut must not bring the old report back."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """Ask the kernel without setting it, which other threads would see."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0o077
    return next((int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:")), 0o077)
