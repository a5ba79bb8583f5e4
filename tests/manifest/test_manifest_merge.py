"""The manifests of shards become one: matching parts are merged, anything else is refused by name."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator

from batch.errors import EndReason, ManifestError, ManifestLockedError, ManifestMismatchError, UsageError
from batch.manifest import Header, open_manifest, rows, story, summary
from batch.manifest.fold import ManifestFold
from batch.manifest.kinds import AdoptedLine, MergedLine, PlanLine, RemoteEngine
from batch.manifest.merge import merge
from batch.manifest.repair import repair_manifest
from batch.manifest.schema import manifest_schema
from batch.manifest.targets import open_targets
from batch.model import HandOverCounts, Pins, Plan, State
from batch.report.data import read_report_data
from batch.report.write import ENDINGS, write_report
from tests.manifest.manifest_world import HEADER, cloned, failed, inline, scan, sent

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from batch.manifest import Manifest

    Run = Callable[..., subprocess.CompletedProcess[str]]

WHOLE = "ee"


def part(number: int, of: int, keys: list[str], whole: str = WHOLE) -> Plan:
    return Plan("job", "run", f"d{number}", len(keys), lambda: iter(()), shard=f"{number}/{of}", whole=whole)


async def begin(path: Path, plan: Plan, keys: Iterable[str], header: Header = HEADER) -> Manifest:
    manifest = open_manifest(path, header, in_thread=inline, clock=lambda: 1_000.0)
    await manifest.write_plan(plan, ((key, f"source-{key}") for key in keys))
    return manifest


async def shard(folder: Path, number: int, of: int = 3, **changes: Any) -> Path:
    """Write a finished shard of four targets, the second of which failed."""
    keys = changes.get("keys", [f"t{number}-{index}" for index in range(4)])
    path = folder / f"{number}.manifest.jsonl"
    plan = part(number, of, keys, changes.get("whole", WHOLE))
    manifest = await begin(path, plan, keys, changes.get("header", HEADER))
    for index, key in enumerate(keys):
        await manifest.commit(sent(key))
        manifest.note(failed(key) if index == 1 else cloned(key))
    await manifest.close(3 if len(keys) > 1 else 0)
    return path


async def test_all_shards_become_one_manifest(tmp_path: Path) -> None:
    """The new file has a new chain, every target, the whole plan's digest, and each shard with its last checksum."""
    paths = [await shard(tmp_path, number) for number in range(3)]
    before = [path.read_bytes() for path in paths]
    found = merge([paths[2], paths[0], paths[1]], tmp_path / "all", tool="zclone test", clock=lambda: 2_000.0)
    assert found.counts == Counter({State.CLONED: 9, State.FAILED: 3})
    assert [path.read_bytes() for path in paths] == before
    lines = list(scan(tmp_path / "all"))
    assert [line for line in lines if isinstance(line, MergedLine)] == [
        MergedLine(
            str(path), f"{number}/3", len(text.splitlines()), json.loads(text.splitlines()[-1])["crc"], at=2_000.0
        )
        for number, (path, text) in enumerate(zip(paths, before, strict=True))
    ]
    assert [line for line in lines if isinstance(line, PlanLine)] == [PlanLine(WHOLE, "", 12, 1_000.0)]
    for text in (tmp_path / "all").read_text(encoding="utf-8").splitlines():
        Draft7Validator(manifest_schema()).validate(json.loads(text))
    with open_targets(tmp_path / "all") as whole, open_targets(paths[0]) as one:
        assert (whole.is_merged, len(whole), one.is_merged) == (True, 12, False)


async def test_every_reading_command_takes_a_merged_manifest(tmp_path: Path) -> None:
    """Counts, list, history, reports and the fold of a merged manifest are those of its shards together."""
    paths = [await shard(tmp_path, number) for number in range(3)]
    out = tmp_path / "all"
    merge(paths, out, tool="zclone test")
    whole = summary(out)
    assert whole.counts == sum((summary(path).counts for path in paths), Counter())
    assert whole.ended is not None
    assert (whole.ended.exit_code, whole.ended.counts) == (3, whole.counts)
    assert list(rows(out)) == [row for path in paths for row in rows(path)]
    history = story(out, "t1-1")
    assert history is not None
    assert [record.state for record in history.records] == [State.SENT, State.FAILED]
    assert len(read_report_data(out).targets) == 12
    for ending in ENDINGS:
        write_report(out, tmp_path / f"report{ending}", at=3_000.0)
        assert (tmp_path / f"report{ending}").stat().st_size
    assert repair_manifest(out, tmp_path / "again").damaged == 0


