"""A reopened failed target: what the fold, the figures and a repair make of its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import ManifestError
from batch.manifest import ManifestFold, rows, summary
from batch.manifest.records import encode_record
from batch.manifest.repair import repair_manifest
from batch.model import Record, State
from tests.manifest.manifest_world import FakeDisk, cloned, failed, open_fake, plan, sent

if TYPE_CHECKING:
    from pathlib import Path


def retried(key: str, code: str | None = None) -> Record:
    return Record(State.PLANNED, key, 50.0, 0, error_code=code, retried=True)


def fold(*records: Record) -> ManifestFold:
    past = ManifestFold()
    past.add_all(map(encode_record, records))
    past.finish()
    return past


def test_a_retried_target_starts_anew() -> None:
    """A reopened target is planned, is no intent, and may be sent with attempt 1 and another body."""
    past = fold(sent("a"), failed("a"), retried("a"))
    assert past.counts == {State.PLANNED: 1}
    assert past.intents == {}
    assert past.final("a") is None
    past.add_all([encode_record(sent("a")._replace(digest="f" * 32))])
    past.finish()
    assert past.intents["a"].attempt == 1
    past.add_all([encode_record(cloned("a"))])
    assert past.counts == {State.CLONED: 1}


@pytest.mark.parametrize("state", [State.CLONED, State.UNDONE])
def test_only_failures_can_be_retried(state: State) -> None:
    """An existing clone stays: a record that would reopen it is refused."""
    records = [sent("a"), cloned("a"), *([Record(State.UNDONE, "a", 5.0, 1)] if state is State.UNDONE else [])]
    with pytest.raises(ManifestError, match="cannot be retried"):
        fold(*records, retried("a"))


def test_without_its_record_a_failure_is_final() -> None:
    """Only the explicit record reopens a failed target: planned alone does not."""
    assert fold(sent("a"), failed("a"), retried("a")._replace(retried=None)).counts == {State.FAILED: 1}
    with pytest.raises(ManifestError):
        fold(sent("a"), failed("a"), sent("a")._replace(attempt=2))


@given(text=st.text(max_size=20))
def test_no_text_reopens_a_target(text: str) -> None:
    """No key or error text is taken for the record."""
    hostile = '"retried":true' + text
    record = retried("a")._replace(retried=None, error=hostile, error_code=hostile)
    assert fold(sent("a"), failed("a"), record).counts == {State.FAILED: 1}


@given(failures=st.integers(0, 5), ends_well=st.booleans())
def test_any_number_of_retries_counts_once(*, failures: int, ends_well: bool) -> None:
    """However often a target failed and was reopened, it is one target in one state."""
    records = [sent("a"), failed("a"), retried("a")] * failures + [sent("a"), cloned("a") if ends_well else failed("a")]
    assert fold(*records).counts == {records[-1].state: 1}


async def written(folder: Path, *records: Record, damage: bytes = b"") -> Path:
    disk = FakeDisk()
    manifest = open_fake(disk)
    await manifest.write_plan(plan(["a", "b"]), [("a", "source of a"), ("b", "source of b")])
    for record in records:
        await manifest.commit(record)
    await manifest.close(0)
    data = bytearray(disk.data)
    if damage:
        data[data.index(damage) + 1] ^= 1
    path = folder / "run.manifest.jsonl"
    path.write_bytes(data)
    path.chmod(0o600)
    return path


async def test_figures_forget_reopened_failures(tmp_path: Path) -> None:
    """After a retry neither counts nor failures by kind include the old failure, and list shows it planned."""
    bad = failed("a")._replace(error_code="SYS.1006")
    path = await written(tmp_path, sent("a"), bad, retried("a", "SYS.1006"))
    found = summary(path)
    assert found.counts == {State.PLANNED: 2}
    assert found.clusters == ()
    assert [(row.state, row.attempts) for row in rows(path)] == [(State.PLANNED, 0)] * 2


async def test_a_lost_retry_is_uncertain_after_a_repair(tmp_path: Path) -> None:
    """If the record that reopened a target is damaged, what follows it cannot be trusted: it is uncertain."""
    story = (sent("a"), failed("a"), retried("a"), sent("a")._replace(at=60.0), cloned("a")._replace(at=61.0))
    path = await written(tmp_path, *story, damage=b'"retried":true')
    with pytest.raises(ManifestError):
        summary(path)
    repair_manifest(path, tmp_path / "new", clock=lambda: 99.0)
    assert summary(tmp_path / "new").counts == {State.UNCERTAIN: 2}
