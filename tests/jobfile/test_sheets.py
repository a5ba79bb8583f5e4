"""Excel workbooks as tables: the values of cells; what Excel does not have or has lost is refused with its place."""

from __future__ import annotations

import builtins
import io
import warnings
import zipfile
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.jobfile.render_problems import render_text, source_line
from batch.plan import Planning
from tests.jobfile.test_rows import KEYS, SPELLINGS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from batch.model import Clone

openpyxl: Final = pytest.importorskip("openpyxl", reason="the extra excel is not installed")
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
DIGITS: Final = "12345678901234567890123456789012"


def workbook(sheets: Mapping[str, Sequence[Sequence[Any]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def clones(folder: Path, data: bytes, *, keys: str = "", params: str = "") -> list[Clone]:
    (folder / "rows.xlsx").write_bytes(data)
    job = folder / "job.yaml"
    job.write_text(f"version: 1\nname: j\ntargets:\n  - {{from: rows.xlsx{keys}{params}}}\n", encoding="utf-8")
    return list(Planning(load(job), run=None, started_at=0.0).plan().clones())


def problems(folder: Path, data: bytes, *, keys: str = "") -> list[str]:
    with pytest.raises(JobFileError) as caught:
        clones(folder, data, keys=keys)
    assert "\x00" not in render_text(caught.value.problems, source_line)
    return [str(problem).removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_sheet_is_read_like_csv(tmp_path: Path) -> None:
    """Numbers, booleans, dates, blanks, empty rows and nameless columns mean the same as in CSV."""
    rows: list[list[Any]] = [
        [],
        [" uuid", "id", "params.requestCpu", "params.system", "params.yaml", None, "备注", "day", "at", "share"],
        [UUID, "a", 4.0, True, " x\r\ny ", None, "随便", date(2026, 11, 23), datetime(2026, 1, 2, 3, 4), 0.5],  # noqa: DTZ001
        [None, None],
        [OTHER, 12, None, False],
    ]
    found = clones(tmp_path, workbook({"S": rows}), params=', params: {description: "${day}|${at}|${share}|${备注}"}')
    assert [(clone.key, clone.params) for clone in found] == [
        (
            "a",
            {
                "description": "2026-11-23|2026-01-02 03:04:00|0.5|随便",
                "requestCpu": 4,
                "system": True,
                "yaml": "x\ny",
            },
        ),
        ("12", {"description": "|||", "system": False}),
    ]


def test_one_of_several_sheets_is_named(tmp_path: Path) -> None:
    """`sheet:` names it; without the key, or with an unknown name, the workbook is refused with the names."""
    data = workbook({"Notes": [["x"]], "Tenants": [["uuid"], [UUID]]})
    assert [clone.key for clone in clones(tmp_path, data, keys=", sheet: Tenants")] == [UUID]
    assert problems(tmp_path, data) == [
        "rows.xlsx:1:1: has the sheets 'Notes', 'Tenants': write `sheet:` beside the file's name"
    ]
    (problem,) = problems(tmp_path, data, keys=", sheet: Tenant")
    assert problem == "rows.xlsx:1:1: unknown sheet 'Tenant'; did you mean Tenants?"
    assert "must be the name of a sheet" in problems(tmp_path, data, keys=", sheet: []")[0]


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (int(DIGITS), "rows.xlsx:3:2: is a number of more than 15 digits"),
        ("=A2", "rows.xlsx:3:2: is a formula that was never calculated"),
        ("#REF!", "rows.xlsx:3:2: the cell has the error #REF!"),
    ],
)
def test_lost_values_are_refused(tmp_path: Path, cell: object, problem: str) -> None:
    """A number whose digits were lost, a formula without a value and an error are reported at their cell."""
    data = workbook({"S": [["uuid", "params.description"], [UUID, "a"], [OTHER, cell]]})
    (found,) = problems(tmp_path, data)
    assert found.startswith(problem)


def test_problems_of_a_sheet_have_its_rows(tmp_path: Path) -> None:
    """A wrong value is reported at its row, a wrong column at the header, without a line of the file's bytes."""
    data = workbook({"S": [["uuid", "params.requestCpu"], [UUID, "four"], ["short", 4]]})
    found = problems(tmp_path, data)
    assert [line.split(":")[1] for line in found] == ["2", "3"]
    (header,) = problems(tmp_path, workbook({"S": [["uuid", "params.cpuCount"], [UUID, 1]]}))
    assert header.startswith("rows.xlsx:1:1: ")
    (surplus,) = problems(tmp_path, workbook({"S": [["uuid"], [UUID, "more"]]}))
    assert "has 2 cells, the header 1" in surplus


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"uuid\n", "is not a readable .xlsx workbook"),
        (b"", "is not a readable .xlsx workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is an .xls file or has a password"),
        (workbook({"S": [["uuid"]]})[:-200], "is not a readable .xlsx workbook"),
    ],
    # A workbook holds its creation time, and ids must be the same in every process.
    ids=["text", "nothing", "an old workbook", "half a workbook"],
)
def test_an_invalid_workbook_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    """Text, an empty or truncated file, an older format and a password are one problem each."""
    (problem,) = problems(tmp_path, data)
    assert problem.startswith(f"rows.xlsx:1:1: {why}")


