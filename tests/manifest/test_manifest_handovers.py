"""Recorded hand-overs: written, folded in a few bytes, listed with their clones, and never taken for finished."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from jsonschema import Draft7Validator

from batch.errors import ExitCode, ManifestError
from batch.manifest import Manifest, ManifestFold, read_finished, rows, story, summary
from batch.manifest.hand_overs import encode_hand_over, encode_try
from batch.manifest.kinds import HandOverTry
from batch.manifest.records import parse_line
from batch.manifest.schema import manifest_schema
from batch.model import HandOver, HandOverCounts, HandOverRecord, Record, State
from batch.report.data import read_report_data
from batch.report.figures import exit_code, failures, figures
from batch.report.listings import show_lines
from batch.report.status import ending_lines, status_lines
from batch.report.write import write_report
from tests.manifest.manifest_world import PATH, FakeDisk, cloned, failed, open_fake, plan, scan, sent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WANTED: Final = HandOver("a" * 32, ("b" * 32, "c" * 32))
OTHER: Final = HandOver("d" * 32)
KEYS: Final = ("one", "two", "drei \N{SNOWMAN}")


def done(key: str = "one", wanted: HandOver = WANTED) -> HandOverRecord:
    return HandOverRecord(key, 30.0, wanted, "e" * 32)


def refused(key: str = "one", wanted: HandOver = WANTED) -> HandOverRecord:
    return replace(done(key, wanted), at=31.0, error_code="ID.1003", error="quota \x1b[2J exceeding")


def folded(*lines: HandOverRecord) -> ManifestFold:
    past = ManifestFold()
    past.add_all(map(encode_hand_over, lines))
    past.finish()
    return past


@pytest.mark.parametrize(
    "line", [done(), replace(refused(), until=60.0), done(KEYS[2], OTHER), done(wanted=HandOver(None, ("b" * 32,)))]
)
def test_a_line_round_trip(line: HandOverRecord) -> None:
    """What is written is read again."""
    assert parse_line(encode_hand_over(line)) == line


@pytest.mark.parametrize(
    "line", [HandOverTry(done()), HandOverTry(refused()), HandOverTry(done(wanted=OTHER), is_unexecuted=True)]
)
def test_a_try_round_trip(line: HandOverTry) -> None:
    """What is written is read again, under a name that older versions ignore."""
    body = encode_try(line)
    assert body.startswith(b'{"handing_over"')
    assert parse_line(body) == line


def test_a_try_opens_its_hand_over_until_its_end() -> None:
    """It is neither done nor refused; an end with ``until``, or towards another owner, leaves the try in doubt."""
    past = folded(done())
    first, other = HandOverTry(done()), HandOverTry(replace(done(wanted=OTHER), at=40.0))
    for line in (first, HandOverTry(replace(done(), at=35.0)), other):
        past.add(line)
    overs = past.hand_overs
    assert (overs.done, overs.refused, overs.is_done("one", WANTED)) == (0, 0, False)
    assert overs.tries("one") == {WANTED.owner: (30.0, 35.0), OTHER.owner: (40.0, 40.0)}
    past.add(refused(wanted=OTHER))
    assert overs.tries("one") == {WANTED.owner: (30.0, 35.0)}
    past.add(replace(done(), until=2000.0))
    assert overs.is_done("one", WANTED)
    assert overs.tries("one") == {WANTED.owner: (30.0, 35.0)}
    past.add(HandOverTry(done(), is_unexecuted=True))
    assert overs.tries("one") == {}


def test_the_last_line_of_a_target_counts() -> None:
    """A refusal that was fixed is no refusal; another owner or share is another hand-over."""
    past = folded(refused(), done(), done("two"), refused("two", OTHER), refused(KEYS[2]), refused(KEYS[2]))
    overs = past.hand_overs
    assert (overs.done, overs.refused) == (1, 2)
    assert overs.is_done("one", WANTED)
    assert not overs.is_done("one", OTHER)
    assert not overs.is_done("one", HandOver(WANTED.owner))
    assert not overs.is_done("one", HandOver(None, WANTED.share_with))
    assert not overs.is_refused("one", WANTED)
    assert overs.is_refused("two", OTHER)
    assert not overs.is_done("two", WANTED)
    assert not overs.is_done("four", WANTED)


@pytest.mark.parametrize(
    "fields",
    [
        {"handed_over": 1, "at": 1.0, "clone_uuid": "e"},
        {"handed_over": "k", "at": 1.0},
        {"handed_over": "k", "at": 1.0, "clone_uuid": "e", "owner": 5},
        {"handed_over": "k", "at": 1.0, "clone_uuid": "e", "share_with": "b"},
        {"handed_over": "k", "at": True, "clone_uuid": "e"},
        {"handed_over": "k", "at": "1", "clone_uuid": "e"},
    ],
)
def test_an_invalid_line_is_refused(fields: dict[str, object]) -> None:
    """A line with a field of another type is damage, not a hand-over."""
    with pytest.raises(ManifestError):
        ManifestFold().add_all([json.dumps(fields, separators=(",", ":")).encode()[:-1]])


async def run_of(ends: Callable[[Manifest], None], code: int, *, last: Record | None = None) -> FakeDisk:
    """Write a run of KEYS that all hand over, ended with ``code``; ``last``: how the last target ended."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(replace(plan(list(KEYS)), hand_overs=len(KEYS)), ((key, key) for key in KEYS))
    for key in KEYS:
        await manifest.commit(sent(key))
        manifest.note(last if last is not None and key == KEYS[-1] else cloned(key))
    ends(manifest)
    await manifest.flush()
    await manifest.close(code, handed=HandOverCounts(len(KEYS)) if code == 0 else None)
    return disk


