"""The golden table: bad job files, each with every problem it has, place by place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from batch.errors import ExitCode, JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY: Final = re.compile(r"(not (?:YAML|JSON|CSV): ).*")
"""What a parser says in words of its own, which the table leaves out."""
TABLE: Final = Path(__file__).with_name("bad_job_files.txt")


class Case(NamedTuple):
    name: str
    files: dict[str, str]
    problems: str


def read_table() -> Iterator[Case]:
    for section in ("\n" + TABLE.read_text(encoding="utf-8")).split("\n=== ")[1:]:
        name, _, rest = section.partition("\n")
        texts, _, problems = rest.partition("--- problems\n")
        job, *others = texts.split("+++ ")
        files = {"job.yaml": job, **dict(other.split("\n", 1) for other in others)}
        yield Case(name, files, problems.strip("\n"))


CASES: Final = list(read_table())


def test_the_table_is_large() -> None:
    """At least sixty ways to get a job file wrong are pinned."""
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_problem_is_told_with_its_place(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad job file ends with exit code 2 and all its problems, each as file:line:column: path: message."""
    monkeypatch.chdir(tmp_path)
    for name, text in case.files.items():
        Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        Planning(load(Path("job.yaml")), run=None, started_at=0.0).draft()
    assert case.problems == LIBRARY.sub(r"\1…", str(caught.value))
    assert caught.value.exit_code is ExitCode.USAGE
