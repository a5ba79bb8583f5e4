"""Every format of the report says what the manifest says, for people, spreadsheets, CI systems and scripts."""

from __future__ import annotations

import csv
import fcntl
import json
import re
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from batch.errors import UsageError
from batch.manifest import Header
from batch.manifest.kinds import PlanLine
from batch.manifest.line import seal
from batch.manifest.records import encode_plan, encode_planned, encode_record
from batch.model import QUARANTINED, Record, State
from batch.report import data as report_data
from batch.report.data import read_report_data
from batch.report.figures import cause_of, command_for, failures, figures
from batch.report.formats import report_schema
from batch.report.html import lanes, page_words, pauses
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


def test_json_conforms_to_its_schema(manifest: Path) -> None:
    """The JSON report is valid by the published schema and counts what the manifest counts."""
    document = json.loads(report(manifest, ".json"))
    jsonschema.Draft7Validator(report_schema()).validate(document)
    assert {state: n for state, n in document["counts"].items() if n} == counts(manifest)
    assert len(document["targets"]) == TARGETS
    assert sum(group["count"] for group in document["failures"]) == counts(manifest)["failed"]


def test_csv_is_safe_to_open(manifest: Path) -> None:
    """CSV begins with the UTF-8 byte order mark, quotes every cell and neutralises formulas."""
    text = report(manifest, ".csv")
    assert text.startswith("\ufeff")
    rows = list(csv.reader(text.removeprefix("\ufeff").splitlines()))
    assert len(rows) == TARGETS + 1
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@", "\t", "-"))]


def test_junit_counts_each_target_once(manifest: Path) -> None:
    """One test case per target: failed targets are failures, and the totals agree."""
    suite = ET.fromstring(report(manifest, ".xml"))[0]
    assert suite.get("tests") == str(len(suite)) == str(TARGETS)
    assert suite.get("failures") == str(len(suite.findall(".//failure"))) == str(counts(manifest)["failed"])


def test_a_junit_failure_has_its_reason_in_the_text(manifest: Path) -> None:
    """The text of a failure, which GitLab shows, has the reason, the source, the attempts and the next command."""
    case = next(case for case in ET.fromstring(report(manifest, ".xml"))[0] if case.find("failure") is not None)
    failure = case.find("failure")
    assert failure is not None
    reason, source, attempts, command = (failure.text or "").splitlines()
    assert reason == f"{failure.get('type')}: {failure.get('message')}"
    found = next(target for target in read_report_data(manifest).targets if target.key == case.get("name"))
    assert source == f"source: {found.source_uuid}"
    assert attempts == f"attempts: {found.row().attempts}"
    assert command == f"next: zclone retry migrate.yaml --code {failure.get('type')} --manifest {manifest}"


def test_a_quarantined_target_is_retried_by_its_state(manifest: Path) -> None:
    """Its next command is the one that retries it; a rerun would not query it."""
    header = read_report_data(manifest).header
    command = command_for(header, manifest, State.UNCERTAIN, QUARANTINED)
    assert command.startswith(f"zclone retry migrate.yaml --state uncertain --code {QUARANTINED}")
    assert command_for(header, manifest, State.UNCERTAIN, "SYS.1006").startswith("zclone run migrate.yaml")


MARKUP = "@admin https://evil.example/ www.evil.example <img src=x> [a](b) **c** &#x202e; #1 | ~~d~~ \u202e\u2028\n# e"
TRAPS = (MARKUP, f"`{MARKUP}", f"``{MARKUP}```", f"\\{MARKUP}\\", f"\\|{MARKUP}", "|", "` ` `", " ")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")


@pytest.mark.parametrize("trap", TRAPS)
def test_markdown_quotes_every_foreign_text(tmp_path: Path, trap: str) -> None:
    """In a ticket no text of server, job or manifest is markup, a mention or an address: all of it is code."""
    path = tmp_path / "trap.manifest.jsonl"
    header = Header(trap, trap, trap, simulated=False, tool=trap, created_at=1.0, job_file=trap)
    failed = Record(State.FAILED, trap, 2.0, 1, clone_uuid=trap, name=trap, error_code=trap, error=trap)
    bodies = [header.body(), encode_planned([(trap, trap)]), encode_plan(PlanLine(trap, trap, 1, 1.0))]
    path.write_bytes(sealed([*bodies, encode_record(failed)]))
    prose, _, rest = report(path, ".md").partition("```sh\n")
    command, _, rest = rest.partition("\n```\n")
    assert len(command.splitlines()) == 1
    lines = (prose + rest).splitlines()
    assert all(line.isprintable() for line in lines)
    for line in lines:
        left = CODE_SPAN.sub("", line)
        assert not re.search(r"[`@<&\[~\\]|evil|\w#", left), left
    row = next(line for line in lines if line.endswith("| failed |") and line.count("|") > 3)
    assert row.count("|") == 6


