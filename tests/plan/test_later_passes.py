"""The plan streamed again: the same clones as in the pass that checked them, and no others."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone, Plan

HEAD: Final = "version: 1\nname: j\nvars: {tenant: ours}\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
FRESH: Final = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)

TEXTS: Final = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text.isprintable()
)
MAYBE_TEMPLATES: Final = st.one_of(TEXTS, st.sampled_from(["${tenant}", "a $ b", "$$", "${tenant}-$$x"]))
PARAMS: Final = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(MAYBE_TEMPLATES, st.none()),
        "description": st.one_of(MAYBE_TEMPLATES, st.just("two\nlines")),
        "requestCpu": st.one_of(st.integers(0, 2**31 - 1), st.none()),
        "size": st.integers(0, 2**63 - 1),
        "system": st.booleans(),
        "cpuArchitectures": st.lists(st.sampled_from(["X86_64", "AARCH64"]), unique=True),
        "resourceUuid": st.uuids(version=4).map(lambda uuid: uuid.hex),
        "vendorToSpecUuidsMap": st.dictionaries(TEXTS, st.lists(st.uuids().map(lambda uuid: uuid.hex)), max_size=2),
    },
)
ROWS: Final = st.lists(
    st.fixed_dictionaries(
        {"uuid": st.uuids().map(lambda uuid: uuid.hex), "params": st.one_of(PARAMS, st.none())},
        optional={
            "id": TEXTS,
            "systemTags": st.lists(MAYBE_TEMPLATES, max_size=2),
            "tenant": st.one_of(TEXTS, st.integers(-(2**70), 2**70), st.booleans(), st.none()),
            "params.readme": MAYBE_TEMPLATES,
        },
    ),
    max_size=6,
)
ENTRIES: Final = st.sampled_from(
    [
        "{from: rows.jsonl}",
        "{from: rows.jsonl, params: {readme: x, requestCpu: 1}}",
        "{from: rows.jsonl, params: {readme: '${tenant}'}, userTags: [a]}",
        "{from: rows.jsonl, matrix: {zone: [a, b]}, params: {readme: '${zone}'}}",
        f"{{from: rows.jsonl, owner: {OTHER}}}",
    ]
)


def expanded(folder: Path, entry: str, text: str) -> tuple[Plan, list[Clone]]:
    """Return the plan, and its clones as the walk with all checks makes them."""
    job = folder / "job.yaml"
    job.write_text(f"{HEAD}targets:\n  - {entry}\n  - {{uuid: {UUID}, id: last}}\n", encoding="utf-8")
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    found = Planning(load(job), run=None, started_at=0.0).plan()
    checked = Planning(load(job), run=None, started_at=0.0).explain()
    return found, [clone for clone, _ in checked]


def lines(rows: list[dict[str, Any]], *, ascii_only: bool) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=ascii_only) + " " for row in rows) + "\n\n"


@FRESH
@given(ENTRIES, ROWS, st.sampled_from(["ascii", "utf-8"]))
@example("{from: rows.jsonl}", [{"uuid": OTHER, "params": {"name": "\u00e9"}}], "ascii")
def test_later_passes_equal_the_checked_one(
    tmp_path: Path, entry: str, rows: list[dict[str, Any]], encoding: str
) -> None:
    """Keys, uuids, bodies, digests, parameters and order are those of the checked walk."""
    try:
        found, checked = expanded(tmp_path, entry, lines(rows, ascii_only=encoding == "ascii"))
    except JobFileError:
        event("has problems")
        return
    assert list(found.clones()) == checked
    assert list(found.listing()) == [(clone.key, clone.source_uuid) for clone in checked]
    assert [list(clone.params) for clone in found.clones()] == [list(clone.params) for clone in checked]


@pytest.mark.parametrize(
    "line",
    [
        f'"{OTHER}"',
        f'\u00a0{{"uuid": "{OTHER}", "params": {{}}}}',
        f'{{"uuid": "{OTHER}", "params": {{"name": "\\u0024{{tenant}}"}}}}',
        f'{{"uuid": "{OTHER}", "params": {{"name": "${{tenant}}"}}, "tenant": 123456789012345678901234567890}}',
        f'{{"uuid": "{OTHER}", "params": {{"name": "${{tenant}}"}}, "tenant": "\\ud83d\\ude00"}}',
        f'{{"uuid": "{OTHER}", "params": {{"description": "\\u00e9\\ttab"}}}}',
        f'{{"uuid": "{OTHER}", "params": {{"requestCpu": -0}}}}',
        f'{{"uuid": "{OTHER}"}}',
        f'{{"uuid": "{OTHER}", "id": null, "params": null}}',
    ],
)
def test_unusual_lines_are_read_as_when_they_were_checked(tmp_path: Path, line: str) -> None:
    """Escapes, long numbers and rows that need rendering are the same in every pass."""
    found, checked = expanded(tmp_path, "{from: rows.jsonl}", line)
    assert list(found.clones()) == checked
    assert len(checked) == 2


def test_a_row_without_uuid_has_that_of_its_entry(tmp_path: Path) -> None:
    """The uuid beside from counts in every pass."""
    found, checked = expanded(tmp_path, f"{{from: rows.jsonl, uuid: {OTHER}}}", '{"id": "a", "params": {}}')
    assert [clone.source_uuid for clone in found.clones()] == [clone.source_uuid for clone in checked] == [OTHER, UUID]


@pytest.mark.parametrize(
    "row",
    [
        {"uuid": f"../../{'a' * 26}", "params": {"name": "a"}},
        {"uuid": OTHER[:-1] + "\u0661", "params": {"name": "a"}},
        {"uuid": 7, "params": {"name": "a"}},
        {"uuid": OTHER, "id": 7, "params": {"name": "a"}},
        {"uuid": OTHER, "params": ["name"]},
        {"uuid": OTHER, "params": {"name": "b"}},
        [OTHER],
    ],
)
def test_rows_changed_unnoticed_end_the_pass_and_yield_only_uuids(tmp_path: Path, row: object) -> None:
    """If a file changed with the same size and time, only uuids are yielded, and the pass ends in an error."""
    known = json.dumps({"uuid": OTHER, "params": {"name": "a"}})
    found, _ = expanded(tmp_path, "{from: rows.jsonl}", known.ljust(120))
    path = tmp_path / "rows.jsonl"
    before = path.stat()
    path.write_text(json.dumps(row).ljust(120), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    made: list[Clone] = []
    stream = found.clones()
    with pytest.raises(JobFileError):
        made.extend(iter(lambda: next(stream), None))
    assert {clone.source_uuid for clone in made} <= {OTHER, UUID}


def test_a_changed_file_is_refused_before_any_of_its_rows(tmp_path: Path) -> None:
    """A pass over a file with another size or modification time yields no clone of it."""
    found, _ = expanded(tmp_path, "{from: rows.jsonl}", json.dumps(OTHER))
    path = tmp_path / "rows.jsonl"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    for stream in (found.clones(), found.listing()):
        with pytest.raises(JobFileError, match=r"rows\.jsonl:1:1: was changed while the run was reading it"):
            next(stream)


def test_a_missing_file_ends_every_pass(tmp_path: Path) -> None:
    """A file that cannot be opened again is an error of any pass, and never a plan of fewer targets."""
    found, _ = expanded(tmp_path, "{from: rows.jsonl}", json.dumps(OTHER))
    (tmp_path / "rows.jsonl").unlink()
    for stream in (found.clones(), found.listing()):
        with pytest.raises(JobFileError, match="cannot be read"):
            list(stream)


def test_overwritten_rows_are_noticed_soon(tmp_path: Path) -> None:
    """Of a file that is overwritten during a pass at most a few more rows are read."""
    sources = [f"{number:032x}" for number in range(1, 1001)]
    found, _ = expanded(tmp_path, "{from: rows.jsonl}", "\n".join(map(json.dumps, sources)))
    stream = found.clones()
    next(stream)
    with (tmp_path / "rows.jsonl").open("r+b") as rows:
        rows.write(b"#")
    taken: list[Clone] = []
    with pytest.raises(JobFileError, match="was changed while the run was reading it"):
        taken.extend(stream)
    assert len(taken) < 100


def test_a_file_changed_while_it_is_read_ends_the_pass(tmp_path: Path) -> None:
    """A file that grows during a pass is noticed at its end, before the targets after it."""
    found, checked = expanded(tmp_path, "{from: rows.jsonl}", json.dumps(OTHER))
    stream = found.clones()
    assert next(stream) == checked[0]
    with (tmp_path / "rows.jsonl").open("a") as rows:
        rows.write("\n")
    with pytest.raises(JobFileError, match=r"rows\.jsonl:1:1: was changed while the run was reading it"):
        next(stream)
