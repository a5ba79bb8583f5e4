"""Reports agree with the manifest, and nothing in them can harm the reader's terminal or spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import ExitCode
from batch.manifest import Cluster, Header, Story, Summary
from batch.manifest.kinds import EndedLine, StartedLine
from batch.manifest.listing import Row
from batch.model import Record, State
from batch.report.figures import exit_code
from batch.report.listings import COLUMNS, csv_rows, json_rows, jsonl_rows, show_lines, table_lines
from batch.report.status import ending_lines, status_lines
from batch.text import duration, escape, iso, width

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HEADER = Header("job", "run", "https://zstack.example.com", simulated=True)
PATH = Path("job.manifest.jsonl")
EVIL = "\x1b[2J\x1b]0;x\x07\n\x9b\u202e"
_TEXT = st.text() | st.sampled_from([EVIL, "=1+1", " @x", "\uff1dx", "-2", "+3", "\tx", "\0=x", "'x"])


def row(key: str = "a", *, error: str | None = None, name: str | None = None) -> Row:
    return Row(key, "source", State.FAILED, None, name, 2, "ZCLONE.GONE", error, 0.0, 1_700_000_000.25)


def figures(counts: dict[State, int], **changes: object) -> Summary:
    values: dict[str, object] = {
        "header": HEADER,
        "plan": None,
        "counts": Counter(counts),
        "clusters": (),
        "started": None,
        "ended": None,
        "settled_at": (),
        "torn_bytes": 0,
    }
    return Summary(**(values | changes))  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from(State), st.integers(0, 3)))
def test_exit_code_never_lies(counts: dict[State, int]) -> None:
    """0 only if every target is cloned; 4 while a rerun has something to do; 3 when it is over and some are not."""
    present = {state for state, number in counts.items() if number}
    if present <= {State.CLONED, State.WITHDRAWN}:
        assert exit_code(counts) == ExitCode.OK
    elif present & {State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN}:
        assert exit_code(counts) == ExitCode.UNFINISHED
    else:
        assert exit_code(counts) == ExitCode.FAILED


def text_rows(rows: list[Row]) -> list[str]:
    """Return the lines of a table."""
    return [f"{line.text}\n" for line in table_lines(rows)]


@given(_TEXT, _TEXT)
@pytest.mark.parametrize("form", [text_rows, json_rows, jsonl_rows, csv_rows])
def test_lists_are_harmless(form: Callable[[list[Row]], Iterable[str]], key: str, error: str) -> None:
    """With any target's key or server's error, a list in any format moves no cursor."""
    text = "".join(form([row(key, error=error)]))
    assert not any((ord(char) < 32 and char != "\n") or 0x7F <= ord(char) < 0xA0 for char in text)
    assert "\u202e" not in text


@given(_TEXT, _TEXT)
def test_csv_cells_are_no_formulas(key: str, error: str) -> None:
    """Read back, no cell begins like a formula, and every row has its columns."""
    text = "".join(csv_rows([row(key, error=error)]))
    rows = list(csv.reader(io.StringIO(text), strict=True))
    assert rows[0] == list(COLUMNS)
    assert [len(cells) for cells in rows] == [len(COLUMNS)] * 2
    for cell in rows[1]:
        assert not cell.strip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20"))


@given(st.lists(st.tuples(_TEXT, _TEXT), max_size=3))
def test_json_round_trip(texts: list[tuple[str, str]]) -> None:
    """JSON and JSON Lines escape, but change nothing."""
    rows = [row(key, error=error) for key, error in texts]
    lines = [json.loads(line) for line in jsonl_rows(rows)]
    assert json.loads("".join(json_rows(rows))) == lines
    assert [(line["key"], line["error"]) for line in lines] == texts
    assert all(list(line) == list(COLUMNS) for line in lines)


def test_columns_are_those_of_the_contract() -> None:
    """The columns of ``list`` and their order are a contract with scripts."""
    assert " ".join(COLUMNS) == (
        "key source_uuid state clone_uuid name attempts error_code error started_at settled_at"
    )


def test_times_are_iso_in_utc() -> None:
    """Times are ISO 8601 in UTC; one that no calendar holds is shown as a number."""
    line = json.loads(next(iter(jsonl_rows([row()]))))
    assert (line["started_at"], line["settled_at"]) == ("1970-01-01T00:00:00.000Z", "2023-11-14T22:13:20.250Z")
    assert iso(None) is None
    assert iso(1e300) == "1e+300"


def test_table_columns_are_aligned() -> None:
    """A table's columns line up also with wide characters, and a long error is cut."""
    rows = [row("a", name="名前"), row("long-key", error="e" * 500)]
    lines = [line.text for line in table_lines(rows)]
    starts = [
        width(line[: line.index(word)]) for line, word in zip(lines, ("ERROR_CODE", "ZCLONE.", "ZCLONE."), strict=True)
    ]
    assert len(set(starts)) == 1
    assert "…" in lines[2]


def test_empty_lists_are_valid() -> None:
    """Without targets JSON is an empty array and the others have their header."""
    assert "".join(json_rows([])) == "[]\n"
    assert "".join(jsonl_rows([])) == ""
    assert len("".join(csv_rows([])).splitlines()) == 1
    assert len(list(table_lines([]))) == 1