def sealed(bodies: list[bytes]) -> bytes:
    crc, lines = 0, b""
    for batch, body in enumerate(bodies):
        line, crc = seal([body], crc, batch=batch)
        lines += line
    return lines


def test_html_is_one_file_under_a_strict_policy(manifest: Path) -> None:
    """Nothing is loaded, no style or script is allowed but the two inside, and data cannot end them."""
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
def test_an_unfinished_run_has_a_report(manifest: Path, ending: str) -> None:
    """A report can be made at any moment: of a torn manifest, and of one without anything sent."""
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[-1][:40])
    assert report(manifest, ending)
    manifest.write_bytes(b"".join(lines[:4]))
    assert report(manifest, ending)


def test_an_active_run_is_shown_as_running(manifest: Path) -> None:
    """The page says running while a process has the manifest, and killed if it ended without an end line."""
    pill = '<span class="pill {}" data-t="{}">'
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(b"".join(lines[:-1]))
    with manifest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        running = report(manifest, ".html")
        write_report(manifest, manifest.with_name("own.html"), at=NOW, is_over=True)
        assert pill.format("running", "running") not in manifest.with_name("own.html").read_text(encoding="utf-8")
    killed = report(manifest, ".html")
    assert pill.format("running", "running") in running
    assert pill.format("some_failed", "some_failed") in killed
    words = [[text.count(f'<span data-t="{word}">') for word in ("running", "killed")] for text in (running, killed)]
    assert words == [[2, 1], [0, 2]], "the process before the last was killed"


def test_a_report_is_replaced_whole(manifest: Path, tmp_path: Path) -> None:
    """A damaged manifest leaves the earlier report unchanged, and nothing half-written beside it."""
    before = report(manifest, ".html")
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(bytes(data))
    with pytest.raises(Exception, match="damaged"):
        report(manifest, ".html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made.manifest.jsonl", "report.html"]


def test_an_unknown_extension_is_refused(manifest: Path) -> None:
    """A file whose extension names no format is refused with those that do."""
    with pytest.raises(UsageError, match=r"\.html, \.md, \.csv, \.xml or \.json"):
        write_report(manifest, manifest.with_name("report.pdf"), at=NOW)


def test_lanes_never_overlap(manifest: Path) -> None:
    """Two clones share a lane only one after the other, and there are no more lanes than clones in flight."""
    report_contents = report_data.read_report_data(manifest)
    bars = lanes(report_contents.targets, until=figures(report_contents).until)
    by_lane: dict[int, float] = {}
    for bar in bars:
        assert bar.span.sent_at[0] >= by_lane.get(bar.lane, 0.0)
        by_lane[bar.lane] = bar.until
    assert len(by_lane) == 16


def test_a_killed_process_shows_as_a_pause(manifest: Path) -> None:
    """The time from the last line of a killed process to the start of the next is a pause, not working time."""
    report_contents = report_data.read_report_data(manifest)
    ((start, end),) = pauses(report_contents.processes)
    assert PAUSE <= end - start <= PAUSE + 1
    assert figures(report_contents).seconds == pytest.approx(
        figures(report_contents).until - figures(report_contents).began - (end - start)
    )


def test_failures_that_differ_only_in_uuids_are_one_group(manifest: Path) -> None:
    """Errors that differ in uuids and numbers only are one group, with one command."""
    assert cause_of("image 9f86d081884c4d659a2feaa0c55ad015 needs 80 GB") == "image <uuid> needs <n> GB"
    groups = failures(report_data.read_report_data(manifest))
    assert len(groups) <= 4
    assert {group.code for group in groups} >= {"SYS.1006", "SYS.1007"}
    assert all(group.command.startswith(f"zclone retry migrate.yaml --code {group.code} ") for group in groups)


def test_both_languages_are_complete() -> None:
    """Everything is translated but the sentence for browsers without JavaScript, which cannot switch."""
    english, chinese = page_words()["en"], page_words()["zh"]
    assert set(english) - set(chinese) == {"noscript"}
    assert set(chinese) <= set(english)


def test_a_history_keeps_every_attempt() -> None:
    """What was sent again after it had settled is a second span, and each attempt keeps its time."""
    course = report_data.TargetData("k", "s")
    for record in (
        Record(State.SENT, "k", 1.0, 1),
        Record(State.SENT, "k", 3.0, 2),
        Record(State.FAILED, "k", 4.0, 2),
        Record(State.SENT, "k", 9.0, 1),
    ):
        course.add(record)
    assert [(span.sent_at, span.ended_at) for span in course.spans] == [([1.0, 3.0], 4.0), ([9.0], None)]
