"""The rare branches of the journal: what no run writes, and what only a foreign or damaged file holds."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from batch.errors import ManifestError
from batch.manifest import ManifestFold, open_manifest, summary
from batch.manifest.chain import Scan
from batch.manifest.files import LOST, Disk
from batch.manifest.kinds import DeletingLine, UnknownLine
from batch.manifest.line import decode_line, encode_line, seal
from batch.manifest.reader import open_reader
from batch.manifest.records import encode_pinned, encode_record, parse_line
from batch.manifest.repair import repair_manifest
from batch.manifest.targets import open_targets
from batch.model import Pins, Record, State, waits_for_operator
from tests.manifest.manifest_world import HEADER, FakeDisk, cloned, failed, hex_id, open_fake, plan, sent


async def written(folder: Path, *records: Record | DeletingLine) -> Path:
    """Write a manifest with these records of the targets a and b."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a", "b"]), [("a", "a"), ("b", "b")])
    for record in records:
        await (manifest.commit(record) if isinstance(record, Record) else manifest.commit_operation(record))
    await manifest.close(3)
    path = folder / "run.manifest.jsonl"
    path.write_bytes(disk.data)
    path.chmod(0o600)
    return path


def sealed(*bodies: bytes) -> bytes:
    """Return lines as another writer might have sealed them: with a valid checksum and any content."""
    crc, lines = 0, []
    for body in bodies:
        whole, crc = seal([body], crc, batch=1)
        lines.append(whole)
    return b"".join(lines)


def scan(data: bytes) -> Scan:
    return Scan(lambda offset, size: data[offset : offset + size])


async def test_a_delete_is_recorded_until_its_clone_is_gone(tmp_path: Path) -> None:
    """The last DELETE of a clone is known by its job uuid, until the clone is undone; each is durable once awaited."""
    first, last = (DeletingLine("a", at, hex_id(1), hex_id(number)) for at, number in ((30.0, 8), (40.0, 9)))
    path = await written(tmp_path, sent("a"), cloned("a"), first, last)
    with open_targets(path) as targets:
        assert targets.header.job == HEADER.job
        assert targets.deleting == {"a": last}
    gone = await written(tmp_path, sent("a"), cloned("a"), last, Record(State.UNDONE, "a", 50.0, clone_uuid=hex_id(1)))
    with open_targets(gone) as targets:
        assert targets.deleting == {}


def test_an_incomplete_line_about_a_deletion_is_refused() -> None:
    """Without its uuids its end could not be queried."""
    with pytest.raises(ManifestError, match="a line has no str as job_uuid"):
        parse_line(encode_line([("deleting", "a"), ("at", 1.0), ("clone_uuid", hex_id(1))]))


async def test_the_oldest_clone_in_flight_is_reported(tmp_path: Path) -> None:
    """The longest wait is for the clone sent first; what has settled or is uncertain is not in flight."""
    uncertain = Record(State.UNCERTAIN, "a", 20.0, 1, error_code="ZCLONE.UNCERTAIN", error="who knows")
    one = summary(await written(tmp_path, sent("a", at=10.0), sent("b", at=5.0)))
    assert one.oldest is not None
    assert one.oldest.key == "b"
    assert summary(await written(tmp_path, sent("a"), uncertain)).oldest is None