async def test_a_run_resumes_with_a_merged_manifest(tmp_path: Path) -> None:
    """What was in flight in a killed shard is open in the merged manifest, which has no end either."""
    first = await shard(tmp_path, 0, 2)
    manifest = await begin(tmp_path / "killed", part(1, 2, ["x"]), ["x"])
    await manifest.commit(sent("x"))
    (tmp_path / "1.manifest.jsonl").write_bytes((tmp_path / "killed").read_bytes())
    out = tmp_path / "all"
    merge([tmp_path / "1.manifest.jsonl", first], out, tool="zclone test")
    await manifest.close(4)
    assert summary(out).ended is None
    again = open_manifest(out, HEADER, in_thread=inline)
    assert again.past.is_cut_off
    assert {key: intent.state for key, intent in again.past.intents.items()} == {"x": State.SENT}
    assert again.past.final("t0-0") is not None
    await again.close(4)


async def test_pins_are_merged_once(tmp_path: Path) -> None:
    """What a query found is in the merged manifest as often as in one shard."""
    paths = []
    for number in range(2):
        manifest = open_manifest(tmp_path / str(number), HEADER, in_thread=inline)
        await manifest.write_pins(Pins({"u": {"name": "a"}}, {("type=App",): ("u", "v")}))
        await manifest.write_plan(part(number, 2, [f"k{number}"]), [(f"k{number}", "u")])
        await manifest.close(0)
        paths.append(tmp_path / str(number))
    merge(paths, tmp_path / "all", tool="zclone test")
    past = ManifestFold()
    for line in scan(tmp_path / "all"):
        past.add(line)
    assert past.pinned.pins == Pins({"u": {"name": "a"}}, {("type=App",): ("u", "v")})


async def test_earlier_plans_stay_on_record(tmp_path: Path) -> None:
    """A shard that had a hand-over before its job file was edited has it on record; the whole plan is the last one."""
    first = await shard(tmp_path, 0, 2)
    given = replace(part(1, 2, ["k"], whole="before"), digest="given", inputs="in", hand_overs=1)
    manifest = await begin(tmp_path / "second", given, ["k"])
    await manifest.write_plan(part(1, 2, ["k"]), [])
    await manifest.commit(sent("k"))
    manifest.note(cloned("k"))
    await manifest.close(0)
    merge([first, tmp_path / "second"], tmp_path / "all", tool="zclone test")
    with open_targets(tmp_path / "all") as targets:
        assert targets.plan == PlanLine(WHOLE, "", 5, 1_000.0)
        assert targets.plans == {"given", WHOLE}
        assert targets.has_hand_overs


async def test_each_users_shard_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged manifest is another user's for everyone who neither began all shards nor adopted one."""
    paths = []
    for number, user in enumerate(("ann", "bob", "ann")):
        monkeypatch.setattr("batch.manifest.line.own_user", lambda user=user: user)
        paths.append(await shard(tmp_path, number))
    merge(paths, tmp_path / "all", tool="zclone test")
    manifest = open_manifest(tmp_path / "all", HEADER, in_thread=inline)
    users = manifest.past.users
    assert [users.is_foreign(user) for user in ("ann", "bob", "eve")] == [True, True, True]
    await manifest.adopt("ann")
    assert not users.is_foreign("ann")
    await manifest.close(0)
    assert [line.begun_by for line in scan(tmp_path / "all") if isinstance(line, AdoptedLine)] == ["ann and bob"]


async def test_at_most_once_of_one_shard_holds_for_all(tmp_path: Path) -> None:
    """If one shard was run with --at-most-once, so is the merged manifest."""
    paths = [
        await shard(tmp_path, 0, 2),
        await shard(tmp_path, 1, 2, header=replace(HEADER, at_most_once=True)),
    ]
    merge(paths, tmp_path / "all", tool="zclone test")
    manifest = open_manifest(tmp_path / "all", HEADER, in_thread=inline)
    assert manifest.past.is_at_most_once
    await manifest.close(0)


