"""The loader reads what a job file says, and no content of a file can harm it."""

from __future__ import annotations

import json
import math
import re
import resource
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batch.errors import JobFileError
from batch.jobfile import SecretRef, load
from batch.jobfile.values import read_duration, read_max_failures, read_rate
from batch.model import Limits
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobfile.conftest import Expand

HEAD: Final = "version: 1\nname: j\n"
UUID: Final = "d76744cb53f9378abf42b907df3efb6e"
FRESH: Final = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def problems_of(path: Path) -> str:
    with pytest.raises(JobFileError) as caught:
        Planning(load(path), run=None, started_at=0.0).draft()
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["3.10", "7.5", "no", "yes", "on", "1e3", "0x1F", "0o17", "010", "1_000", "12:30:45", "2026-11-23", ".nan", "TRUE"],
)
def test_text_parameters_keep_the_text_as_written(expand: Expand, text: str) -> None:
    """A String parameter is the YAML text, whatever YAML would make of it."""
    (clone,) = expand(f"{HEAD}targets:\n  - uuid: {UUID}\n    params: {{pythonVersion: {text}}}\n")
    assert clone.params == {"pythonVersion": text}


@FRESH
@given(st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,3}){0,3}", fullmatch=True), st.uuids())
@example("3.10", uuid.UUID(int=int("12345678901234567890123456789012", 16)))
@example("0e1", uuid.UUID(int=0))
def test_version_and_uuid_like_texts_survive(expand: Expand, version: str, source: uuid.UUID) -> None:
    """Any version or uuid comes out digit by digit, unquoted as it stands."""
    (clone,) = expand(f"{HEAD}targets:\n  - uuid: {source.hex}\n    params: {{pythonVersion: {version}}}\n")
    assert (clone.source_uuid, clone.params["pythonVersion"]) == (source.hex, version)


def test_numbers_and_booleans_have_their_types(expand: Expand) -> None:
    """Integer, Long and Boolean parameters are read from unquoted texts."""
    (clone,) = expand(
        f"{HEAD}targets:\n  - uuid: {UUID}\n    params: {{requestCpu: 2147483647, "
        "size: 9223372036854775807, system: false}\n"
    )
    assert clone.params == {"requestCpu": 2**31 - 1, "size": 2**63 - 1, "system": False}


def test_json_is_a_job_file(expand: Expand) -> None:
    """A job file may be written in JSON, since JSON is YAML."""
    (clone,) = expand(json.dumps({"version": 1, "name": "j", "targets": [{"uuid": UUID, "params": {"requestCpu": 4}}]}))
    assert clone.params == {"requestCpu": 4}


def test_the_order_of_sections_does_not_matter(expand: Expand) -> None:
    """Defaults and vars after the targets work as those before."""
    late = f"targets:\n  - {UUID}\nversion: 1\nvars: {{a: b}}\ndefaults: {{params: {{name: '${{a}}'}}}}\nname: j\n"
    assert expand(late)[0].params == {"name": "b"}


def test_anchors_are_shared_between_targets(expand: Expand) -> None:
    """An anchored value can be reused by its alias, across sections too."""
    text = (
        f"{HEAD}defaults: {{params: &p {{requestCpu: 2}}}}\ntargets:\n"
        f"  - uuid: {UUID}\n    params: *p\n  - uuid: 21cb9f654e9d3feab962ce3f5eec5796\n    params: *p\n"
    )
    assert [clone.params for clone in expand(text)] == [{"requestCpu": 2}] * 2


def test_limits_and_endpoint_are_read(tmp_path: Path) -> None:
    """The envelope's values arrive in units: calls per second, seconds, shares; paths count from the file's folder."""
    path = tmp_path / "job.yaml"
    path.write_text(
        f"{HEAD}limits: {{rate: 600/min, timeout: 1h30m, deadline: 2h, max_failures: 20%, "
        "concurrency: 3, attempts: 2}\n"
        "endpoint: {url: 'https://z:8080/zstack/', ca_file: ca.pem, insecure: false, auth: {account: admin, "
        f"password: {{file: secret}}}}}}\ntargets: [{UUID}]\n"
    )
    job = load(path)
    assert job.limits == Limits(10.0, 3, 2, 5400.0, 7200.0, 0.2)
    assert job.endpoint is not None
    assert (job.endpoint.url, job.endpoint.ca_file) == ("https://z:8080/zstack", tmp_path / "ca.pem")
    assert job.endpoint.auth is not None
    assert (job.endpoint.auth.account, job.endpoint.auth.password) == ("admin", SecretRef(file=tmp_path / "secret"))


