"""Write a report atomically: the file is there whole, or as it was before."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.errors import UsageError
from batch.report.data import read_report_data
from batch.report.document import json_report
from batch.report.html import html_report
from batch.report.junit import junit_report
from batch.report.listing import ListFormat, render_rows
from batch.report.markdown import markdown_report
from batch.report.verification_section import read_verification

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
    """Write the report of ``manifest``; ``at``: now, in seconds since the epoch.

    ``ending``: one of ``ENDINGS``, which decides the format; by default that of ``out``. ``language``: of the hints.
    ``is_over``: whether the process that has the manifest is this one, at its end. ``verified``: a file that
    ``verify -o json`` wrote, for a section of HTML, Markdown and JSON.
    Raises UsageError for another ending or a file that cannot be written, and what reading a manifest raises.
    """
    if ending is None:
        require_ending(out)
        ending = out.suffix.lower()
    outputs.require_distinct([outputs.NamedFile("the report", out)], _inputs(manifest, verified))
    report = _read(manifest, verified)
    if is_over:
        report = replace(report, is_running=False)
    texts = _texts(report, ending, at, language)
    # With the mark, spreadsheets read the file as UTF-8.
    outputs.replace(out, chain([_BOM], texts) if ending == ".csv" else texts, mode=outputs.PRIVATE)


def report_lines(
    manifest: Path, ending: str, *, at: float, language: Language = "en", verified: Path | None = None
) -> Iterator[str]:
    """Return the lines of the report of ``manifest`` without their newlines; arguments as for ``write_report``."""
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
    """Yield the lines of texts that break anywhere, without their newlines."""
    begun = ""
    for text in texts:
        *whole, begun = (begun + text).split("\n")
        yield from whole
    if begun:
        yield begun


def require_ending(out: Path) -> None:
    """Raise UsageError if no format has the ending of ``out``."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"{out}: a report ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")


def _texts(report: ReportData, ending: str, at: float, language: Language) -> Iterator[str]:
    match ending:
        case ".html":
            yield html_report(report, at=at)
        case ".md":
            yield from markdown_report(report, at=at, language=language)
        case ".csv":
            yield from render_rows((target.row() for target in report.targets), ListFormat.CSV, language)
        case ".xml":
            yield from junit_report(report, language=language)
        case ".json":
            yield from json_report(report, at=at, language=language)
