"""rollback deletes nothing that it must not, through kills, failures and other users; planted mistakes are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from batch.app import deletions, rollback
from batch.app.clone_changes import ChangeExecutor
from batch.app.deletions import CloneDeletion
from batch.manifest.operations import UndoneFold
from batch.zstack.calls import CloneReader
from tests.conftest import ROOT
from tests.simulation.ranges import chunks
from tests.simulation.rollback_world import broken_promises

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from batch.app.clone_changes import Objection
    from batch.app.verifier import Item

_used: Final = CloneReader.services_in_use


def first_broken(seeds: range, path: Path) -> str | None:
    """Return the first promise that any schedule breaks, with its seed."""
    for seed in seeds:
        if problems := broken_promises(seed, path):
            return f"seed {seed}: {problems[0]}"
    return None


def test_no_rollback_deletes_what_it_must_not(tmp_path: Path) -> None:
    """Whatever fails, each DELETE is recorded and follows a lookup of the last 10 s, and everything ends right."""
    assert first_broken(range(150), tmp_path / "m") is None


@pytest.mark.proof
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", list(chunks(0, 10_000, 500)), ids=str)
def test_ten_thousand_schedules_of_rollback(part: range, tmp_path: Path) -> None:
    """The same with many more schedules."""
    assert first_broken(part, tmp_path / "m") is None


async def no_look(self: Any, page: Sequence[Item]) -> dict[str, Objection]:
    """Only the manifest and the job file are consulted."""
    return {item.target.key: self._objections[item.target.key] for item in page if item.target.key in self._objections}


async def record_after(self: Any, item: Item) -> None:
    """The record of a DELETE is not waited for."""
    line = self._change.line(item, at=self._clock.time(), job_uuid=self._clock.uuid())
    self._jobs[item.target.key] = self._lines[item.target.key] = line
    self._manifest.note_operation(line)


def generation_not_raised(self: Any, record: Any) -> None:
    """What is undone counts for its uuids only."""
    for uuid in filter(None, (record.clone_uuid, record.resource_uuid)):
        self._uuids.put(hash(uuid), 1)


async def used_at_the_start(self: Any, uuids: Sequence[str]) -> set[str]:
    """The first answer holds forever."""
    known = self.__dict__.setdefault("known", {})
    if not known.keys() >= set(uuids):
        found = await _used(self, uuids)
        known.update((uuid, uuid in found) for uuid in uuids)
    return {uuid for uuid in uuids if known[uuid]}


MUTANTS: Final[dict[str, tuple[object, str, Callable[..., object], int]]] = {
    "no look before a DELETE": (CloneDeletion, "objections", no_look, 40),
    "a DELETE is recorded after it": (ChangeExecutor, "_record", record_after, 40),
    "the generation is not raised": (UndoneFold, "add", generation_not_raised, 40),
    "use is asked once, at the start": (CloneReader, "services_in_use", used_at_the_start, 150),
    "a foreign clone is the run's": (rollback, "why_foreign", lambda _item, _targets: "", 60),
    "an edited target is as it was": (rollback, "_change", lambda _item: "", 60),
    "the server's dates are not looked at": (
        deletions,
        "_was_touched",
        lambda _item, _fields, _longest: False,
        60,
    ),
}
"""What is planted, and the number of schedules within which it must be found."""


@pytest.mark.parametrize("name", MUTANTS)
def test_each_mistake_of_a_rollback_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mistake breaks a promise within its number of schedules."""
    owner, attribute, mutant, within = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    assert first_broken(range(within), tmp_path / "m") is not None, f"{name} survives"


def test_the_readme_says_how_soon_each_mistake_of_a_rollback_is_found() -> None:
    """tests/README.md has every mistake and the number of schedules it may take."""
    text = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    for name, (_, _, _, within) in MUTANTS.items():
        assert f"| {name} | {within} | rollback |\n" in text
