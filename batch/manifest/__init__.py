"""The manifest: the append-only journal of one run and the only truth about it.

Its writer and the listing of its targets are imported lazily.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from batch.manifest.fold import ManifestFold
from batch.manifest.line import Header
from batch.manifest.reader import FinishedRun, is_locked, read_finished
from batch.manifest.summaries import Cluster, Summary, summary

if TYPE_CHECKING:
    from batch.manifest.journal import Manifest
    from batch.manifest.listing import Story, clone_lines, rows, story
    from batch.manifest.opening import open_manifest

__all__ = [
    "Cluster",
    "FinishedRun",
    "Header",
    "Manifest",
    "ManifestFold",
    "Story",
    "Summary",
    "clone_lines",
    "is_locked",
    "open_manifest",
    "read_finished",
    "rows",
    "story",
    "summary",
]

_HOMES: Final = {
    "Manifest": "batch.manifest.journal",
    "open_manifest": "batch.manifest.opening",
    **dict.fromkeys(("Story", "clone_lines", "rows", "story"), "batch.manifest.listing"),
}


def __getattr__(name: str) -> object:
    """Import asyncio only where a manifest is written, and the listing only where targets are listed."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
