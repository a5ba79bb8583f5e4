"""The seldom branches of the journal: what no run writes, and what only a foreign or damaged file holds."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from batch.errors import ManifestError
from batch.manifest import Past, line, open_manifest, summary
from batch.manifest.chain import Scan
from batch.manifest.files import Disk
from batch.manifest.kinds import UnknownLine
from batch.manifest.line import encode, fields, seal
from batch.manifest.reading import reading
from batch.manifest.records import encode_pinned, encode_record, parse_line
from batch.manifest.repair import repair
from batch.model import Pins, Record, State
from tests.manifest.manifest_world import HEADER, FakeDisk, cloned, failed, hex_id, open_fake, plan, sent


async def written(folder: Path, *records: Record) -> Path:
    """A manifest with these records of the targets a and b."""
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a", "b"]), [("a", "a"), ("b", "b")])
    for record in records:
        await manifest.commit(record)
    await manifest.close(3)
    path = folder / "run.manifest.jsonl"
    path.write_bytes(disk.data)
    path.chmod(0o600)
    return path


def sealed(*bodies: bytes) -> bytes:
    """Lines as another writer might have sealed them: with a good checksum and whatever in them."""
    crc, lines = 0, []
    for body in bodies:
        whole, crc = seal([body], crc, batch=1)
        lines.append(whole)
    return b"".join(lines)


def scan(data: bytes) -> Scan:
    return Scan(lambda offset, size: data[offset : offset + size])


def retried(key: str, code: str = "SYS.1007") -> Record:
    return Record(State.PLANNED, key, 30.0, 0, error_code=code, retried=True)


async def test_a_retried_failure_is_not_counted_any_more(tmp_path: Path) -> None:
    """Of two targets that failed alike one opened again leaves one failure; the other opened again leaves none."""
    ends = (sent("a"), failed("a"), sent("b"), failed("b"))
    assert [cluster.count for cluster in summary(await written(tmp_path, *ends)).clusters] == [2]
    one = summary(await written(tmp_path, *ends, retried("b")))
    assert [(cluster.count, cluster.key) for cluster in one.clusters] == [(1, "a")]
    other = summary(await written(tmp_path, *ends, retried("a")))
    assert [(cluster.count, cluster.key) for cluster in other.clusters] == [(1, "")]
    assert summary(await written(tmp_path, *ends, retried("a"), retried("b"))).clusters == ()


async def test_a_retried_conflict_is_not_counted_any_more(tmp_path: Path) -> None:
    """A conflict that was opened again is no failure of the run; nor is what was opened again without having ended."""
    conflict = Record(State.CONFLICT, "a", 20.0, 1, error_code="ZCLONE.CONFLICT", error="somebody else's")
    assert len(summary(await written(tmp_path, sent("a"), conflict)).clusters) == 1
    assert summary(await written(tmp_path, sent("a"), conflict, retried("a", "ZCLONE.CONFLICT"))).clusters == ()
    assert summary(await written(tmp_path, sent("a"), retried("a"))).clusters == ()


@pytest.mark.parametrize("state", [State.CLONED, State.UNDONE])
def test_what_was_made_cannot_be_opened_again(state: State) -> None:
    """A manifest in which a cloned or undone target is retried is refused: a second clone would be made."""
    past = Past()
    lines = [sent("a"), cloned("a"), *([Record(state, "a", 25.0, 1)] if state is State.UNDONE else [])]
    with pytest.raises(ManifestError, match=f"a is {state.value} and cannot be retried"):
        past.add_all(encode_record(record) for record in [*lines, retried("a")])


def test_a_settled_clone_that_was_sent_again_is_refused() -> None:
    """A POST of a later attempt after the end is found out, also where the target was then opened again."""
    for after in ((), (retried("a"),)):
        past = Past()
        with pytest.raises(ManifestError, match="a is failed and was sent again"):  # noqa: PT012 - found by either
            past.add_all(encode_record(record) for record in (sent("a"), failed("a"), sent("a", 2), *after))
            past.finish()


def test_a_repeated_line_of_a_settled_clone_is_harmless() -> None:
    """The same POST on record once more after its end changes nothing."""
    past = Past()
    past.add_all(encode_record(record) for record in (sent("a"), cloned("a"), sent("a")))
    past.finish()
    assert past.counts == {State.CLONED: 1}
    assert past.intents == {}


def test_lines_of_later_versions_are_left_alone() -> None:
    """A line whose kind is not known, or that only looks like a known one, changes no state."""
    past = Past()
    past.add_all([b'{"process":"x","ended":1', b'{"novel":1', b'{"started":1.0,"pid":1,"host":"h","tool":"t"'])
    past.finish()
    assert past.counts == {}
    assert isinstance(parse_line(b'{"novel":1'), UnknownLine)


def test_pins_without_sources_make_no_page() -> None:
    """Where only queries are pinned, no page without content is written."""
    (body,) = encode_pinned(Pins(queries={("type=Endpoint",): (hex_id(1),)}))
    assert fields(body) == {"pinned": {}, "query": ["type=Endpoint"], "found": [hex_id(1)]}
    assert list(encode_pinned(Pins())) == []


@pytest.mark.parametrize(("body", "why"), [(b"[1", "no JSON"), (b"[", "no JSON"), (b'{"a":', "no JSON")])
def test_a_line_that_is_no_object_was_not_written_by_us(body: bytes, why: str) -> None:
    """A good checksum over something else than a JSON object is not taken for a record."""
    with pytest.raises(ManifestError, match=why):
        fields(body)


def test_an_array_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever decodes to something else than an object is refused, whichever decoder is installed."""
    for orjson in (line._ORJSON, None):
        monkeypatch.setattr(line, "_ORJSON", orjson and SimpleNamespace(loads=lambda _: [1]))
        monkeypatch.setattr("batch.manifest.line.json.loads", lambda _: [1])
        with pytest.raises(ManifestError, match="no JSON object"):
            fields(b"{")