async def test_nothing_is_written_to_a_file_that_lost_its_name() -> None:
    """After it was moved or deleted the commit fails, so that nothing is sent, and says what to do."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.commit(sent("a"))
    file = disk.files.pop(manifest.path)
    before = bytes(file.data)
    with pytest.raises(ManifestError, match=LOST):
        await manifest.commit(sent("b"))
    assert file.data == before


def test_a_damaged_batch_number_does_not_imply_a_later_batch() -> None:
    """In the last line it is damage of that line alone, although it names a batch that was never written."""
    good = sealed(encode_line([("format", "zclone-manifest")]), encode_line([("started", 1.0)]))
    last, _ = seal([encode_line([("ended", 2.0)])], int(good[-11:-3], 16), batch=2)
    read = scan(good + last.replace(b'"batch":2', b'"batch":6'))
    assert len(list(read)) == 2
    with pytest.raises(ManifestError, match="durable records follow"):
        list(scan(good + last[:9] + b"9" + last[10:].replace(b'"batch":2', b'"batch":6')))


def retried(key: str, code: str = "SYS.1007") -> Record:
    return Record(State.PLANNED, key, 30.0, 0, error_code=code, retried=True)


async def test_a_retried_failure_no_longer_counts(tmp_path: Path) -> None:
    """Of two equal failures one reopened leaves one failure; the other reopened leaves none."""
    ends = (sent("a"), failed("a"), sent("b"), failed("b"))
    assert [cluster.count for cluster in summary(await written(tmp_path, *ends)).clusters] == [2]
    one = summary(await written(tmp_path, *ends, retried("b")))
    assert [(cluster.count, cluster.key) for cluster in one.clusters] == [(1, "a")]
    other = summary(await written(tmp_path, *ends, retried("a")))
    assert [(cluster.count, cluster.key) for cluster in other.clusters] == [(1, "")]
    assert summary(await written(tmp_path, *ends, retried("a"), retried("b"))).clusters == ()


async def test_a_retried_conflict_no_longer_counts(tmp_path: Path) -> None:
    """A reopened conflict is no failure of the run; nor is what was reopened without having ended."""
    conflict = Record(State.CONFLICT, "a", 20.0, 1, error_code="ZCLONE.CONFLICT", error="somebody else's")
    assert len(summary(await written(tmp_path, sent("a"), conflict)).clusters) == 1
    assert summary(await written(tmp_path, sent("a"), conflict, retried("a", "ZCLONE.CONFLICT"))).clusters == ()
    assert summary(await written(tmp_path, sent("a"), retried("a"))).clusters == ()


@pytest.mark.parametrize("state", [State.CLONED, State.UNDONE])
def test_an_existing_clone_cannot_be_reopened(state: State) -> None:
    """A manifest in which a cloned or undone target is retried is refused: a second clone would be made."""
    past = ManifestFold()
    lines = [sent("a"), cloned("a"), *([Record(state, "a", 25.0, 1)] if state is State.UNDONE else [])]
    with pytest.raises(ManifestError, match=f"a is {state.value} and cannot be retried"):
        past.add_all(encode_record(record) for record in [*lines, retried("a")])


def test_a_settled_clone_that_was_sent_again_is_refused() -> None:
    """A POST of a later attempt after the end is detected, also if the target was then reopened."""
    for after in ((), (retried("a"),)):
        past = ManifestFold()
        with pytest.raises(ManifestError, match="a is failed and was sent again"):  # noqa: PT012 - found by either
            past.add_all(encode_record(record) for record in (sent("a"), failed("a"), sent("a", 2), *after))
            past.finish()


def test_a_repeated_line_of_a_settled_clone_is_harmless() -> None:
    """The same POST recorded once more after its end changes nothing."""
    past = ManifestFold()
    past.add_all(encode_record(record) for record in (sent("a"), cloned("a"), sent("a")))
    past.finish()
    assert past.counts == {State.CLONED: 1}
    assert past.intents == {}


def test_lines_of_later_versions_are_ignored() -> None:
    """A line of an unknown kind, or that only looks like a known one, changes no state."""
    past = ManifestFold()
    past.add_all([b'{"process":"x","ended":1', b'{"novel":1', b'{"started":1.0,"pid":1,"host":"h","tool":"t"'])
    past.finish()
    assert past.counts == {}
    assert isinstance(parse_line(b'{"novel":1'), UnknownLine)


def test_pins_without_sources_make_no_page() -> None:
    """If only queries are pinned, no page without content is written."""
    (body,) = encode_pinned(Pins(queries={("type=Endpoint",): (hex_id(1),)}))
    assert decode_line(body) == {"pinned": {}, "query": ["type=Endpoint"], "found": [hex_id(1)]}
    assert list(encode_pinned(Pins())) == []


@pytest.mark.parametrize(("body", "why"), [(b"[1", "not a JSON"), (b"[", "not a JSON"), (b'{"a":', "not a JSON")])
def test_a_line_that_is_not_an_object_is_refused(body: bytes, why: str) -> None:
    """A valid checksum over something other than a JSON object is not taken for a record."""
    with pytest.raises(ManifestError, match=why):
        decode_line(body)


def test_a_line_without_a_batch_number_is_refused() -> None:
    """If the next batch cannot be numbered nothing can be appended."""
    followed = scan(sealed(encode_line([("novel", 1)])).replace(b'"batch":1', b'"botch":1'))
    followed.last = b'{"botch":1'
    with pytest.raises(ManifestError, match="has no batch number"):
        _ = followed.batch


def test_without_proc_no_file_system_is_called_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc the file system is unknown: there is no warning."""

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "denied")

    disk = Disk()
    handle = disk.create(tmp_path / "m")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert not disk.is_remote(handle)
    os.close(handle)


async def test_a_manifest_that_shrinks_while_it_is_read_is_reported(tmp_path: Path) -> None:
    """A reader whose file was truncated meanwhile says so instead of reading on forever."""
    path = await written(tmp_path, sent("a"))
    with pytest.raises(ManifestError, match="became shorter"), open_reader(path) as manifest:  # noqa: PT012 - one pass
        places = [manifest.place for _ in manifest.bodies()]
        os.truncate(path, places[-1] + 5)
        manifest.body_at(places[-1])