def test_a_section_of_comments_counts_as_absent(tmp_path: Path) -> None:
    """An empty section means its default."""
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}limits:\n  # rate: 1/s\nendpoint:\ndefaults:\nvars:\ntargets: [{UUID}]\n")
    assert load(path).limits == Limits()


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (read_rate, "20/s", 20.0),
        (read_rate, "90/min", 1.5),
        (read_rate, "0.5/s", 0.5),
        (read_duration, "1d", 86400.0),
        (read_duration, "2m30s", 150.0),
        (read_max_failures, "7", 7.0),
        (read_max_failures, "0", 0.0),
        (read_max_failures, "2.5%", 0.025),
        (read_max_failures, "100%", math.inf),
    ],
)
def test_units(reader: object, text: str, value: float | None) -> None:
    """Rates are calls per second, durations seconds, and 100 % is a limit that nothing exceeds."""
    assert callable(reader)
    assert reader(text) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xef\xbb\xbfversion: 1\n", "1:1: starts with a byte order mark: save it as UTF-8 without BOM"),
        ("version: 1\n".encode("utf-16"), "1:1: is UTF-16 or UTF-32: save it as UTF-8"),
        (b"version: 1\nname: a\0b\n", "2:8: has a NUL byte: it is not a text file, or UTF-16"),
        (b"version: 1\nname: caf\xe9\n", "2:10: is not UTF-8: save it as UTF-8"),
        (b"version: 1\nname: a\x07b\n", "2:8: not YAML: "),
    ],
)
def test_invalid_bytes_are_reported(tmp_path: Path, data: bytes, message: str) -> None:
    """Bytes that are not UTF-8 text are refused with their place and the remedy."""
    path = tmp_path / "job.yaml"
    path.write_bytes(data)
    assert problems_of(path).startswith(f"{path}:{message}")


def test_16_mib_without_a_target_are_refused(tmp_path: Path) -> None:
    """The text outside targets, and each target, has at most 16 MiB; the place is that of the last target before."""
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * (16 * 1024 * 1024 + 1))
    cure = "no target ends in the next 16 MiB: move the targets to a JSON Lines or CSV file"
    assert problems_of(path).startswith(f"{path}:1:1: {cure}")
    path.write_bytes(f"{HEAD}targets:\n  - {UUID}\n  - id: ".encode() + b"x" * 17_000_000)
    assert problems_of(path).startswith(f"{path}:4:5: {cure}")


def test_anchors_of_targets_are_kept_up_to_16_mib(tmp_path: Path) -> None:
    """Targets with anchors cannot fill the memory: together they have at most 16 MiB."""
    path = tmp_path / "job.yaml"
    rows = [f"  - {{uuid: {number:032x}, params: &p{number} {{yaml: {'x' * 1_000_000}}}}}\n" for number in range(18)]
    path.write_text(HEAD + "targets:\n" + "".join(rows))
    assert "21:5: targets with anchors, which are kept in memory, are larger than 16 MiB" in problems_of(path)


def test_a_pipe_above_16_mib_is_refused(tmp_path: Path) -> None:
    """A job file that is not a regular file is read once, so it has at most 16 MiB."""
    path = tmp_path / "job.yaml"
    path.symlink_to("/dev/zero")
    assert "larger than 16 MiB, and no file that can be read twice: move the targets" in problems_of(path)