async def test_the_end_of_a_merged_run_is_that_of_its_worst_shard(tmp_path: Path) -> None:
    """Exit code and reason are those of the shard that needs most, hand-overs those of all."""
    ends = [
        (0, None, HandOverCounts(1, 0, 0)),
        (4, EndReason.OUTAGE, HandOverCounts(0, 2, 0)),
        (3, None, HandOverCounts(0, 0, 3)),
    ]
    for number, (code, reason, handed) in enumerate(ends):
        manifest = await begin(tmp_path / str(number), part(number, 3, [f"k{number}"]), [f"k{number}"])
        await manifest.close(code, "told" if reason else None, code=reason, handed=handed)
    merge([tmp_path / str(number) for number in range(3)], tmp_path / "all", tool="zclone test")
    ended = summary(tmp_path / "all").ended
    assert ended is not None
    assert (ended.exit_code, ended.code, ended.handed) == (4, EndReason.OUTAGE, HandOverCounts(1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"header": replace(HEADER, job="other")}, "job: .*'job'.*'other'"),
        ({"header": replace(HEADER, run="other")}, "run: .*'run'.*'other'"),
        ({"header": replace(HEADER, endpoint="https://other")}, "endpoint: .*https://other"),
        ({"header": replace(HEADER, simulated=True)}, "simulated: .*False.*True"),
        ({"whole": "ff"}, "plan: .*ee.*ff"),
        ({"of": 4}, "shards: .*0/3.*1/4"),
        ({"keys": ["new", "t2-3"]}, r"overlap: the target t2-3 is in .*1\.manifest\.jsonl and in .*2\.manifest\.jsonl"),
    ],
)
async def test_mismatched_parts_are_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Another job, run, endpoint, plan or division, and a target in two shards, are reported; nothing is written."""
    paths = [await shard(tmp_path, 0), await shard(tmp_path, 1, **changes), await shard(tmp_path, 2)]
    with pytest.raises(ManifestMismatchError, match=named):
        merge(paths, tmp_path / "all", tool="zclone test")
    assert not (tmp_path / "all").exists()


async def test_gaps_and_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    """A missing shard is reported, and one that is given twice."""
    paths = [await shard(tmp_path, number) for number in (0, 2)]
    with pytest.raises(ManifestMismatchError, match="gap: no manifest of shard 1/3$"):
        merge(paths, tmp_path / "all", tool="zclone test")
    with pytest.raises(ManifestMismatchError, match="both belong to shard 0/3"):
        merge([paths[0], *paths], tmp_path / "all", tool="zclone test")
    paths[0].unlink()
    many = await shard(tmp_path, 0, 14)
    with pytest.raises(ManifestMismatchError, match="gap: no manifest of shard 1/14, .* 10/14 and 3 more$"):
        merge([many], tmp_path / "all", tool="zclone test")


async def test_only_a_shards_manifest_is_merged(tmp_path: Path) -> None:
    """A manifest of a whole run, or of an older zclone, is refused; one that a process writes to is left alone."""
    manifest = open_manifest(tmp_path / "whole", HEADER, in_thread=inline)
    await manifest.write_plan(Plan("job", "run", "aa", 1, lambda: iter(()), inputs="in"), [("k", "s")])
    with pytest.raises(ManifestLockedError):
        merge([tmp_path / "whole"], tmp_path / "all", tool="zclone test")
    await manifest.close(0)
    with pytest.raises(ManifestMismatchError, match="no plan of a shard"):
        merge([tmp_path / "whole"], tmp_path / "all", tool="zclone test")
    forged = await begin(tmp_path / "forged", replace(part(0, 2, ["k"]), shard="5/2"), ["k"])
    await forged.close(0)
    with pytest.raises(ManifestError, match="not K/N"):
        merge([tmp_path / "forged"], tmp_path / "all", tool="zclone test")


async def test_damage_and_existing_files_are_reported(tmp_path: Path) -> None:
    """A damaged shard is reported with its line, and an existing file is kept."""
    path = await shard(tmp_path, 0, 1)
    with pytest.raises(UsageError, match="File exists"):
        merge([path], path, tool="zclone test")
    data = bytearray(path.read_bytes())
    data[data.index(b"t0-2")] ^= 1
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"0\.manifest\.jsonl: line \d+: damaged"):
        merge([path], tmp_path / "all", tool="zclone test")


async def test_only_an_end_that_was_never_durable_is_left_out(tmp_path: Path) -> None:
    """A last line that was cut short is; one that was damaged since is refused, with the next step."""
    paths = [await shard(tmp_path, 0, 2), await shard(tmp_path, 1, 2)]
    *lines, last = paths[1].read_bytes().splitlines(keepends=True)
    paths[1].write_bytes(b"".join(lines) + last.replace(b"exit", b"exat"))
    with pytest.raises(
        ManifestMismatchError, match=rf"1\.manifest\.jsonl: line {len(lines) + 1}: damaged.* --shard .*zclone repair"
    ):
        merge(paths, tmp_path / "all", tool="zclone test")
    assert not (tmp_path / "all").exists()
    paths[1].write_bytes(b"".join(lines) + last[:-9])
    assert merge(paths, tmp_path / "all", tool="zclone test").counts.total() == 8


async def test_a_shard_that_continues_on_temporal_is_collected_first(tmp_path: Path) -> None:
    """Its records are not copied yet, so the merged run would send its targets again; a settled one is merged."""
    first = await shard(tmp_path, 0, 2)
    path = tmp_path / "1.manifest.jsonl"
    manifest = open_manifest(path, HEADER, in_thread=inline, clock=lambda: 1_000.0)
    manifest.past.remote = RemoteEngine("temporal", "127.0.0.1:7233", "default", "the-workflow")
    await manifest.write_plan(part(1, 2, ["k"]), [("k", "s")])
    await manifest.close(4)
    with pytest.raises(
        ManifestMismatchError, match=r"1\.manifest.*the-workflow: .*--engine temporal --shard 1/2, .*--cancel"
    ):
        merge([first, path], tmp_path / "all", tool="zclone test")
    again = open_manifest(path, HEADER, in_thread=inline)
    await again.commit(sent("k"))
    again.note(cloned("k"))
    await again.close(0)
    assert merge([first, path], tmp_path / "all", tool="zclone test").counts[State.CLONED] == 4


async def test_equal_hashes_are_no_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two different keys that share a hash are two targets."""
    paths = [await shard(tmp_path, number, 2) for number in range(2)]
    monkeypatch.setattr("batch.manifest.merge.hash", lambda _key: 7, raising=False)
    assert merge(paths, tmp_path / "all", tool="zclone test").counts.total() == 8


