"""The example jobs, the reference beside them, the schema and what ``init`` writes agree with the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import yaml

from batch.cli.app import run_command
from batch.jobfile import load
from batch.jobfile.check import MULTI_LINE
from batch.jobfile.schema import job_schema
from batch.jobfile.targets import TARGET_KEYS
from batch.plan import Planning
from batch.zstack.params import PARAMS, Param
from tests.jobfile.test_bad_job_files import CASES, Case

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS: Final = Path(__file__).resolve().parents[2] / "jobs"
EXAMPLES: Final = sorted(JOBS.glob("*.yaml"))
NAMES: Final = {"quickstart.yaml", "migrate-arm64.yaml", "nightly.yaml", "onboard-tenants.yaml"}
MODELINE: Final = "# yaml-language-server: $schema=./job.schema.json\n"
SCHEMA: Final = job_schema()
ONLY_THE_LOADER: Final = {
    # What a schema cannot express: identity, texts after rendering, files, bytes, and places.
    "duplicate top key", "duplicate targets", "duplicate key in a target", "two targets with one key",
    "an id that is another uuid", "one resourceUuid twice", "unknown name in run", "run with a slash",
    "waves after the rest", "owner rendered to no uuid",
    "unknown name", "shell variable", "brace not closed", "expression", "rendered to a wrong type",
    "architecture without image", "validation only tag", "from missing file",
    "rate zero", "secret both ways", "two ways to log in",
    "control character", "C1 control character", "line break in a name",
    "architecture twice", "rearchitect vendors twice",
    "merge key", "target without uuid", "from with id", "matrix with problems",
    # YAML 1.1 of the editor's own parser reads these as the types of the schema.
    "boolean yes", "insecure yes", "octal integer", "name is empty", "version as 1.0", "tag on the file",
    "targets is an alias",
}  # fmt: skip


def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(SCHEMA)


def errors(text: str) -> list[Any]:
    return list(validator().iter_errors(yaml.safe_load(text)))


def test_the_examples_are_there() -> None:
    """The four jobs of the README are the examples, and no other."""
    assert {path.name for path in EXAMPLES} == NAMES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_plan_and_fit_the_schema(path: Path) -> None:
    """Every example names the schema in its first line, fits it, and plans without a server."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith(MODELINE)
    assert errors(text) == []
    assert Planning(load(path), run=None, started_at=0.0).plan().count >= 3


def test_quickstart_holds_the_body_of_the_api_page() -> None:
    """The API page's example body is among the quickstart's clones, parameter for parameter."""
    found = Planning(load(JOBS / "quickstart.yaml"), run=None, started_at=0.0).plan()
    (clone,) = (clone for clone in found.clones() if clone.key == "api-page-example")
    image = "registry.example.com/{}/myimage:latest"
    assert clone.source_uuid == "d76744cb53f9378abf42b907df3efb6e"
    assert clone.params == {
        "name": "example",
        "description": "This is an example description.",
        "size": 0,
        "gpuComputeCapability": "7.5",
        "startCommand": "python start.py",
        "pythonVersion": "3.8",
        "system": False,
        "type": "Endpoint",
        "yaml": "example-yaml-configuration",
        "framework": "HuggingFace",
        "requestCpu": 4,
        "requestMemory": 8192,
        "cpuArchitectures": ["X86_64", "AARCH64"],
        "architectureImages": [
            {
                "cpuArchitecture": "X86_64",
                "vmImageUuid": "21cb9f654e9d3feab962ce3f5eec5796",
                "dockerImage": image.format("x86_64"),
            },
            {
                "cpuArchitecture": "AARCH64",
                "vmImageUuid": "1d919fda666b3bdcb5f4925f1cf17c71",
                "dockerImage": image.format("aarch64"),
            },
        ],
    }
    assert 10 <= found.count <= 15


