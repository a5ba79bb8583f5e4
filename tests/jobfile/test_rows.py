"""Rows of targets and rules: no column is lost, no line is miscounted, no blank row is a clone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from batch.errors import JobFileError
from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobfile.conftest import Expand

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
OTHER: Final = "21cb9f654e9d3feab962ce3f5eec5796"
SPELLINGS: Final = (
    *(("Name", "name"), ("NAME", "name"), (" name", "name"), ("name ", "name"), ("Names", "name")),
    *(("params_name", "name"), ("Params.name", "name"), ("PARAMS.NAME", "name"), ("param.name", "name")),
    *(("parameters.name", "name"), ("Parameter.Name", "name"), ("params. name", "name"), ("Param.name", "name")),
    *(("requestcpu", "requestCpu"), ("RequestCpu", "requestCpu"), ("REQUESTCPU", "requestCpu")),
    *(("request_cpu", "requestCpu"), ("request-cpu", "requestCpu"), ("request cpu", "requestCpu")),
    *(("Request CPU", "requestCpu"), ("Params.requestCpu", "requestCpu"), ("params.RequestCpu", "requestCpu")),
    *(("params.request_cpu", "requestCpu"), ("request_cpus", "requestCpu"), ("params.requestCPU", "requestCpu")),
    *(("start_command", "startCommand"), ("Start-Command", "startCommand"), ("START_COMMAND", "startCommand")),
    *(("startcommand", "startCommand"), ("params.start_command", "startCommand")),
    *(("resourceUUID", "resourceUuid"), ("resource_uuid", "resourceUuid"), ("ResourceUuid", "resourceUuid")),
    *(("resource uuid", "resourceUuid"), ("params.resourceUUID", "resourceUuid")),
    *(("Description", "description"), ("descriptions", "description"), ("param.Description", "description")),
    *(("readMe", "readme"), ("READ_ME", "readme"), ("Size", "size"), ("SIZE", "size"), ("params.Size", "size")),
    *(("python_version", "pythonVersion"), ("PythonVersion", "pythonVersion"), ("python-version", "pythonVersion")),
    *(("conda_version", "condaVersion"), ("Type", "type"), ("types", "type"), ("YAML", "yaml"), ("Source", "source")),
    *(("Framework", "framework"), ("frame-work", "framework"), ("request_memory", "requestMemory")),
    *(("RequestMemory", "requestMemory"), ("request memory", "requestMemory"), ("install_path", "installPath")),
    *(("cpu_architectures", "cpuArchitectures"), ("cpuArchitecture", "cpuArchitectures")),
    *(("architecture_images", "architectureImages"), ("support_distributed", "supportDistributed")),
    *(("container_command", "containerCommand"), ("ContainerArgs", "containerArgs"), ("tag_uuids", "tagUuids")),
    *(("GPUComputeCapability", "gpuComputeCapability"), ("System", "system"), ("params.System", "system")),
)
KEYS: Final = (
    *(("UUID", "uuid"), ("Uuid", "uuid"), ("ID", "id"), ("Id", "id"), ("UserTags", "userTags")),
    *(("user_tags", "userTags"), ("usertag", "userTags"), ("system-tags", "systemTags"), ("SystemTag", "systemTags")),
    *(("Params", "params"), ("parameters", "params"), ("param", "params")),
    *(("Owner", "owner"), ("share-with", "share_with"), ("shareWith", "share_with"), ("Keep", "keep")),
)


def problems_of(folder: Path, job: str, **files: str | bytes) -> list[str]:
    for name, text in {"job_yaml": HEAD + job, **files}.items():
        data = text.encode() if isinstance(text, str) else text
        (folder / name.replace("_", ".")).write_bytes(data)
    with pytest.raises(JobFileError) as caught:
        Planning(load(folder / "job.yaml"), run=None, started_at=0.0).draft()
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


def test_there_are_enough_spellings() -> None:
    """At least sixty near misses of parameters are pinned, and those of keys beside them."""
    assert len(dict(SPELLINGS)) >= 60
    assert len(KEYS) >= 16


@pytest.mark.parametrize(("name", "meant"), [*SPELLINGS, *KEYS])
def test_no_near_miss_is_dropped(tmp_path: Path, name: str, meant: str) -> None:
    """A name spelt nearly like a parameter or key is an error, in CSV, JSON Lines and YAML, reported once."""
    from_csv = problems_of(tmp_path, "targets: [{from: r.csv}]\n", r_csv=f"uuid,{name}\n{UUID},4\n{OTHER},5\n")
    assert len([line for line in from_csv if line.startswith("r.csv:1:1: ") and meant in line]) == 1, from_csv
    rows = "".join(json.dumps({"uuid": uuid, name: "4"}) + "\n" for uuid in (UUID, OTHER))
    from_lines = problems_of(tmp_path, "targets: [{from: r.jsonl}]\n", r_jsonl=rows)
    assert from_lines[0].startswith("r.jsonl:1:"), from_lines
    assert meant in from_lines[0]
    if not name.startswith("params."):
        assert len(from_lines) == 1
    key = json.dumps(name)
    for job in (
        f"targets: [{{uuid: {UUID}, {key}: 4}}]\n",
        f"targets: [{{uuid: {UUID}, params: {{{key}: 4}}}}]\n",
        f"targets: [{UUID}]\ndefaults: {{params: {{{key}: 4}}}}\n",
    ):
        (problems,) = problems_of(tmp_path, job)
        assert " unknown " in problems or "beside params" in problems, problems


@pytest.mark.parametrize(
    "name", ["From", "vm_image_uuid", "VmImageUuid", "cpu_architecture", "cpuarchitectures", "TO "]
)
def test_no_column_of_rules_is_dropped(tmp_path: Path, name: str) -> None:
    """A file of image rules with a misspelt column is refused at its header, once, though the cells are empty."""
    job = f"targets: [{UUID}]\nrearchitect: {{to: [AARCH64], file: rules.csv}}\n"
    problems = problems_of(tmp_path, job, rules_csv=f"from,to,{name}\na/,b/,\nc/,d/,\n")
    assert len([line for line in problems if line.startswith("rules.csv:")]) == 1
    assert problems[0].startswith(f"rules.csv:1:1: {name.strip()}: unknown key {name.strip()!r}; did you mean ")


def test_a_column_that_a_template_names_is_a_value(expand: Expand) -> None:
    """A column spelt like a parameter or key is a value if ``${…}`` of entry, defaults or row names it exactly."""
    job = f'{HEAD}targets: [{{from: r.csv, uuid: {UUID}, params: {{name: "${{Name}}-${{Size}}"}}}}]\n'
    (clone,) = expand(job, r_csv="id,Name,Size\nx,chat,7\n")
    assert clone.params == {"name": "chat-7"}
    job = f'{HEAD}defaults: {{userTags: ["${{UUID}}"]}}\ntargets: [{{from: r.csv, uuid: {UUID}}}]\n'
    assert b'"userTags":["u7"]' in expand(job, r_csv="id,UUID\nx,u7\n")[0].body.replace(b" ", b"")
    row = json.dumps({"uuid": UUID, "Name": "n", "params.description": "${Name}"})
    assert expand(f"{HEAD}targets: [{{from: r.jsonl}}]\n", r_jsonl=row)[0].params == {"description": "n"}


@pytest.mark.parametrize("used", ["$${Name}", "${Names}", "Name"])
def test_an_escaped_or_other_name_does_not_count(tmp_path: Path, used: str) -> None:
    """A dollar for the shell, another name or the bare word do not make a column a value."""
    job = f'targets: [{{from: r.csv, params: {{description: "{used}"}}}}]\nvars: {{Names: x}}\n'
    assert "r.csv:1:1: Name: is only a value for ${Name}, which nothing uses; did you mean params.name?" in problems_of(
        tmp_path, job, r_csv=f"uuid,Name\n{UUID},x\n"
    )


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_only_line_breaks_end_lines(tmp_path: Path, char: str) -> None:
    """A cell or JSON text with a separator that no editor shows as a line break shifts no row and no place."""
    job = f"targets: [{{from: r.csv, uuid: {UUID}}}]\n"
    problems = problems_of(tmp_path, job, r_csv=f"id,note\na,x{char}y\nb\n")
    assert problems == ["r.csv:3:1: has 1 cells, the header 2"]
    rows = json.dumps({"uuid": UUID, "note": f"x{char}y"}, ensure_ascii=False) + "\n[]\n"
    problems = problems_of(tmp_path, "targets: [{from: r.jsonl}]\n", r_jsonl=rows)
    assert problems[0].startswith("r.jsonl:2:1: a line must be a JSON object")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_accepts_all_line_ends(tmp_path: Path, end: str) -> None:
    """Rows end at LF, CR or both, places count them, and a quoted cell holds them."""
    table = end.join(["id,note", f'a,"x{end}y"', "", ",", " , ", "b"]) + end
    problems = problems_of(tmp_path, f"targets: [{{from: r.csv, uuid: {UUID}}}]\n", r_csv=table)
    assert problems == ["r.csv:7:1: has 1 cells, the header 2"]
    bad = problems_of(tmp_path, f"targets: [{{from: r.csv, uuid: {UUID}}}]\n", r_csv=table.encode()[:-2] + b"\xff")
    (problem,) = bad
    assert problem.startswith("r.csv:7:1: is not UTF-8: save it as UTF-8, or write its encoding")


def test_a_problem_of_an_entry_names_the_row(tmp_path: Path) -> None:
    """A value of the entry that is wrong for a row is reported with the entry's place and the row's."""
    job = f'targets:\n  - from: r.csv\n    uuid: {UUID}\n    params: {{name: "${{t}}", requestCpu: "${{cpu}}"}}\n'
    problems = problems_of(tmp_path, job, r_csv=f"id,t,cpu\na,,4\nb,{'x' * 256},4\nc,y,four\nd,z,5\n")
    row = f"; in the row at {tmp_path}/r.csv:"
    assert problems == [
        f"job.yaml:6:20: targets[0].params.name: is 256 characters long, the server's column holds 255{row}3",
        f"job.yaml:6:20: targets[0].params.name: must not be empty{row}2",
        f"job.yaml:6:40: targets[0].params.requestCpu: must be a whole number, not the text 'four'{row}4",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", "id,tenant\n"),
        ("r.csv", "id,tenant\n,\n ,\n"),
        ("r.jsonl", ""),
        ("r.jsonl", "\n \n"),
        ("r.ndjson", "\n"),
    ],
)
def test_a_file_without_rows_is_reported(tmp_path: Path, name: str, text: str) -> None:
    """A file of targets without a row is an error that names it, also beside other targets."""
    job = f"targets: [{UUID}, {{from: {name}, uuid: {OTHER}}}]\n"
    (problems,) = problems_of(tmp_path, job, **{name.replace(".", "_"): text})
    assert problems.startswith("job.yaml:3:")
    assert problems.endswith(f"/{name} has no rows: nothing to clone")


def test_a_blank_row_is_no_clone(expand: Expand) -> None:
    """Rows of empty cells are skipped."""
    job = f'{HEAD}targets: [{{from: r.csv, uuid: {UUID}, params: {{name: "${{tenant}}-chat"}}}}]\n'
    found = expand(job, r_csv="id,tenant\n,\na,acme\n  ,  \n\nb,globex\n,\n")
    assert [(clone.key, clone.params["name"]) for clone in found] == [("a", "acme-chat"), ("b", "globex-chat")]


@pytest.mark.parametrize(
    ("name", "text"), [("r_csv", "id,tenant\n,acme\n"), ("r_csv", "tenant\nacme\n"), ("r_jsonl", '{"tenant": "acme"}')]
)
def test_a_row_without_uuid_needs_an_id(tmp_path: Path, name: str, text: str) -> None:
    """A row that takes the entry's source needs its own id."""
    (problems,) = problems_of(
        tmp_path, f"targets: [{{from: {name.replace('_', '.')}, uuid: {UUID}}}]\n", **{name: text}
    )
    assert problems.endswith("has no uuid of its own, so it needs an id")