def test_a_list_above_20000_targets_is_warned_of(tmp_path: Path) -> None:
    """A YAML list of 20,000 targets is accepted silently, a longer one with a warning that has its place and count."""
    path = tmp_path / "job.yaml"
    rows = [f"  - {number:032x}\n" for number in range(20_001)]
    path.write_text(f"{HEAD}targets:\n{''.join(rows[:-1])}")
    assert Planning(load(path), run=None, started_at=0.0).plan().warnings == ()
    path.write_text(f"{HEAD}targets:\n{''.join(rows)}")
    found = Planning(load(path), run=None, started_at=0.0).plan()
    assert found.count == sum(1 for _ in found.clones()) == 20_001
    (warning,) = map(str, found.warnings)
    assert warning.startswith(
        f"{path}:3:1: targets: warning: 20,001 targets in one YAML list: a JSON Lines or CSV file"
    )


IN_LITTLE_MEMORY: Final = """
import resource, sys
from pathlib import Path
from batch.jobfile import load
from batch.plan import Planning

resource.setrlimit(resource.RLIMIT_DATA, (70 << 20, 70 << 20))
found = Planning(load(Path(sys.argv[1])), run=None, started_at=0.0).plan()
print(found.count, sum(1 for _ in found.clones()))
"""


def test_a_large_file_is_not_kept_in_memory(tmp_path: Path) -> None:
    """A list that is larger than the memory allowed is planned: the file is streamed for every pass."""
    path = tmp_path / "job.yaml"
    rows = (f"  - {{uuid: '{number:032x}', params: {{yaml: {'x' * 100_000}}}}}\n" for number in range(800))
    with path.open("w") as stream:
        stream.write(f"{HEAD}targets:\n")
        stream.writelines(rows)
    done = subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "800 800\n"), done.stderr


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            "  - {uuid: x}\n",
            "304:12: targets[300].uuid: must be a uuid of 32 letters and digits without dashes, not 'x'",
        ),
        ("  - a\x07b\n", "304:6: not YAML: "),
        ("  - caf\udce9\n", "304:8: is not UTF-8: save it as UTF-8"),
        ("  - ü\0\n", "304:6: has a NUL byte: it is not a text file, or UTF-16"),
        ("  - [\n", "305:1: not YAML: "),
        ("name: k\n", "304:1: duplicate key 'name': first on line 2, again on line 304"),
        ("limits: {rate: x}\n", "304:16: limits.rate: must be calls per time"),
    ],
)
def test_places_are_exact_in_a_streamed_file(tmp_path: Path, last: str, message: str) -> None:
    """In a file of more than 16 MiB every problem has the line and column that it would have in a small one."""
    path = tmp_path / "job.yaml"
    rows = "".join(f"  - {{uuid: '{number:032x}', params: {{readme: {'x' * 60_000}}}}}\n" for number in range(300))
    path.write_bytes(f"{HEAD}targets:\n{rows}{last}".encode(errors="surrogateescape"))
    assert path.stat().st_size > 16 * 1024 * 1024
    assert f"{path}:{message}" in problems_of(path)


def test_sections_after_a_very_long_line_are_read(expand: Expand) -> None:
    """Targets and the names of files count at any place of a line of megabytes, as does what follows it."""
    rows = ", ".join(f"{{uuid: '{number:032x}', params: {{readme: {'x' * 4_000}}}}}" for number in range(650))
    found = expand(f"version: 1\ntargets: [{rows}, {{from: rows.jsonl}}]\nname: late\n", rows_jsonl=f'"{UUID}"')
    assert (len(found), found[-1].source_uuid) == (651, UUID)


def test_a_streamed_file_changed_during_a_run_is_refused(tmp_path: Path) -> None:
    """A large job file that differs from what was checked is refused before any of it is used."""
    path = tmp_path / "job.yaml"
    rows = (f"  - {{uuid: '{number:032x}', params: {{yaml: {'x' * 100_000}}}}}\n" for number in range(170))
    path.write_text(f"{HEAD}targets:\n" + "".join(rows))
    found = Planning(load(path), run=None, started_at=0.0).plan()
    with path.open("a") as stream:
        stream.write(f"  - {UUID}\n")
    with pytest.raises(JobFileError, match=r"job\.yaml:1:1: was changed while the run was reading it"):
        next(found.clones())


