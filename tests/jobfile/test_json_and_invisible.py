"""Job files in JSON, and characters that make a YAML file read differently from how it looks."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone

UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
HEAD: Final = f"version: 1\nname: j\ntargets: [{UUID}]\n"
LINE_BREAKS: Final = "\u2028\u2029\x85\r"
DIRECTIONS: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def clones_of(path: Path) -> list[Clone]:
    return list(Planning(load(path), run=None, started_at=0.0).plan().clones())


def problem_of(path: Path) -> str:
    with pytest.raises(JobFileError) as caught:
        clones_of(path)
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize("name", ["job.json", "job.yaml", "job.JSON"])
@pytest.mark.parametrize("indent", [None, 2, "\t"])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_what_json_dumps_writes_is_a_job_file(
    tmp_path: Path, name: str, indent: int | str | None, *, ensure_ascii: bool
) -> None:
    """Texts of a JSON job file arrive character by character, however the json module writes them."""
    texts = [
        "\U0001f680 é 租",
        'a\\b"c/d',
        r"\ud83d",
        r"\\ud83d\ude80",
        "${name}",
        "null",
        "true",
        "3.10",
        "~",
        "# x: y",
    ]
    params = [{"name": text, "pythonVersion": "3.10", "requestCpu": 4, "system": False} for text in texts]
    job = {
        "version": 1,
        "name": "j",
        "targets": [{"uuid": UUID, "id": str(n), "params": p} for n, p in enumerate(params)],
    }
    (tmp_path / name).write_text(json.dumps(job, indent=indent, ensure_ascii=ensure_ascii), encoding="utf-8")
    found = [dict(clone.params) for clone in clones_of(tmp_path / name)]
    assert found == [{**p, "name": str(p["name"]).replace("${name}", "j")} for p in params]


def test_numbers_are_texts_as_written(tmp_path: Path) -> None:
    """A number in JSON keeps its digits where text is wanted, and null removes the parameter."""
    path = tmp_path / "job.json"
    path.write_text(
        '{"version":1,"name":"j","defaults":{"params":{"readme":"x"}},"targets":[{"uuid":"'
        + UUID
        + '","params":{"pythonVersion":3.10,"readme":null}}]}'
    )
    assert clones_of(path)[0].params == {"pythonVersion": "3.10"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"version": 1,\n "name": "\\ud83d\\ude80",\n "targets": ["x"]}', ":3:14: targets[0]: must be a uuid"),
        ('{"version": 1,\n "name": "j", "x": "\\ud83d\\ude80", "limits": {"rate": 1}}', ":2:55: limits.rate: must be"),
        ('{"version": 1, "name": "j",\n "name": "k"}', ":2:2: duplicate key 'name': first on line 1"),
        ('{"version": 1,\n "name" "j"}', ":2:9: not JSON: "),
        ('{"version": NaN}', ":1:1: NaN is not JSON"),
        ('{"a": "\\ud83d"}', ":1:7: has half of a surrogate pair"),
        ('{"version": 1, "a": ' + "[" * 40 + "]" * 40 + "}", ":1:52: nested deeper than 32 levels"),
        ('{"version": 1, "a": ' + "[" * 200_000, ":1:52: nested deeper than 32 levels"),
        ("[]", ":1:1: a job file is a map with version, name and targets, not a list"),
        ("", ":1:1: is empty"),
    ],
)
def test_places_in_json(tmp_path: Path, text: str, expected: str) -> None:
    """Problems of a JSON job file have the line and column where they stand in it."""
    path = tmp_path / "job.json"
    path.write_text(text, encoding="utf-8")
    assert expected in problem_of(path)


def test_a_flow_map_that_is_not_json_is_yaml(tmp_path: Path) -> None:
    """A file that begins with ``{`` and is not JSON is read as YAML."""
    path = tmp_path / "job.yaml"
    path.write_text(f"{{version: 1, name: j, targets: [{UUID}]}}\n")
    assert [clone.source_uuid for clone in clones_of(path)] == [UUID]


@pytest.mark.parametrize("name", ["job.json", "job.yaml"])
def test_json_above_16_mib_is_refused(tmp_path: Path, name: str) -> None:
    """A large JSON job file is refused before it is read, with the hint to JSON Lines."""
    path = tmp_path / name
    path.write_text('{"version": 1, "x": "' + "x" * (16 << 20) + '"}')
    assert problem_of(path).startswith(":1:1: a JSON file larger than 16 MiB: move the targets to a JSON Lines")


@pytest.mark.parametrize("char", LINE_BREAKS + DIRECTIONS)
@pytest.mark.parametrize(
    ("before", "after"),
    [("# harmless ", "defaults: {params: {name: x}}\n"), ('vars: {a: "x', 'y"}\n'), ("b: |\n  x", "y\n")],
)
def test_invisible_characters_are_refused(tmp_path: Path, char: str, before: str, after: str) -> None:
    """An invisible line break or text direction mark is refused in comments and texts, with place and escape."""
    path = tmp_path / "job.yaml"
    path.write_bytes(f"{HEAD}{before}{char}{after}".encode())
    *lines, last = before.split("\n")
    what = "line break" if char in LINE_BREAKS else "text direction mark"
    escape = r"\r" if char == "\r" else f"\\u{ord(char):04x}"
    message = f'has the invisible {what} U+{ord(char):04X}: take it out, or write "{escape}" in double quotes'
    assert problem_of(path) == f":{4 + len(lines)}:{len(last) + 1}: {message}"


def test_windows_line_ends_are_valid(tmp_path: Path) -> None:
    """CR before LF is a line end as any other, also at the end of a chunk."""
    path = tmp_path / "job.yaml"
    path.write_bytes(HEAD.replace("\n", "\r\n").encode() + (b"#" * 77 + b"\r\n") * 30_000)
    assert len(clones_of(path)) == 1
    path.write_bytes(HEAD.encode() + b"# end\r")
    assert "U+000D" in problem_of(path)


@pytest.mark.parametrize("char", LINE_BREAKS + DIRECTIONS)
def test_invisible_characters_are_found_across_chunks(tmp_path: Path, char: str) -> None:
    """An invisible character that is read in two parts is found all the same."""
    path = tmp_path / "job.yaml"
    chunk = (1 << 20) + (1 << 16)
    for short in range(4):
        line = "# " + "x" * (chunk - short - 2)
        path.write_bytes(f"{line}{char}y\n{HEAD}".encode())
        assert problem_of(path).startswith(f":1:{len(line) + 1}: has the invisible ")


@pytest.mark.parametrize("char", LINE_BREAKS[:3] + DIRECTIONS)
def test_rows_may_hold_invisible_characters_as_data(tmp_path: Path, char: str) -> None:
    """Cells of CSV and texts of JSON Lines may hold them where the parameter may, and messages show them escaped."""
    path = tmp_path / "job.yaml"
    path.write_text("version: 1\nname: j\ntargets: [{from: r.csv}, {from: r.jsonl}]\n")
    text = f"a{char}b" if char != "\x85" else "ab"
    (tmp_path / "r.csv").write_text(f"uuid,id,params.readme\n{UUID},c,{text}\n", encoding="utf-8")
    row = {"uuid": UUID, "id": "j", "params": {"readme": text}}
    (tmp_path / "r.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert [clone.params["readme"] for clone in clones_of(path)] == [text, text]
    (tmp_path / "r.csv").write_text(f"uuid,params.requestCpu\n{UUID},4{char}\n", encoding="utf-8")
    with pytest.raises(JobFileError) as caught:
        clones_of(path)
    assert char not in str(caught.value)
    assert (f"\\u{ord(char):04x}" if ord(char) > 255 else f"\\x{ord(char):02x}") in str(caught.value)


@pytest.mark.parametrize(
    "shape",
    [
        "{keys}\n",
        "defaults: {{{flow}}}\n",
        "defaults: {{params: {{{flow}}}}}\n",
        "rearchitect: {{{flow}}}\n",
        "limits: {{{flow}}}\n",
    ],
)
def test_many_problems_are_capped(tmp_path: Path, shape: str) -> None:
    """However many unknown keys a section has, a hundred are reported and the others counted."""
    names = [f"k{number}" for number in range(10_000)]
    path = tmp_path / "job.yaml"
    body = shape.format(keys="\n".join(f"{name}: 1" for name in names), flow=", ".join(f"{name}: 1" for name in names))
    path.write_text(HEAD + body)
    lines = problem_of(path).splitlines()
    assert len(lines) == 101
    assert int(lines[-1].rpartition("… and ")[2].split()[0]) >= 9_900


def test_exclude_is_fast(tmp_path: Path) -> None:
    """20,000 combinations and 4,000 rows of ``exclude`` are matched, the same as one by one."""
    draw = random.Random(7)
    axes = {"a": [f"a{n}" for n in range(200)], "b": [f"b{n}" for n in range(100)]}
    rows = [{name: draw.choice(values) for name, values in axes.items()} for _ in range(4_000)] + [{"a": "a3"}]
    matrix = json.dumps({**axes, "exclude": rows, "include": [{"a": "a5", "c": "x"}, {"b": "b7", "c": "y"}]})
    path = tmp_path / "job.yaml"
    name = 'params: {name: "${a} ${b}"}'
    path.write_text(f"version: 1\nname: j\ntargets:\n  - uuid: {UUID}\n    matrix: {matrix}\n    {name}\n")
    kept = {f"{a} {b}" for a in axes["a"] for b in axes["b"]}
    kept -= {f"{row['a']} {row['b']}" for row in rows if "b" in row}
    kept -= {name for name in kept if name.startswith("a3 ")}
    assert [str(clone.params["name"]) for clone in clones_of(path)] == sorted(
        kept, key=lambda text: [int(word[1:]) for word in text.split()]
    )


def test_include_is_bounded(tmp_path: Path) -> None:
    """Rows of ``include`` that each change every combination are refused above a million changes."""
    matrix = {"a": list(map(str, range(2_000))), "include": [{"x": str(n)} for n in range(501)]}
    path = tmp_path / "job.yaml"
    path.write_text(f"version: 1\nname: j\ntargets:\n  - {{uuid: {UUID}, matrix: {json.dumps(matrix)}}}\n")
    assert "matrix.include: adds values to combinations more than 1,000,000 times" in problem_of(path)