@pytest.mark.parametrize("row", [f"{UUID},,x", f"{UUID},a,x"])
def test_two_equal_rows_are_reported(tmp_path: Path, row: str) -> None:
    """Two identical rows are two targets with one key."""
    (problems,) = problems_of(tmp_path, "targets: [{from: r.csv}]\n", r_csv=f"uuid,id,note\n{row}\n{row}\n")
    assert problems.startswith("r.csv:3:1: the key ")


@pytest.mark.parametrize("char", ["\\", "$", "`", "'", '"', "\x07", "\x85", "\u2028", "\u202e"])
def test_an_id_is_safe_in_shells(tmp_path: Path, char: str) -> None:
    """An id with a backslash, dollar, backtick, quote or control character is refused in every input."""
    text = json.dumps(f"a{char}b")
    cell = '"' + f"a{char}b".replace('"', '""') + '"'
    for job, files in (
        ("targets: [{from: r.csv}]\n", {"r_csv": f"uuid,id\n{UUID},{cell}\n"}),
        ("targets: [{from: r.jsonl}]\n", {"r_jsonl": f'{{"uuid": "{UUID}", "id": {text}}}\n'}),
        (f"targets: [{{uuid: {UUID}, id: {text}}}]\n", {}),
    ):
        (problems,) = problems_of(tmp_path, job, **files)
        assert "id: must " in problems