def test_at_most_a_hundred_problems_are_printed(tmp_path: Path) -> None:
    """The list of problems ends with how many more there are."""
    path = tmp_path / "job.yaml"
    path.write_text(HEAD + "targets:\n" + "  - x\n" * 5000)
    lines = problems_of(path).splitlines()
    assert (len(lines), lines[-1].rpartition(": ")[2]) == (101, "… and 4900 more")


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """A missing job file, or a folder in its place, is refused by name."""
    missing = "missing.yaml:1:1: cannot be read: No such file or directory"
    assert f"{missing}; `zclone init FILE` writes a job file" in problems_of(tmp_path / "missing.yaml")
    (tmp_path / "mising.yml").touch()
    assert f"{missing}; did you mean {tmp_path / 'mising.yml'}?" in problems_of(tmp_path / "missing.yaml")
    assert "cannot be read: Is a directory; name a job file in it" in problems_of(tmp_path)


def test_a_tab_is_reported(tmp_path: Path) -> None:
    """A line indented with a tab is refused with what to write instead."""
    path = tmp_path / "job.yaml"
    path.write_text(HEAD + "defaults:\n\tparams: {requestCpu: 8}\n")
    assert "indent with spaces, not with tabs" in problems_of(path)


BOMB: Final = "a: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
LADDER: Final = "a: &a0 [x]\n" + "".join(f"b{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "aliases expand to more than 1,000,000 values"),
        (LADDER, "nested deeper than 32 levels"),
        ("a: " + "[" * 500_000, "nested deeper than 32 levels"),
        ("targets:\n  - " + "{a: " * 100_000, "nested deeper than 32 levels"),
        ("a: " + "[" * 1_002 + "]" * 1_002, "1:35: nested deeper than 32 levels"),
        ("a:\n- " + "{a: " * 1_002, "2:123: nested deeper than 32 levels"),
        ("ü: " + "[" * 32, "1:35: nested deeper than 32 levels"),
        ("ü: " + "[" * 31, "not YAML: "),
        ("? " * 50_000, "a key must be a text"),
        ("a: " + "- " * 100_000, "not YAML: "),
        ("&a [*a]: b", "a key must be a text"),
    ],
    ids=[
        "bomb",
        "ladder",
        "lists",
        "maps",
        "flow lists",
        "flow maps",
        "one too deep",
        "as deep as may be",
        "keys",
        "dashes",
        "cycle",
    ],
)
def test_bombs_are_refused_within_limits(tmp_path: Path, text: str, message: str) -> None:
    """Bombs and deep nesting end with exit 2, within seconds and 300 MiB, and never with a signal."""
    path = tmp_path / "job.yaml"
    path.write_text(text)
    script = (
        "import sys, pathlib\nfrom batch.errors import UsageError\nfrom batch.jobfile import load\n"
        "try:\n    load(pathlib.Path(sys.argv[1]))\nexcept UsageError as error:\n    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=90,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20)),
    )
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr[-500:]


@pytest.mark.parametrize("depth", [31, 500, 900, 970, 1_002, 200_000])
def test_deep_rows_are_refused(tmp_path: Path, depth: int) -> None:
    """A row of JSON Lines may nest as deep as the job file, and is refused in the same words beyond, however deep."""
    path = tmp_path / "job.yaml"
    path.write_text(f"{HEAD}targets: [{{from: rows.jsonl}}]\n")
    row = f'{{"uuid": "{UUID}", "params": {{"tagUuids": {"[" * depth}{"]" * depth}}}}}\n'
    (tmp_path / "rows.jsonl").write_text(row)
    assert problems_of(path) == f"{tmp_path}/rows.jsonl:1:1: nested deeper than 32 levels"
    shallow = row.replace("[" * depth, "[" * 30).replace("]" * depth, "]" * 30)
    (tmp_path / "rows.jsonl").write_text(shallow)
    assert ": params.tagUuids[0]: must be a uuid" in problems_of(path)


