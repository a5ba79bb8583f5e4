"""Tables as spreadsheets write them: delimiters, encodings, blanks, empty rows and columns, and long cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
LONG: Final = "uuid\r" + "".join(f"{number:032}\r" for number in range(9000))
CHINESE: Final = f"uuid;id;params.description;备注\r\n{UUID};a;中文;随便\r\n{OTHER};b;模型;\r\n"


def clones(folder: Path, table: str | bytes, *, keys: str = "", more: str = "") -> list[Clone]:
    (folder / "rows.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    job = folder / "job.yaml"
    job.write_text(f"{HEAD}{more}targets:\n  - {{from: rows.csv{keys}}}\n", encoding="utf-8")
    return list(Planning(load(job), run=None, started_at=0.0).plan().clones())


def problems(folder: Path, table: str | bytes, *, keys: str = "", more: str = "") -> list[str]:
    with pytest.raises(JobFileError) as caught:
        clones(folder, table, keys=keys, more=more)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("encoding", ["gb18030", "gbk", "utf-16", "utf-8"])
def test_a_table_is_read_with_its_encoding_and_delimiter(tmp_path: Path, encoding: str) -> None:
    """``encoding`` and ``delimiter`` beside ``from`` say how a CSV file is written."""
    found = clones(tmp_path, CHINESE.encode(encoding), keys=f', delimiter: ";", encoding: {encoding}')
    assert [(clone.key, clone.params) for clone in found] == [
        ("a", {"description": "中文"}),
        ("b", {"description": "模型"}),
    ]


@pytest.mark.parametrize(
    ("table", "place", "key"),
    [
        (f"uuid;id\n{UUID};a\n", "rows.csv:1:1: ", 'delimiter: ";"'),
        (f"uuid\tid\n{UUID}\ta\n", "rows.csv:1:1: ", 'delimiter: "\\t"'),
        (f"uuid|id\n{UUID}|a\n", "rows.csv:1:1: ", 'delimiter: "|"'),
        (f"sep=;\nuuid;id\n{UUID};a\n", "rows.csv:2:1: ", 'delimiter: ";"'),
        (f"uuid,id\n{UUID},a\n".encode("utf-16"), "rows.csv:1:1: ", "encoding: utf-16"),
        (f"uuid,id,note\n{UUID},a,x\n\n{OTHER},b,中文\n".encode("gbk"), "rows.csv:4:1: ", "encoding: gb18030"),
        (LONG.encode() + b"\xff", "rows.csv:9002:1: ", "encoding: gb18030"),
    ],
)
def test_another_delimiter_or_encoding_is_refused_with_the_key_to_write(
    tmp_path: Path, table: str | bytes, place: str, key: str
) -> None:
    """A table that is not comma-separated UTF-8 is refused at its line, with the key that would read it."""
    (problem,) = problems(tmp_path, table)
    assert problem.startswith(place)
    assert f"`{key}`" in problem


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (', delimiter: ";;"', 'job.yaml:4:33: targets[0].delimiter: must be one of ",", ";", "|" and "\\t"'),
        (", delimiter: [a]", "job.yaml:4:33: targets[0].delimiter: must be one of"),
        (
            ", encoding: gb18080",
            "job.yaml:4:32: targets[0].encoding: unknown encoding 'gb18080'; did you mean ",
        ),
    ],
)
def test_an_unknown_delimiter_or_encoding_has_its_place(tmp_path: Path, keys: str, problem: str) -> None:
    """An unsupported value of ``delimiter`` or ``encoding`` is refused at its place."""
    assert problems(tmp_path, f"uuid\n{UUID}\n", keys=keys)[0].startswith(problem)


def test_the_keys_of_a_table_belong_to_tables(tmp_path: Path) -> None:
    """``delimiter`` and ``encoding`` are refused where no CSV file is named."""
    job = tmp_path / "job.yaml"
    job.write_text(f"{HEAD}targets:\n  - {{uuid: {UUID}, delimiter: ','}}\n  - {{from: r.jsonl, encoding: gbk}}\n")
    (tmp_path / "r.jsonl").write_text(f'"{OTHER}"')
    planning = Planning(load(job), run=None, started_at=0.0)
    with pytest.raises(JobFileError) as caught:
        planning.plan()
    assert [(problem.place.line, problem.path) for problem in caught.value.problems] == [
        (4, "targets[0].delimiter"),
        (5, "targets[1].encoding"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_additions_of_spreadsheets_are_ignored(tmp_path: Path, end: str) -> None:
    """The ``sep=`` line, blanks around names and cells, empty rows, and columns without name and value do not count."""
    lines = [
        "sep=,",
        " uuid ,\tid,,params.name\u3000,,",
        f"{UUID} , a,,  x y ,,",
        ",,,,,",
        f"{OTHER},b\u00a0,,z",
        ",,,",
    ]
    found = clones(tmp_path, "\ufeff" + end.join(lines))
    assert [(clone.source_uuid, clone.key, clone.params) for clone in found] == [
        (UUID, "a", {"name": "x y"}),
        (OTHER, "b", {"name": "z"}),
    ]


def test_a_value_without_a_name_is_a_problem(tmp_path: Path) -> None:
    """A cell in a column without a name, or beyond the header, is never dropped."""
    assert problems(tmp_path, f"uuid,,id\n{UUID},x,a\n") == [
        "rows.csv:2:1: has the value 'x' in column 2, which has no name"
    ]
    assert problems(tmp_path, f",uuid\nx,{UUID}\n") == [
        "rows.csv:2:1: has the value 'x' in column 1, which has no name"
    ]
    assert problems(tmp_path, f"uuid,id\n{UUID},a,x\n") == ["rows.csv:2:1: has 3 cells, the header 2"]


@pytest.mark.parametrize(("cell", "value"), [("TRUE", True), ("True", True), ("true", True), ("FALSE", False)])
def test_spreadsheets_booleans_are_booleans(tmp_path: Path, cell: str, value: bool) -> None:  # noqa: FBT001 - data
    """A boolean parameter takes the upper-case words of spreadsheets; a text parameter keeps its text."""
    (clone,) = clones(tmp_path, f"uuid,params.system,params.name\n{UUID},{cell},TRUE\n")
    assert clone.params == {"system": value, "name": "TRUE"}


def test_unused_columns_may_have_any_name_and_value(tmp_path: Path) -> None:
    """An unused column that resembles no parameter or key may have any name."""
    (clone,) = clones(tmp_path, f'uuid,备注,"Cost, EUR",#,1st\n{UUID},随便,"1,5",=A1,x\n')
    assert clone.params == {}


def test_names_of_values_may_be_in_any_script(tmp_path: Path) -> None:
    """Columns and ``vars`` with names in other scripts than Latin are values for ``${…}``."""
    (clone,) = clones(
        tmp_path,
        f"uuid,租户\n{UUID},甲\n",
        keys=', params: {name: "${租户}-${环境}-${größe}"}',
        more="vars: {环境: 生产, größe: s}\n",
    )
    assert clone.params == {"name": "甲-生产-s"}


def test_a_cell_holds_what_the_server_stores(tmp_path: Path) -> None:
    """A cell may be far longer than the csv module's own limit, and its line breaks are line feeds."""
    text = "line\r\n" * 100_000 + "end"
    (clone,) = clones(tmp_path, f'uuid,params.yaml\r\n{UUID},"{text}"\r\n')
    assert clone.params == {"yaml": text.replace("\r\n", "\n")}