def on_disk(disk: FakeDisk, folder: Path) -> Path:
    path = folder / PATH.name
    path.write_bytes(disk.data)
    return path


def all_done(manifest: Manifest) -> None:
    for key in KEYS:
        manifest.note_hand_over(done(key))


def one_refused(manifest: Manifest) -> None:
    manifest.note_hand_over(done(KEYS[0]))
    manifest.note_hand_over(refused(KEYS[1]))


async def test_a_run_is_finished_once_everything_is_handed_over(tmp_path: Path) -> None:
    """The shortcut of a finished run is taken only after exit code 0: clones alone are not all of the work."""
    assert read_finished(on_disk(await run_of(lambda manifest: None, 4), tmp_path)) is None
    assert read_finished(on_disk(await run_of(one_refused, 3), tmp_path)) is None
    found = read_finished(on_disk(await run_of(all_done, 0), tmp_path))
    assert found is not None
    assert (found.counts, found.plan.hand_overs) == ({State.CLONED: 3}, 3)


def tried_after_a_refusal(manifest: Manifest) -> None:
    one_refused(manifest)
    manifest.note_operation(HandOverTry(done(KEYS[1])))


async def test_a_refusal_ends_with_the_next_try(tmp_path: Path) -> None:
    """Neither list nor summary report a refused hand-over that is being tried again."""
    path = on_disk(await run_of(tried_after_a_refusal, 4), tmp_path)
    assert {row.error_code for row in rows(path)} == {None}
    found = summary(path)
    assert (found.handed, found.clusters) == (HandOverCounts(done=1, open=2), ())


async def test_a_refusal_is_reported_everywhere(tmp_path: Path) -> None:
    """List, show, status and every report have the refusal beside the clone, which stays cloned."""
    path = on_disk(await run_of(one_refused, 3), tmp_path)
    listed = {row.key: (row.state, row.error_code, row.error) for row in rows(path)}
    refusal = "hand-over refused: quota \x1b[2J exceeding"
    assert listed == {
        KEYS[0]: (State.CLONED, None, None),
        KEYS[1]: (State.CLONED, "ID.1003", refusal),
        KEYS[2]: (State.CLONED, None, None),
    }
    found = summary(path)
    assert found.handed == HandOverCounts(done=1, open=1, refused=1)
    assert [(one.state, one.code, one.count, one.error) for one in found.clusters] == [
        (State.CLONED, "ID.1003", 1, refusal)
    ]
    lines = status_lines(found, manifest=path, is_locked=False, now=50.0)
    assert "hand-over 1 of 3 clones handed over, 1 refused" in lines
    assert any(line.startswith("next ") for line in lines)
    shown = story(path, KEYS[1])
    assert shown is not None
    text = "\n".join(show_lines(shown))
    assert "hand-over refused\n" in text
    assert f"share_with     {'b' * 32}, {'c' * 32}" in text
    chronicle = read_report_data(path)
    assert [(one.state, one.code, one.keys) for one in failures(chronicle)] == [(State.CLONED, "ID.1003", (KEYS[1],))]
    assert figures(chronicle).exit_code == ExitCode.UNFINISHED
    for ending in (".md", ".xml", ".json", ".html", ".csv"):
        report = tmp_path / f"report{ending}"
        write_report(path, report, at=60.0)
        assert "ID.1003" in report.read_text(encoding="utf-8")
    assert '<failure type="ID.1003"' in (tmp_path / "report.xml").read_text(encoding="utf-8")
    assert 'failures="1"' in (tmp_path / "report.xml").read_text(encoding="utf-8")


async def test_a_finished_hand_over_is_reported_too(tmp_path: Path) -> None:
    """A history ends with the hand-over, its lines meet the schema, and a failed target has none to wait for."""
    path = on_disk(await run_of(all_done, 0), tmp_path)
    shown = story(path, KEYS[2])
    assert shown is not None
    assert "handed over" in show_lines(shown)[-4]
    validator = Draft7Validator(manifest_schema())
    for line in path.read_text(encoding="utf-8").splitlines():
        validator.validate(json.loads(line))
    assert sum(isinstance(line, HandOverRecord) for line in scan(path)) == 3
    failing = on_disk(await run_of(one_refused, 3, last=failed(KEYS[2])), tmp_path)
    assert summary(failing).handed == HandOverCounts(done=1, open=0, refused=1)


def test_the_exit_code_counts_hand_overs() -> None:
    """0 only if every clone is handed over too; 4 while one is open; 3 if one was refused."""
    made = {State.CLONED: 2}
    assert exit_code(made, HandOverCounts(done=2)) == ExitCode.OK
    assert exit_code(made, HandOverCounts(done=1, refused=1)) == ExitCode.FAILED
    assert exit_code(made, HandOverCounts(open=1, refused=1)) == ExitCode.UNFINISHED


def test_the_summary_says_how_to_retry_hand_overs() -> None:
    """The summary has the number of clones handed over, and the command that retries the rest."""
    lines = ending_lines(
        Counter({State.CLONED: 2}),
        (),
        manifest="m",
        command="zclone run j",
        hand_overs=HandOverCounts(done=1, refused=1),
    )
    assert lines == [
        "2 of 2 targets cloned; 1 of 2 clones handed over, 1 refused",
        "to hand over the rest, fix what was refused, then: zclone run j",
    ]