def test_a_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpacked size is checked before anything is unpacked."""
    monkeypatch.setattr("batch.jobfile.tables._LARGEST", 1 << 20)
    data = io.BytesIO(workbook({"S": [["uuid"], [UUID]]}))
    with zipfile.ZipFile(data, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/big.xml", b" " * (2 << 20))
    assert "once it is unpacked" in problems(tmp_path, data.getvalue())[0]


def test_without_the_extra_the_alternatives_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If openpyxl is not installed the message names the extra, and CSV."""
    real = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    (problem,) = problems(tmp_path, workbook({"S": [["uuid"], [UUID]]}))
    assert "needs the extra excel: pip install 'zclone[excel]', or save the sheet as CSV" in problem


def test_image_rules_may_be_a_sheet(tmp_path: Path) -> None:
    """`rearchitect.file` takes a workbook too."""
    rows = [["from", "to"], ["a/", "b/"]]
    (tmp_path / "rules.xlsx").write_bytes(workbook({"S": rows}))
    job = tmp_path / "job.yaml"
    job.write_text(
        f"version: 1\nname: j\ntargets: [{UUID}]\nrearchitect: {{to: [AARCH64], file: rules.xlsx, sheet: S}}\n",
        encoding="utf-8",
    )
    rearchitect = load(job).rearchitect
    assert rearchitect is not None
    assert [(rule.prefix, rule.to, rule.place.line) for rule in rearchitect.rules] == [("a/", "b/", 2)]


def test_a_workbooks_warnings_are_suppressed(tmp_path: Path) -> None:
    """A warning of openpyxl, such as a date out of range, is no error of the command."""
    data = workbook({"S": [["uuid", "day"], [UUID, date(2026, 1, 1)]]})
    old = zipfile.ZipFile(io.BytesIO(data))
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, old.read(name).replace(b"<v>46023</v>", b"<v>99999999999</v>"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "rows.xlsx:2:2: the cell has the error #VALUE!" in problems(tmp_path, new.getvalue())[0]


@pytest.mark.parametrize(("name", "meant"), [*SPELLINGS, *KEYS])
def test_no_near_miss_is_dropped(tmp_path: Path, name: str, meant: str) -> None:
    """A column spelt nearly like a parameter or key is an error of its header, reported once."""
    found = problems(tmp_path, workbook({"s": [["uuid", name], [UUID, 4], [OTHER, 5]]}))
    assert len([line for line in found if line.startswith("rows.xlsx:1:1: ") and meant in line]) == 1, found