PIECES: Final = st.sampled_from(
    [
        *["version: 1", "name: j", "targets:", "- ", "  ", "\n", UUID, "uuid: ", "params: ", "{", "}", "[", "]", ":"],
        *[",", "'", '"', "&a ", "*a", "!!int ", "|", ">", "#", "---", "...", "? ", "<<: ", "null", "${", "$$", "\t"],
        *["é", "\x85", "matrix: ", "from: ", "limits: ", "rate: ", "defaults: ", "requestCpu: ", "x.csv", "vars: "],
        *[
            "query: ",
            "keep: ",
            "rearchitect: ",
            "vendors: ",
            "images: ",
            "to: ",
            "specUuids: ",
            "${source.name}",
            "a=b",
        ],
    ]
)


def check_fuzzed(path: Path, data: bytes) -> None:
    """Check that any bytes give a plan or problems with places."""
    path.write_bytes(data)
    try:
        clones = list(Planning(load(path), run=None, started_at=0.0).draft().plan.clones())
    except JobFileError as error:
        assert all(re.match(r".+:\d+:\d+: ", line) for line in str(error).splitlines())  # noqa: PT017 - both ends are fine
    else:
        assert all(len(clone.source_uuid) == 32 for clone in clones)


WHOLE: Final = f"""version: 1
name: j
run: n-${{date}}
vars: {{a: b}}
limits: {{rate: 20/s, concurrency: 4, max_failures: 20%, timeout: 45m}}
endpoint: {{url: "https://z:8080", auth: {{account: admin, password: {{env: ZSTACK_PASSWORD}}}}}}
defaults: {{params: {{type: App, cpuArchitectures: [AARCH64]}}, userTags: ["${{a}}"], keep: [size]}}
targets:
  - {UUID}
  - {{uuid: {UUID}, id: x, params: {{name: "${{source.name}}-${{a}}", requestCpu: 4, description: null}}}}
  - uuid: {UUID}
    matrix: {{t: [a, b], exclude: [{{t: a}}], include: [{{t: c}}]}}
    params: {{architectureImages: [{{cpuArchitecture: AARCH64, dockerImage: "r/${{t}}"}}]}}
  - query: ["type=Endpoint", "name~=${{a}}%"]
rearchitect:
  to: [AARCH64]
  images: [{{from: a/, to: b/, vmImageUuid: {UUID}}}]
  vendors: [{{from: NVIDIA, to: Huawei, specUuids: [{UUID}]}}]
"""
EDITS: Final = st.lists(
    st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 12), st.one_of(PIECES, st.just(""), st.text(max_size=4))),
    max_size=5,
)


def edited(edits: list[tuple[int, int, str]]) -> bytes:
    """Replace some characters of a whole job file by texts."""
    text = WHOLE
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    return text.encode(errors="surrogatepass")


def test_the_fuzzed_job_is_complete(tmp_path: Path) -> None:
    """The job that the fuzzed files are edits of has every section and is planned."""
    path = tmp_path / "job.yaml"
    path.write_bytes(edited([]))
    assert Planning(load(path), run=None, started_at=0.0).draft().plan.count == 5


FUZZED: Final = st.one_of(
    EDITS.map(edited),
    st.binary(max_size=200),
    st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")),
    st.lists(PIECES, max_size=40).map(lambda parts: "".join(parts).encode()),
    st.lists(PIECES, max_size=20).map(lambda parts: (HEAD + "targets:\n  - " + "".join(parts)).encode()),
)


@settings(FRESH, max_examples=200)
@given(FUZZED)
def test_no_bytes_crash_the_loader(tmp_path: Path, data: bytes) -> None:
    """Fuzzed files give a plan or problems, never another error."""
    check_fuzzed(tmp_path / "job.yaml", data)


@pytest.mark.slow
@settings(FRESH, max_examples=20_000)
@given(FUZZED)
def test_twenty_thousand_fuzzed_files(tmp_path: Path, data: bytes) -> None:
    """Fuzzed files give a plan or problems, at length."""
    check_fuzzed(tmp_path / "job.yaml", data)
