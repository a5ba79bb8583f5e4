"""Job files for the tests of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from batch.jobfile import load
from batch.plan import Planning

if TYPE_CHECKING:
    from pathlib import Path

    from batch.model import Clone

HEAD = "version: 1\nname: j\n"
UUID = "d76744cb53f9378abf42b907df3efb6e"


class Expand(Protocol):
    def __call__(self, job: str | bytes, **files: str) -> list[Clone]: ...


@pytest.fixture
def expand(tmp_path: Path) -> Expand:
    """Write a job file and the files it names (``rows_csv`` for rows.csv) and return its clones."""

    def run(job: str | bytes, **files: str) -> list[Clone]:
        path = tmp_path / "job.yaml"
        path.write_bytes(job.encode() if isinstance(job, str) else job)
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text, encoding="utf-8")
        return list(Planning(load(path), run=None, started_at=0.0).plan().clones())

    return run