@pytest.mark.parametrize("encoding", ["utf-8", "gbk"])
def test_image_rules_are_read_like_every_table(tmp_path: Path, encoding: str) -> None:
    """A file of image rules has blanks, empty rows, nameless columns and ``sep=`` ignored, and the same keys."""
    (tmp_path / "rules.csv").write_bytes("sep=;\r\n from; to ;;备注\r\n\r\n a/ ;b/\u3000;;\r\n".encode(encoding))
    job = tmp_path / "job.yaml"
    keys = f'file: rules.csv, delimiter: ";", encoding: {encoding}'
    job.write_text(f"{HEAD}rearchitect: {{to: [AARCH64], {keys}}}\ntargets: [{UUID}]\n")
    with pytest.raises(JobFileError) as caught:
        load(job)
    (problem,) = caught.value.problems
    assert (problem.place.line, problem.path) == (2, "备注")
    (tmp_path / "rules.csv").write_bytes("sep=;\r\n from; to ;;\r\n\r\n a/ ;b/\u3000;;\r\n".encode(encoding))
    found = load(job).rearchitect
    assert found is not None
    ((prefix, to, *_),) = found.rules
    assert (prefix, to) == ("a/", "b/")


@pytest.mark.parametrize(
    "table", ["from,to,from\na/,b/,c/\n", "from,to\na/,b/,c/\n", "from;to\na/;b/\n", 'from,to\n"a\n']
)
def test_a_bad_file_of_image_rules_is_refused_at_its_line(tmp_path: Path, table: str) -> None:
    """Duplicate columns, surplus cells, another delimiter and open quotes are problems of the file of rules."""
    (tmp_path / "rules.csv").write_text(table)
    job = tmp_path / "job.yaml"
    job.write_text(f"{HEAD}rearchitect: {{to: [AARCH64], file: rules.csv}}\ntargets: [{UUID}]\n")
    with pytest.raises(JobFileError, match=r"rules\.csv:[12]:1: "):
        load(job)