def test_status_has_states_pace_and_time_left() -> None:
    """Status has the counts by state, the speed, the time left, and whether it runs."""
    started = StartedLine(0.0, 42, "host", "zclone")
    found = figures({State.CLONED: 100, State.SENT: 50}, settled_at=tuple(map(float, range(11))), started=started)
    text = "\n".join(status_lines(found, manifest=PATH, is_locked=True, now=10.0))
    assert "job       job, run run" in text
    assert "rehearsal" in text
    assert "targets   150" in text
    assert "  cloned          100" in text
    assert "pace      1 clones/s, about 50 s left" in text
    assert "running since 1970-01-01T00:00:00.000Z, process 42 on host" in text
    assert "next " not in text


def test_status_has_the_warnings_of_the_process() -> None:
    """A run without certificate checks says so in its status, with any characters in the text."""
    started = StartedLine(0.0, 42, "host", "zclone", ("not\x1b checked",))
    lines = status_lines(figures({}, started=started), manifest=PATH, is_locked=True, now=1.0)
    assert "warning   not\\x1b checked" in lines


def test_status_of_an_ended_run_has_no_pace() -> None:
    """A run that ended is not shown as active; its exit code and reason are shown."""
    started = StartedLine(0.0, 42, "host", "zclone")
    found = figures({State.SENT: 1}, settled_at=(1.0, 2.0), started=started, ended=EndedLine(3.0, 4, "SIG\x1bTERM"))
    text = "\n".join(status_lines(found, manifest=PATH, is_locked=False, now=10.0))
    assert "ended 1970-01-01T00:00:03.000Z with exit code 4 (SIG\\x1bTERM)" in text
    assert "pace" not in text
    assert "no run recorded yet" in "\n".join(status_lines(figures({}), manifest=PATH, is_locked=False, now=1.0))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("j.run.simulated.manifest.jsonl", "zclone run jobs/j.yaml --simulate --run run"),
        ("j.run.simulated.shard-1-of-4.manifest.jsonl", "zclone run jobs/j.yaml --simulate --run run --shard 1/4"),
        ("mine", "zclone run jobs/j.yaml --simulate --run run --manifest mine"),
    ],
)
def test_status_of_a_killed_run_names_the_command_to_resume(name: str, command: str) -> None:
    """If no process holds the manifest and none ended, it was killed; the command keeps run, part and manifest."""
    started = StartedLine(0.0, 42, "host", "zclone")
    found = figures({State.SENT: 1}, started=started, header=replace(HEADER, job_file="jobs/j.yaml"))
    lines = status_lines(found, manifest=Path(name), is_locked=False, now=10.0)
    assert "process   killed: no process holds the manifest" in "\n".join(lines)
    assert lines[-1] == f"next      {command}"


def test_ending_names_the_command_to_run_next() -> None:
    """The summary ends with what to do: nothing, look at the failed ones, or run the same command again."""
    clusters = tuple(Cluster(State.FAILED, f"SYS.{number}", 1, "k" + EVIL, EVIL + "e" * 999) for number in range(12))
    unfinished = ending_lines(Counter({State.CLONED: 1, State.SENT: 2}), (), manifest="m", command="zclone run j.yaml")
    assert unfinished == ["1 of 3 targets cloned; 2 sent", "unfinished: run the same command again: zclone run j.yaml"]
    failed = ending_lines(Counter({State.FAILED: 12}), clusters, manifest="m", command="x")
    assert failed[-1] == "list them: zclone list m --state failed"
    assert failed[-2].endswith("2 more kinds")
    assert all(line == escape(line) for line in failed)
    assert ending_lines(Counter({State.CLONED: 2}), (), manifest="m", command="x") == ["2 of 2 targets cloned"]


def test_show_has_every_attempt_and_hides_the_job_uuid() -> None:
    """Show has each record in order; of a job uuid, which gives access to the job's result, only the start."""
    job = "0123456789abcdef" * 2
    records = (
        Record(State.SENT, "a", 0.0, 1, "source", "r" * 32, job, "d" * 32),
        Record(State.ACCEPTED, "a", 1.0, 1, deadline=60.0),
        Record(State.PLANNED, "a", 2.0, 0),
        Record(State.CLONED, "a", 3.0, 1, clone_uuid="c" * 32, name=EVIL, adopted=True),
    )
    lines = show_lines(Story(HEADER, "a", "source", records))
    text = "\n".join(lines)
    assert job not in text
    assert "01234567…" in text
    assert "found by its uuid" in text
    assert "is not counted" in text
    assert "1970-01-01T00:01:00.000Z" in text
    assert all(line == escape(line) for line in lines)
    assert "nothing sent yet" in show_lines(Story(HEADER, "a", "source", ()))[-1]


@pytest.mark.parametrize(("seconds", "expected"), [(45, "45 s"), (720, "12 min"), (12_000, "3 h 20 min")])
def test_durations_are_rounded(seconds: float, expected: str) -> None:
    """The time left is rounded to its significant unit."""
    assert duration(seconds) == expected
