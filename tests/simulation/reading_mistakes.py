"""More mistakes planted in the real code: in reading the server's bytes, and in reading the manifest's ends."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batch.manifest import fold
from batch.manifest.kinds import EndedLine
from batch.manifest.line import SEAL
from batch.manifest.records import parse_line
from batch.model import State
from batch.zstack import client, replies
from batch.zstack.answers import Absent, Accepted, NoAnswer
from tests.simulation.mutants import Mutant

if TYPE_CHECKING:
    import pytest

    from batch.manifest.reader import ManifestReader
    from batch.model import Record


def noise_is_accepted(patch: pytest.MonkeyPatch) -> None:
    """Bytes without meaning are taken for a yes to the POST."""
    read = replies.read_submit

    def submitted(*given: Any) -> Any:
        answer = read(*given)
        return Accepted(None) if isinstance(answer, NoAnswer) else answer

    patch.setattr(client, "read_submit", submitted)


def noise_is_absent(patch: pytest.MonkeyPatch) -> None:
    """Bytes without meaning are taken for a list without the clone."""
    read = replies.read_find

    def found(*given: Any) -> Any:
        answer = read(*given)
        return Absent() if isinstance(answer, NoAnswer) else answer

    patch.setattr(client, "read_find", found)


def ends_forgotten(patch: pytest.MonkeyPatch) -> None:
    """What failed is planned again for the next process, without a retry."""
    settle = fold.ManifestFold._settle

    def forget(self: fold.ManifestFold, record: Record, code: int) -> None:
        settle(self, record, code)
        if fold._STATES[code] is State.FAILED:
            self._finals[code] -= 1
            self._table.put(hash(record.key), fold._PLANNED)

    patch.setattr(fold.ManifestFold, "_settle", forget)


def open_ends_believed(patch: pytest.MonkeyPatch) -> None:
    """The last line of a process that ended cleanly is taken for the end of the run, whatever it counts."""

    def ended(manifest: ManifestReader) -> EndedLine | None:
        data = manifest.read(0, manifest.size)
        found = parse_line(data[data.rfind(b"\n", 0, -1) + 1 : -1 - SEAL])
        return found if isinstance(found, EndedLine) and found.counts else None

    patch.setattr(import_module("batch.manifest.reader"), "_settled_end", ended)


MISREADINGS = (
    Mutant("noise is accepted", noise_is_accepted, 10, "noise"),
    Mutant("noise is absent", noise_is_absent, 40, "noise"),
    Mutant("ends forgotten", ends_forgotten, 250),
    Mutant("open ends believed", open_ends_believed, 30),
)
