"""Write a report atomically: the file is complete, or as it was before."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.errors import UsageError
from batch.report.data import read_report_data, read_verification
from batch.report.formats import json_report, junit_report, markdown_report
from batch.report.html import html_report
from batch.report.listings import csv_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from batch.report.data import ReportData
    from batch.zstack.classify import Language

ENDINGS: Final = (".html", ".md", ".csv", ".xml", ".json")
_BOM: Final = "\ufeff"


def write_report(
    manifest: Path,
    out: Path,
    *,
    at: float,
    ending: str | None = None,
    language: Language = "en",
    is_over: bool = False,
    verified: Path | None = None,
) -> None:
    """Write the report of ``manifest``; ``at``: now, seconds since the epoch.

    ``ending``: one of ``ENDINGS``, which selects the format; defaults to that of ``out``. ``language``: that of the
    hints. ``is_over``: whether the lock's holder is this process, at its end. ``verified``: a file with the output of
    ``verify -o json``, for a section in HTML, Markdown and JSON.
    Raises UsageError for another ending or an unwritable file, and the errors of reading a manifest.
    """
    if ending is None:
        require_ending(out)
        ending = out.suffix.lower()
    outputs.require_distinct([outputs.NamedFile("the report", out)], _inputs(manifest, verified))
    report = _read(manifest, verified)
    if is_over:
        report = replace(report, is_running=False)
    texts = _texts(report, ending, at, language)
    # The byte order mark makes spreadsheets read the file as UTF-8.
    outputs.replace(out, chain([_BOM], texts) if ending == ".csv" else texts, mode=outputs.PRIVATE)


def report_lines(
    manifest: Path, ending: str, *, at: float, language: Language = "en", verified: Path | None = None
) -> Iterator[str]:
    """Return the report of ``manifest`` as lines without newlines; arguments as for ``write_report``."""
    return _lines(_texts(_read(manifest, verified), ending, at, language))


def _read(manifest: Path, verified: Path | None) -> ReportData:
    report = read_report_data(manifest)
    if verified is None:
        return report
    return replace(report, verification=read_verification(verified, report.header))


def _inputs(manifest: Path, verified: Path | None) -> list[outputs.NamedFile]:
    inputs = [outputs.NamedFile("the manifest", manifest)]
    return inputs if verified is None else [*inputs, outputs.NamedFile("--verified", verified)]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Yield lines without newlines from pieces of text that may break anywhere."""
    begun = ""
    for text in texts:
        *whole, begun = (begun + text).split("\n")
        yield from whole
    if begun:
        yield begun


def require_ending(out: Path) -> None:
    """Raise UsageError if the ending of ``out`` selects no format."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"{out}: a report's name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")


def _texts(report: ReportData, ending: str, at: float, language: Language) -> Iterator[str]:
    match ending:
        case ".html":
            yield html_report(report, at=at)
        case ".md":
            yield from markdown_report(report, at=at, language=language)
        case ".csv":
            yield from csv_rows((target.row() for target in report.targets), language)
        case ".xml":
            yield from junit_report(report, language=language)
        case ".json":
            yield from json_report(report, at=at, language=language)
