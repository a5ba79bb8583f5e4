"""The user tag of a clone: job, run and key, in the body and not in the digest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from batch import jobfile
from batch.plan import Planning, RunTags, tag_clones

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

UUID = "d76744cb53f9378abf42b907df3efb6e"
JOB = f"""\
version: 1
name: job
tag: true
targets:
  - {{uuid: {UUID}, id: a, userTags: [team::search], systemTags: [s::t]}}
  - {{uuid: {UUID}, id: b}}
"""


def user_tags(body: bytes | str) -> list[str]:
    found: list[str] = json.loads(body).get("userTags", [])
    return found


def test_each_clone_is_tagged_and_keeps_its_digest(tmp_path: Path) -> None:
    """A tag is added after the job's own, and neither digest nor any other part of the plan changes."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    plan = Planning(jobfile.load(tmp_path / "job.yaml"), run="r", started_at=0.0).plan()
    tagged = tag_clones(plan)
    assert [user_tags(clone.body) for clone in tagged.clones()] == [
        ["team::search", "zclone::job::r::a"],
        ["zclone::job::r::b"],
    ]
    assert tagged.digest == plan.digest
    for before, after in zip(plan.clones(), tagged.clones(), strict=True):
        assert after._replace(body=before.body) == before
        assert {**json.loads(after.body), "userTags": 0} == {**json.loads(before.body), "userTags": 0}


@pytest.mark.parametrize("key", ["k" * 2048, "blank at the end ", "\U0001f600"])
def test_a_key_that_no_tag_can_hold_is_hashed(key: str) -> None:
    """A key that is longer than the column, trimmed or outside its character set is hashed, each to another value."""
    tags = RunTags("job", "run")
    tag = tags.of(key)
    assert tag.startswith("zclone::job::run::sha256:")
    assert len(tag) == len(tags.prefix) + len("sha256:") + 64
    assert tags.of(key + "k") != tag
    assert (tags.key_of(tag), tags.key_of(tags.of("sha256:a"))) == (None, "sha256:a")


def test_tags_of_one_run_do_not_match_another() -> None:
    """What begins like the tags of a run is of that run, also if its name begins like another's."""
    assert RunTags("job", "r").of("1::x").startswith(RunTags("job", "r").prefix)
    assert not RunTags("job", "r1").of("x").startswith(RunTags("job", "r").prefix)


def ledger_tags(folder: Path) -> list[list[str]]:
    (state,) = folder.glob("*.node.jsonl")
    events: list[dict[str, Any]] = [json.loads(line) for line in state.read_text(encoding="utf-8").splitlines()]
    return [event["g"] for event in events if event["e"] == "clone"]


@pytest.mark.parametrize(
    ("in_file", "flag", "is_tagged"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_run_tags_as_it_began(tmp_path: Path, zclone: Run, *, in_file: bool, flag: bool, is_tagged: bool) -> None:
    """`tag: true` or `--tag` at the first start tags every clone; later neither changes the run."""
    job = (JOB if in_file else JOB.replace("tag: true\n", "")).replace(", systemTags: [s::t]", "")
    (tmp_path / "job.yaml").write_text(job, encoding="utf-8")
    first = zclone("run", "job.yaml", "--simulate", "--rate", "100/s", *(["--tag"] if flag else []))
    assert first.returncode == 0, first.stderr
    added = f"  - {{uuid: {UUID}, id: c}}\n"
    changed = job.replace("tag: true\n", "") if is_tagged else job.replace("targets:", "tag: true\ntargets:")
    (tmp_path / "job.yaml").write_text(changed + added, encoding="utf-8")
    again = zclone("run", "job.yaml", "--simulate", "--rate", "100/s", *([] if is_tagged else ["--tag"]))
    assert again.returncode == 0, again.stderr
    assert ("--tag: this run began without tags" in again.stderr) is not is_tagged
    found = {tag for tags in ledger_tags(tmp_path) for tag in tags}
    ours = {f"zclone::job::default::{key}" for key in "abc"}
    assert found == {"team::search"} | (ours if is_tagged else set())


def test_a_plan_shows_the_tags_that_are_sent(tmp_path: Path, zclone: Run) -> None:
    """`plan -o json` and `-o curl` show bodies with the tag if the job file wants one."""
    (tmp_path / "job.yaml").write_text(JOB, encoding="utf-8")
    shown = json.loads(zclone("plan", "job.yaml", "-o", "json").stdout)
    assert [clone["body"]["userTags"][-1] for clone in shown["clones"]] == [
        "zclone::job::default::a",
        "zclone::job::default::b",
    ]
    curl = zclone("plan", "job.yaml", "-o", "curl").stdout
    assert "zclone::job::default::b" in curl