@pytest.mark.parametrize("arguments", [[], *(["--example", name] for name in ("migrate", "nightly", "tenants"))])
def test_what_init_writes_is_valid(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``zclone init`` writes plans as it stands, fits the schema, and names the one beside it."""
    monkeypatch.chdir(tmp_path)
    assert run_command(["init", *arguments]) == 0
    (path,) = Path().glob("*.yaml")
    text = path.read_text(encoding="utf-8")
    assert text.startswith(MODELINE)
    assert json.loads(Path("job.schema.json").read_text(encoding="utf-8")) == SCHEMA
    assert errors(text) == []
    assert Planning(load(path), run=None, started_at=0.0).plan().count >= 2


def test_an_example_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written to the given place, with its input files; an existing file exits with 2 before any is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new").mkdir()
    assert run_command(["init", "new/mine.yaml", "--example", "tenants"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["job.schema.json", "mine.yaml", "tenants.csv"]
    assert "next: zclone validate new/mine.yaml" in capsys.readouterr().err
    assert run_command(["validate", "new/mine.yaml"]) == 0
    (tmp_path / "tenants.csv").write_text("mine", encoding="utf-8")
    assert run_command(["init", "--example", "tenants"]) == 2
    assert "tenants.csv: File exists" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "tenants.csv"]


def test_the_schema_is_draft_7_and_up_to_date() -> None:
    """jobs/job.schema.json is the generated schema, and a schema."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert json.loads((JOBS / "job.schema.json").read_text(encoding="utf-8")) == SCHEMA


def test_every_parameter_shows_in_editors() -> None:
    """The schema knows every parameter of the body with type and since-version in its description."""
    properties = SCHEMA["definitions"]["params"]["properties"]
    assert set(properties) == {name for name, row in PARAMS.items() if row.in_params}
    assert all(f"({PARAMS[name].type}, since 5." in row["description"] for name, row in properties.items())


def undescribed(schema: Any, path: str) -> Iterator[str]:
    if isinstance(schema, dict):
        # A mere condition on keys has no type of its own.
        keys = schema.get("properties", {}) if "type" in schema else {}
        found = {name: value for name, value in keys.items() if isinstance(value, dict)}
        for name, value in found.items():
            referred = SCHEMA["definitions"].get(value.get("$ref", "").rpartition("/")[2], {})
            if "description" not in {**referred, **value}:
                yield f"{path}.{name}"
        for name, value in schema.items():
            yield from undescribed(value, f"{path}/{name}")
    elif isinstance(schema, list):
        for value in schema:
            yield from undescribed(value, path)


def test_every_key_has_a_hover_text() -> None:
    """An editor explains every key of a job file, not only the parameters."""
    assert list(undescribed(SCHEMA, "")) == []


BAD: Final = [case for case in CASES if len(case.files) == 1 and case.name not in ONLY_THE_LOADER]


def is_yaml(case: Case) -> bool:
    try:
        return isinstance(yaml.safe_load(case.files["job.yaml"]), dict)
    except yaml.YAMLError:
        return False


@pytest.mark.parametrize("case", [case for case in BAD if is_yaml(case)], ids=lambda case: case.name)
def test_the_schema_refuses_what_the_loader_refuses(case: Case) -> None:
    """An editor with the schema marks the golden table's files, except for what no schema can express."""
    assert errors(case.files["job.yaml"])


def test_templates_fit_the_schema_everywhere() -> None:
    """A ${…} may stand for any value, and a version may look like a number."""
    job = {
        "version": 1,
        "name": "j",
        "targets": [{"uuid": "a" * 32, "params": {"requestCpu": "${cpu}", "system": "${s}", "pythonVersion": 3.1}}],
    }
    assert list(validator().iter_errors(job)) == []


def row_of(param: Param) -> str:
    notes = [f"one of {', '.join(param.choices)}"] if param.choices else []
    if param.max_bytes:
        notes.append(f"at most {param.max_bytes:,} {'bytes' if param.max_bytes >= 65535 else 'characters'}")
    if param.name in MULTI_LINE:
        notes.append("may have line breaks")
    place = "" if param.in_params else " (beside `params`)"
    since = ".".join(map(str, param.since))
    return f"| `{param.name}`{place} | {param.type} | {since} | {'; '.join([param.description, *notes])} |"


def test_the_reference_lists_every_parameter() -> None:
    """jobs/README.md has the complete table of parameters, row by row as the parameter table says."""
    lines = (JOBS / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `") and "| 5." in line] == [
        row_of(row) for row in PARAMS.values()
    ]


def test_the_reference_names_every_key() -> None:
    """jobs/README.md names every key of a job file."""
    text = (JOBS / "README.md").read_text(encoding="utf-8")
    keys = {
        *SCHEMA["properties"],
        *TARGET_KEYS,
        *SCHEMA["definitions"]["limits"]["properties"],
        "ca_file",
        "insecure",
    }
    assert {key for key in keys if f"`{key}" not in text} == set()
