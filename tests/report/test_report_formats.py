"""Every format of the report says what the manifest says, for people, spreadsheets, CI systems and scripts."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from batch.errors import UsageError
from batch.model import Record, State
from batch.report import chronicle as chronicles
from batch.report.document import report_schema
from batch.report.failures import cause_of, failures
from batch.report.figures import figures
from batch.report.lanes import lanes, pauses
from batch.report.words import CHINESE, ENGLISH
from batch.report.write import ENDINGS, write_report
from tests.report.made_manifest import HOSTILE, PAUSE, make_manifest

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_795_440_000.0
TARGETS = 300
KIB = 1024


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return make_manifest(tmp_path / "made.manifest.jsonl", TARGETS)


def report(manifest: Path, ending: str) -> str:
    out = manifest.with_name(f"report{ending}")
    write_report(manifest, out, at=NOW)
    return out.read_bytes().decode("utf-8")


def counts(manifest: Path) -> Counter[str]:
    lines = map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    return Counter({line["key"]: line["state"] for line in lines if "state" in line}.values())


def test_json_meets_its_schema(manifest: Path) -> None:
    """The JSON report is valid by the published schema and counts what the manifest counts."""
    document = json.loads(report(manifest, ".json"))
    jsonschema.Draft7Validator(report_schema()).validate(document)
    assert {state: n for state, n in document["counts"].items() if n} == counts(manifest)
    assert len(document["targets"]) == TARGETS
    assert sum(group["count"] for group in document["failures"]) == counts(manifest)["failed"]


def test_csv_is_safe_to_open(manifest: Path) -> None:
    """CSV begins with the mark of UTF-8, quotes every cell and defuses formulas."""
    text = report(manifest, ".csv")
    assert text.startswith("\ufeff")
    rows = list(csv.reader(text.removeprefix("\ufeff").splitlines()))
    assert len(rows) == TARGETS + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "\t", "-"))]


def test_junit_is_what_ci_reads(manifest: Path) -> None:
    """One test case a target: failed targets are failures, and the totals agree."""
    suite = ET.fromstring(report(manifest, ".xml"))[0]
    assert suite.get("tests") == str(len(suite)) == str(TARGETS)
    assert suite.get("failures") == str(len(suite.findall(".//failure"))) == str(counts(manifest)["failed"])


def test_markdown_escapes_what_it_quotes(manifest: Path) -> None:
    """Server text cannot become markup in a ticket."""
    text = report(manifest, ".md")
    assert "<img" not in text.replace("\\<img", "")
    assert "zclone retry" in text


def test_html_is_one_file_under_a_strict_policy(manifest: Path) -> None:
    """Nothing is loaded from anywhere, no style or script is allowed but the two inside, and data cannot end them."""
    text = report(manifest, ".html")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?!data:,)', text)
    assert text.count("</script>") == 2
    assert HOSTILE not in text


def test_html_of_a_thousand_is_small(tmp_path: Path) -> None:
    """A thousand clones make a report of at most 300 KiB."""
    manifest = make_manifest(tmp_path / "made.manifest.jsonl", 1000)
    assert len(report(manifest, ".html").encode()) <= 300 * KIB


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_in_the_middle_has_a_report(manifest: Path, ending: str) -> None:
    """A report can be made at any moment: of a torn manifest, and of one in which nothing was sent yet."""
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:40])
    assert report(manifest, ending)
    manifest.write_bytes(b"".join(lines[:4]))
    assert report(manifest, ending)


def test_a_report_is_replaced_whole(manifest: Path, tmp_path: Path) -> None:
    """A damaged manifest leaves the report of before as it was, and nothing half-written beside it."""
    before = report(manifest, ".html")
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(bytes(data))
    with pytest.raises(Exception, match="damaged"):
        report(manifest, ".html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.manifest.jsonl", "report.html"]


def test_an_unknown_ending_is_refused(manifest: Path) -> None:
    """A file whose ending names no format is refused with those that do."""
    with pytest.raises(UsageError, match=r"\.html, \.md, \.csv, \.xml or \.json"):
        write_report(manifest, manifest.with_name("report.pdf"), at=NOW)


def test_lanes_never_overlap(manifest: Path) -> None:
    """Two clones share a lane only one after the other, and no more lanes are used than clones were in flight."""
    told = chronicles.read_chronicle(manifest)
    bars = lanes(told.courses, until=figures(told).until)
    by_lane: dict[int, float] = {}
    for bar in bars:
        assert bar.span.sent_at[0] >= by_lane.get(bar.lane, 0.0)
        by_lane[bar.lane] = bar.until
    assert len(by_lane) == 16


def test_a_killed_process_shows_as_a_pause(manifest: Path) -> None:
    """The time from the last line of a killed process to the start of the next is a pause, and no working time."""
    told = chronicles.read_chronicle(manifest)
    ((start, end),) = pauses(told.processes)
    assert PAUSE <= end - start <= PAUSE + 1
    assert figures(told).seconds == pytest.approx(figures(told).until - figures(told).began - (end - start))


def test_failures_share_a_cause_without_their_uuids(manifest: Path) -> None:
    """Errors that differ in uuids and numbers only are one group, with one command."""
    assert cause_of("image 9f86d081884c4d659a2feaa0c55ad015 needs 80 GB") == "image <uuid> needs <n> GB"
    groups = failures(chronicles.read_chronicle(manifest))
    assert len(groups) <= 4
    assert {group.code for group in groups} >= {"SYS.1006", "SYS.1007"}
    assert all(group.command.startswith(f"zclone retry migrate.yaml --code {group.code} ") for group in groups)


def test_both_languages_have_every_word() -> None:
    """Nothing is left untranslated but the sentence for browsers without JavaScript, which cannot switch."""
    assert set(ENGLISH) - set(CHINESE) == {"noscript"}
    assert set(CHINESE) <= set(ENGLISH)


def test_a_course_keeps_every_attempt() -> None:
    """What was sent again after it had settled is a second span, and each attempt keeps its time."""
    course = chronicles.Course("k", "s")
    for record in (
        Record(State.SENT, "k", 1.0, 1),
        Record(State.SENT, "k", 3.0, 2),
        Record(State.FAILED, "k", 4.0, 2),
        Record(State.SENT, "k", 9.0, 1),
    ):
        course.add(record)
    assert [(span.sent_at, span.ended_at) for span in course.spans] == [([1.0, 3.0], 4.0), ([9.0], None)]
