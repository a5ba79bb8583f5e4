"""The JSON Schema and ``validate`` accept the same job files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import jsonschema
import pytest
import yaml

from batch.errors import JobFileError
from batch.jobfile import load
from batch.jobfile.schema import job_schema
from batch.plan import Planning
from tests.jobfile.test_bad_job_files import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
DIGITS: Final = "12345678901234567890123456789012"
SCHEMA: Final = job_schema()
HEAD: Final = "version: 1\nname: j\n"
TARGETS: Final = f"targets: [{UUID}]\n"


class Yaml12(yaml.SafeLoader):
    """Reads booleans as editors do, by YAML 1.2: yes, no, on and off are texts."""


Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def envelope(text: str) -> str:
    return f"{HEAD}{text}\n{TARGETS}"


def param(text: str) -> str:
    return f"{HEAD}targets:\n  - {{uuid: {UUID}, params: {{{text.replace('DIGITS', DIGITS)}}}}}\n"


def target(text: str) -> str:
    filled = text.replace("LETTERS", UUID).replace("DIGITS", DIGITS)
    return f"{HEAD}targets:\n  - {{uuid: {UUID}, {filled}}}\n"


GOOD_VERSIONS: Final = ["1", "'1'"]
GOOD_NAMES: Final = ["2024", "'2024'", "2024-11", "a.b", "1.5"]
GOOD_ENVELOPES: Final = """\
vars:
vars: {}
vars: {a: 1, b: true, c: 1.5, d: }
vars: {租户: 甲}
limits:
endpoint:
defaults:
rearchitect:
run: 2024
run: ~
tag: true
tag: True
tag: 'true'
limits: {rate: 20/s}
limits: {rate: }
limits: {concurrency: 8}
limits: {concurrency: 8.0}
limits: {attempts: '4'}
limits: {max_failures: 5}
limits: {max_failures: 5.0}
limits: {max_failures: '20%'}
limits: {waves: [1, 5.0, 20%, rest]}
limits: {timeout: 45m}
endpoint: {url: 'HTTPS://h:8080/zstack'}
endpoint: {url: 'http://h', insecure: FALSE}
endpoint: {auth: {account: 5, password: {env: ZSTACK_P}}}
resume_within: 0
timezone: Asia/Shanghai
timezone: UTC
timezone:
resume_within: '0'
run: nightly-${date}.${name}
run: 1.5
endpoint: {auth: {session: {env: ZSTACK_S, file: }, account: }}
limits: {rate: 0.05/s}
"""
GOOD_PARAMS: Final = """\
requestCpu: 8
requestCpu: 8.0
requestCpu: ~
requestCpu: '${source.requestCpu}'
system: true
system: True
system: FALSE
pythonVersion: 3.10
pythonVersion: true
name: 5
cpuArchitectures: [AARCH64]
tagUuids: [DIGITS]
type: App
"""
GOOD_TARGETS: Final = """\
id: 1
owner: ~
owner: DIGITS
share_with: LETTERS
share_with: [LETTERS]
share_with: ~
keep: size
keep: [size, system]
systemTags: ~
userTags: [a, 5]
matrix: {a: [1, 1.5, true]}
"""
BAD_VERSIONS: Final = ["2", "'2'", "true", "[1]", "1.5"]
BAD_NAMES: Final = ["a/b", "[a]", "~", "{}", "-5", "''"]
BAD_ENVELOPES: Final = """\
vars: [a]
vars: {a b: c}
vars: {a: [b]}
vars: {1a: c}
limits: []
tag: 5
tag: yes
limits: {rate: 20}
limits: {rate: '20'}
limits: {concurrency: 8.5}
limits: {concurrency: 0}
limits: {concurrency: '0'}
limits: {attempts: 0}
limits: {waves: []}
limits: {waves: [0]}
limits: {max_failures: -1}
limits: {max_failures: many}
limits: {timeout: 45}
run: ''
run: a b
run: -1
run: ${date
limits: {rate: 0.0/s}
endpoint: {auth: {session: {env: ZSTACK_S}, account: a}}
endpoint: {auth: {account: a}}
endpoint: {auth: {session: {}}}
endpoint: {url: 'ftp://h'}
endpoint: {insecure: 1}
resume_within: 5
timezone: 8
timezone: [UTC]
timezone: +08:00
unheard: 1
"""
BAD_PARAMS: Final = """\
requestCpu: 8.5
requestCpu: '8'
requestCpu: -1
requestCpu: true
system: 1
system: 'true'
system: yes
name: ''
name: [a]
name: "a\\x07b"
name: "\\x9b"
name: ' '
cpuArchitectures: [AARCH64, AARCH64]
cpuArchitectures: AARCH64
type: Apps
cpu: 5
yaml: {a: b}
"""
BAD_TARGETS: Final = """\
id: ''
id: [a]
id: ~
owner: 5
share_with: {a: b}
keep: disk
matrix: ~
matrix: {}
matrix: {a: []}
userTags: ['']
userTags: a
delimiter: ';;'
uid: a
"""
BEYOND: Final = {
    *("tag on the file", "targets is an alias", "merge key", "octal integer", "version as 1.0"),
    *("duplicate top key", "duplicate targets", "duplicate key in a target"),
    *("two targets with one key", "an id that is another uuid", "one resourceUuid twice", "waves after the rest"),
    *("architecture without image", "two images of one architecture", "rearchitect vendors twice"),
    *("unknown name", "shell variable", "brace not closed", "expression", "jsonl unknown name in the entry"),
    *("rendered to a wrong type", "owner rendered to no uuid", "from missing file"),
}
"""Bad because of the YAML syntax, other places of the file, the value of ``${…}``, or another file."""
GOOD: Final = [
    *(f"version: {text}\nname: j\n{TARGETS}" for text in GOOD_VERSIONS),
    *(f"version: 1\nname: {text}\n{TARGETS}" for text in GOOD_NAMES),
    *map(envelope, GOOD_ENVELOPES.splitlines()),
    *map(param, GOOD_PARAMS.splitlines()),
    *map(target, GOOD_TARGETS.splitlines()),
    f"{HEAD}targets: [{DIGITS}]\n",
    f"{HEAD}targets: [{{query: name=a}}, {{query: [name=b, type=App]}}]\n",
]
BAD: Final = [
    *(f"version: {text}\nname: j\n{TARGETS}" for text in BAD_VERSIONS),
    *(f"version: 1\nname: {text}\n{TARGETS}" for text in BAD_NAMES),
    *map(envelope, BAD_ENVELOPES.splitlines()),
    *map(param, BAD_PARAMS.splitlines()),
    *map(target, BAD_TARGETS.splitlines()),
    f"{HEAD}targets: [5]\n",
    f"{HEAD}targets: ~\n",
    f"{HEAD}targets: [{{query: name}}]\n",
    f"{HEAD}targets: [{{query: []}}]\n",
    f"{HEAD}targets: [{{query: name=a, id: a}}]\n",
    f"{HEAD}targets: [{{query: name=a, uuid: {UUID}}}]\n",
    f"{HEAD}targets: [{{from: rows.csv, id: a}}]\n",
    f"{HEAD}targets: [{{id: a}}]\n",
    f"{HEAD}targets: [{{from: rows.txt}}]\n",
]


def is_valid(folder: Path, text: str) -> bool:
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    try:
        Planning(load(folder / "job.yaml"), run=None, started_at=0.0).draft()
    except JobFileError:
        return False
    return True


def fits(text: str) -> bool:
    return jsonschema.Draft7Validator(SCHEMA).is_valid(yaml.load(text, Loader=Yaml12))


@pytest.mark.parametrize("text", GOOD)
def test_both_accept_it(tmp_path: Path, text: str) -> None:
    """A value that ``validate`` accepts fits the schema, in every YAML notation."""
    assert (is_valid(tmp_path, text), fits(text)) == (True, True)


@pytest.mark.parametrize("text", BAD)
def test_both_refuse_it(tmp_path: Path, text: str) -> None:
    """A value that ``validate`` refuses does not fit the schema."""
    assert (is_valid(tmp_path, text), fits(text)) == (False, False)


def test_every_bad_file_is_refused_by_both_or_beyond_a_schema() -> None:
    """Of the table of bad job files the schema accepts only those that are bad in ways no schema can express."""
    taken = set()
    for case in CASES:
        try:
            value = yaml.load(case.files["job.yaml"], Loader=Yaml12)
        except (yaml.YAMLError, ValueError):
            continue
        if jsonschema.Draft7Validator(SCHEMA).is_valid(value):
            taken.add(case.name)
    elsewhere = {case.name for case in CASES if not case.problems.startswith("job.yaml:")}
    assert taken - elsewhere == BEYOND


def suggestions(schema: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield each default and example with its schema."""
    if isinstance(schema, dict):
        if "default" in schema and path.rpartition("/")[2] != "properties":
            yield path, schema, schema["default"]
        if isinstance(schema.get("examples"), list):
            yield from ((path, schema, example) for example in schema["examples"])
        for name, inner in schema.items():
            yield from suggestions(inner, f"{path}/{name}")
    elif isinstance(schema, list):
        for inner in schema:
            yield from suggestions(inner, path)


def test_what_editors_insert_is_valid() -> None:
    """Every default and example fits its schema."""
    found = list(suggestions(SCHEMA, ""))
    assert {"10/s", "20/s", 8, False} <= {value for _, _, value in found if isinstance(value, str | int)}
    for path, schema, value in found:
        own = {"definitions": SCHEMA["definitions"], **schema}
        assert jsonschema.Draft7Validator(own).is_valid(value), (path, value)


def test_no_class_name_is_shown() -> None:
    """Names and titles in the schema are those of the job file, and never of our classes."""
    assert not [name for name in SCHEMA["definitions"] if name.endswith("Model")]
    assert "Model" not in {word for word in str(SCHEMA).replace("'", " ").split() if word.endswith("Model")}
