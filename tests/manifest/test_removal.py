"""Removing the manifest of a settled run: under its lock, and of no other."""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

import pytest

from batch.errors import UsageError
from batch.manifest.opening import remove_settled
from batch.manifest.reader import last_started
from tests.report.made_manifest import make_manifest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Write a manifest in which every target has its end."""
    path = tmp_path / "made.manifest.jsonl"
    make_manifest(path, targets=6)
    return path


def test_a_settled_manifest_is_removed(manifest: Path) -> None:
    """If every target has its end and the last process ended too, the file is deleted."""
    assert remove_settled(manifest)
    assert not manifest.exists()


def test_a_locked_manifest_stays(manifest: Path) -> None:
    """The process with the lock keeps the file."""
    with manifest.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not remove_settled(manifest)
    assert manifest.exists()


def test_a_manifest_without_an_end_stays(manifest: Path) -> None:
    """A killed process may have left clones in flight; it is also the one that is named as the last."""
    assert last_started(manifest) is None
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:-1]))
    assert not remove_settled(manifest)
    assert manifest.exists()
    started = last_started(manifest)
    assert started is not None
    assert started.host == "ops-1"


def test_a_damaged_manifest_stays(manifest: Path) -> None:
    """An unreadable manifest is not removed; a missing file, or one of another kind, is reported."""
    manifest.write_bytes(manifest.read_bytes()[:200] + b"x" + manifest.read_bytes()[201:])
    assert not remove_settled(manifest)
    assert manifest.exists()
    with pytest.raises(UsageError):
        remove_settled(manifest.with_name("absent"))
    link = manifest.with_name("link")
    link.symlink_to(manifest)
    with pytest.raises(UsageError):
        remove_settled(link)
