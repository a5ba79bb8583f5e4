"""The golden table: bad job files, each with every problem it has, place by place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from batch.errors import ExitCode, JobFileError
from batch.jobfile import load
from batch.plan import Planning, load_job

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY: Final = re.compile(r"(not (?:YAML|JSON|CSV): ).*")
"""A parser's own words, which the table leaves out."""
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
    """At least sixty kinds of bad job files are in the table."""
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_problem_is_reported_with_its_place(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad job file ends with exit code 2 and all its problems, each as file:line:column: path: message."""
    monkeypatch.chdir(tmp_path)
    for name, text in case.files.items():
        Path(name).write_text(text, encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        Planning(load(Path("job.yaml")), run=None, started_at=0.0).draft()
    assert case.problems == LIBRARY.sub(r"\1…", str(caught.value))
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize("envelope", ["limits: {rate: 10}", "default: {}", "timezone: Asia/Nowhere"])
def test_problems_of_the_plan_are_reported_beside_the_envelopes(
    envelope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem of the envelope hides none of the targets, not even what shows once `${…}` has a value."""
    monkeypatch.chdir(tmp_path)
    uuid = "d76744cb53f9378abf42b907df3efb6e"
    targets = f'targets:\n  - {uuid}\n  - {{uuid: {uuid}, id: b, params: {{name: "${{tennant}}"}}}}\n  - {uuid}\n'
    Path("job.yaml").write_text(f"version: 1\nname: j\n{envelope}\n{targets}", encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        load_job(Path("job.yaml"))
    first, unknown, twice = str(caught.value).splitlines()
    assert first.startswith("job.yaml:3:")
    assert unknown.startswith("job.yaml:6:68: targets[1].params.name: unknown name 'tennant'")
    assert twice.startswith("job.yaml:7:5: targets[2]: the key ")


@pytest.mark.parametrize("value", ["${name}", "${unknown}", "$$"])
def test_an_unknown_parameter_of_the_defaults_is_not_rendered(value: str, tmp_path: Path) -> None:
    """A misspelt parameter with `${…}` is reported once, at its place in `defaults`, as one without it is."""
    path = tmp_path / "job.yaml"
    text = f'defaults: {{params: {{descriptio: "{value}"}}}}\ntargets: [d76744cb53f9378abf42b907df3efb6e]\n'
    path.write_text(f"version: 1\nname: j\n{text}", encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    (problem,) = caught.value.problems
    assert str(problem).endswith(
        ":3:21: defaults.params.descriptio: unknown parameter 'descriptio'; did you mean description?"
    )


def test_without_valid_vars_nothing_is_rendered(tmp_path: Path) -> None:
    """If `vars` has problems none of its names is called unknown."""
    path = tmp_path / "job.yaml"
    text = 'vars: {a b: c, d: e}\ntargets: [{uuid: d76744cb53f9378abf42b907df3efb6e, params: {name: "${d}"}}]\n'
    path.write_text(f"version: 1\nname: j\n{text}", encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        load_job(path)
    assert len(caught.value.problems) == 1