@pytest.mark.parametrize("name", [rb"\q", b"\xff"])
async def test_a_damaged_name_damages_no_other_target(name: bytes, tmp_path: Path) -> None:
    """A damaged line whose key cannot be decoded is counted; settled targets keep their state."""
    path = await written(tmp_path, sent("a"), cloned("a"))
    path.write_bytes(path.read_bytes() + b'{"state":"cloned","key":"%s","batch":9,"crc":"00000000"}\n' % name)
    report = repair_manifest(path, tmp_path / "new")
    assert (report.damaged, report.uncertain) == (1, 1)
    assert _states(tmp_path / "new") == {State.CLONED: 1, State.UNCERTAIN: 1}


def _states(path: Path) -> dict[State, int]:
    return dict(summary(path).counts)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_lock_that_cannot_be_taken_is_no_lock(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file system has no locks the run ends at once: an error of flock is never taken for the lock."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("batch.manifest.files.fcntl.flock", refuse)
    with pytest.raises(ManifestError, match=os.strerror(code)):
        open_manifest(tmp_path / "m", HEADER)


def test_a_line_with_fields_of_a_process_ends_no_process(tmp_path: Path) -> None:
    """A later version's line that has the fields of an end of a process, but not first, ends no process."""
    path = tmp_path / "m"
    path.write_bytes(sealed(HEADER.body(), b'{"novel":1,"ended":1.0,"planned":["a"]'))
    path.chmod(0o600)
    found = summary(path)
    assert (found.ended, found.started) == (None, None)
    assert found.counts == {}


async def test_a_brief_lock_does_not_keep_the_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is free again a moment later is taken: another process had only checked it."""
    took = fcntl.flock
    refusals = [True]

    def once(handle: int, how: int) -> None:
        if how & fcntl.LOCK_EX and refusals:
            refusals.pop()
            raise BlockingIOError
        took(handle, how)

    monkeypatch.setattr("batch.manifest.files.fcntl.flock", once)
    manifest = open_manifest(tmp_path / "m", HEADER)
    await manifest.close(0)
    assert refusals == []


@pytest.mark.parametrize("name", ["key", "at", "attempt"])
def test_a_record_without_a_required_field_is_refused(name: str) -> None:
    """A clone's record that lacks its key, time or attempt is an error that names the field."""
    body = dict(decode_line(encode_record(sent("a"))).items())
    del body[name]
    with pytest.raises(ManifestError, match=f"no {name}:"):
        parse_line(encode_line(body.items()))


def test_a_clone_made_elsewhere_is_remembered() -> None:
    """Of a settled target it stays known that its clone existed before any recorded attempt."""
    past = ManifestFold()
    past.add_all(map(encode_record, (sent("a"), cloned("a")._replace(made_elsewhere=True), sent("b"), cloned("b"))))
    assert [past.was_made_elsewhere(key) for key in "ab"] == [True, False]


def test_a_settled_and_reopened_clone_has_no_earlier_crashes() -> None:
    """Whatever its number of records, no process has crashed with it since it was reopened."""
    accepted = Record(State.ACCEPTED, "a", 20.0, 1)
    past = ManifestFold()
    past.add_all(map(encode_record, (sent("a"), accepted)))
    past.add_all([b'{"taken_up":["a"],"at":21.0'])
    assert past.intents["a"].deaths == 1
    past.add_all(map(encode_record, (failed("a"), retried("a"), sent("a"), accepted)))
    assert past.intents["a"].deaths == 0


def overdue(past: ManifestFold, now: float, *, is_refused: bool = False) -> list[str]:
    """Return the keys of the targets that wait for the operator."""
    return [key for key, intent in past.intents.items() if waits_for_operator(intent, now, is_refused=is_refused)]


def test_an_overdue_clone_waits_for_the_operator() -> None:
    """An uncertain target whose POST can no longer be executed is named as overdue, and not before that."""
    past = ManifestFold()
    past.add_all(map(encode_record, (sent("a"), Record(State.UNCERTAIN, "a", 20.0, 1, until=30.0))))
    assert [overdue(past, now) for now in (29.0, 30.0)] == [[], ["a"]]


def test_a_server_that_refuses_everything_leaves_overdue_clones_to_the_operator() -> None:
    """What was sent or accepted and is overdue then waits for the operator; what is planned again is not in doubt."""
    past = ManifestFold()
    kept = Record(State.PLANNED, "b", 20.0, 1, open_jobs=())
    past.add_all(map(encode_record, (sent("a")._replace(deadline=30.0), sent("b")._replace(deadline=30.0), kept)))
    assert [overdue(past, now, is_refused=True) for now in (29.0, 30.0)] == [[], ["a"]]
    assert overdue(past, 30.0) == []
