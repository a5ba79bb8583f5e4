"""One cause in many places is one problem with a count, so that a hundred problems have a hundred causes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.model import Pins
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"


def problems(folder: Path, job: str, **files: str) -> list[str]:
    for name, text in {"job_yaml": HEAD + job, **files}.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    planning = Planning(load(folder / "job.yaml"), run=None, started_at=0.0)
    with pytest.raises(JobFileError) as caught:
        planning.draft()
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def test_a_problem_of_a_column_is_reported_once(tmp_path: Path) -> None:
    """The same problem in a column of many rows is reported at the first of them, with their number."""
    rows = [f"{number:032},{'four' if number > 9 else number}," for number in range(500)]
    rows[20] += "x" * 300
    table = "\n".join(["uuid,params.requestCpu,params.name", *rows])
    assert problems(tmp_path, "targets: [{from: r.csv}]\n", r_csv=table) == [
        "r.csv:12:1: params.requestCpu: must be a whole number, not the text 'four' (in 490 rows)",
        "r.csv:22:1: params.name: is 300 characters long, the server's column holds 255",
    ]


def test_a_problem_of_many_lines_is_reported_once(tmp_path: Path) -> None:
    """Lines that are not JSON, and values of the wrong type, are reported once each, by what they have in common."""
    lines = [json.dumps({"uuid": f"{number:032}", "params": {"name": number}}) for number in range(300)]
    lines[5] = lines[9] = "[1]"
    found = problems(tmp_path, "targets: [{from: r.jsonl}]\n", r_jsonl="\n".join(lines))
    assert found == [
        "r.jsonl:1:57: params.name: must be text, not the value 0: put it in quotes (in 298 rows)",
        "r.jsonl:6:1: a line must be a JSON object or a source uuid in quotes (in 2 rows)",
    ]


def test_an_entry_that_is_wrong_for_many_rows_is_one_problem(tmp_path: Path) -> None:
    """A value of the entry that many rows make wrong is reported once, with the first of the rows."""
    table = "\n".join(["id,cpu", *(f"{number},four" for number in range(40))])
    job = f"targets:\n  - {{from: r.csv, uuid: {UUID}, params: {{requestCpu: '${{cpu}}'}}}}\n"
    (problem,) = problems(tmp_path, job, r_csv=table)
    assert problem.startswith("job.yaml:4:")
    assert problem.endswith(f"; in the row at {tmp_path}/r.csv:2 (in 40 targets)")


def test_a_missing_source_is_one_problem(tmp_path: Path) -> None:
    """A source that the server does not have is reported at its first target, with the number of targets."""
    (tmp_path / "job.yaml").write_text(
        f"{HEAD}targets:\n  - {UUID}\n"
        + "".join(
            f"  - {{uuid: {OTHER}, id: t{number}, keep: [size], params: {{name: '${{source.name}}'}}}}\n"
            for number in range(40)
        )
    )
    planning = Planning(load(tmp_path / "job.yaml"), run=None, started_at=0.0)
    for check in (
        planning.plan,
        lambda: planning.answer(Pins({OTHER: {"name": "x"}})).check(version=None, absent={OTHER}),
    ):
        with pytest.raises(JobFileError) as caught:
            check()
        (problem,) = caught.value.problems
        assert (problem.place.line, problem.path) == (5, "targets[1]")
        assert problem.message.startswith(f"the source {OTHER} does not exist on the server")
        assert problem.message.endswith(" (in 40 targets)")


def test_each_duplicate_key_is_reported(tmp_path: Path) -> None:
    """Each key that two rows have is a problem of its own, with the rows."""
    rows = [f"{number % 50:032}" for number in range(100)]
    found = problems(tmp_path, "targets: [{from: r.csv}]\n", r_csv="\n".join(["uuid", *rows]))
    assert len(found) == 50