def test_without_the_extra_the_standard_library_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast library is optional."""
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert line._orjson() is None


def test_a_line_without_a_batch_number_is_refused() -> None:
    """Where the next batch cannot be numbered nothing can be appended."""
    followed = scan(sealed(encode([("novel", 1)])).replace(b'"batch":1', b'"botch":1'))
    followed.last = b'{"botch":1'
    with pytest.raises(ManifestError, match="has no batch number"):
        _ = followed.batch


def test_where_mounts_cannot_be_read_no_file_system_is_called_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc nobody knows the file system: no warning is made up."""

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "denied")

    disk = Disk()
    handle = disk.create(tmp_path / "m")
    monkeypatch.setattr(Path, "read_text", refuse)
    assert not disk.is_remote(handle)
    os.close(handle)


async def test_a_manifest_that_shrinks_while_it_is_read_is_told(tmp_path: Path) -> None:
    """A reader whose file was cut meanwhile says so instead of going on for ever."""
    path = await written(tmp_path, sent("a"))
    with pytest.raises(ManifestError, match="became shorter"), reading(path) as manifest:  # noqa: PT012 - one pass
        places = [manifest.place for _ in manifest.bodies()]
        os.truncate(path, places[-1] + 5)
        manifest.body_at(places[-1])


@pytest.mark.parametrize("name", [rb"\q", b"\xff"])
async def test_a_damaged_name_damages_no_other_target(name: bytes, tmp_path: Path) -> None:
    """A damaged line whose key cannot be decoded is counted; settled targets keep their state."""
    path = await written(tmp_path, sent("a"), cloned("a"))
    path.write_bytes(path.read_bytes() + b'{"state":"cloned","key":"%s","batch":9,"crc":"00000000"}\n' % name)
    report = repair(path, tmp_path / "new")
    assert (report.damaged, report.uncertain) == (1, 1)
    assert _states(tmp_path / "new") == {State.CLONED: 1, State.UNCERTAIN: 1}


def _states(path: Path) -> dict[State, int]:
    return dict(summary(path).counts)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_lock_that_cannot_be_taken_is_no_lock(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no locks the run ends at once: an error of flock is never taken for the lock."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("batch.manifest.files.fcntl.flock", refuse)
    with pytest.raises(ManifestError, match=os.strerror(code)):
        open_manifest(tmp_path / "m", HEADER)


def test_a_line_that_only_begins_like_a_process_is_none(tmp_path: Path) -> None:
    """A later version's line that begins like the end of a process and says something else ends no process."""
    path = tmp_path / "m"
    path.write_bytes(sealed(HEADER.body(), b'{"ended":1.0,"planned":["a"]'))
    path.chmod(0o600)
    found = summary(path)
    assert (found.ended, found.started) == (None, None)
    assert found.counts == {}


async def test_whoever_only_looked_does_not_keep_the_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that was free again a moment later is taken: another process had only asked whether it is held."""
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