def test_runs_of_all_shards_merge(tmp_path: Path, zclone: Run) -> None:
    """What `run --shard K/N` wrote for each K is merged, an empty shard too, and a missing one is reported."""
    targets = "".join(f"  - {{uuid: d76744cb53f9378abf42b907df3efb6e, id: t{number}}}\n" for number in range(3))
    (tmp_path / "job.yaml").write_text(f"version: 1\nname: job\ntargets:\n{targets}", encoding="utf-8")
    for number in range(5):
        assert zclone("run", "job.yaml", "--simulate", "--rate", "200/s", "--shard", f"{number}/5").returncode == 0
    paths = sorted(path.name for path in tmp_path.glob("*.shard-*.manifest.jsonl"))
    assert len(paths) == 5
    done = zclone("merge", *paths[1:], "--out", "all.manifest.jsonl")
    assert done.returncode == 2
    assert "gap: no manifest of shard 0/5" in done.stderr
    assert zclone("merge", *paths, "--out", "all.manifest.jsonl").returncode == 0
    listed = zclone("list", "all.manifest.jsonl", "-o", "jsonl").stdout.splitlines()
    assert sorted(json.loads(line)["key"] for line in listed) == ["t0", "t1", "t2"]
    again = zclone("run", "job.yaml", "--simulate", "--manifest", "all.manifest.jsonl")
    assert again.returncode == 0
    assert "3 of 3 targets cloned" in again.stderr
