"""The manifest: the append-only journal of one run and the only truth about it.

Its writer is imported lazily.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from batch.manifest.fold import ManifestFold, digest_prefix
from batch.manifest.header import Header
from batch.manifest.listing import Story, clone_lines, rows, story
from batch.manifest.reading import FinishedRun, is_locked, read_finished
from batch.manifest.summaries import Cluster, Summary, summary

if TYPE_CHECKING:
    from batch.manifest.journal import Manifest
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
    "digest_prefix",
    "is_locked",
    "open_manifest",
    "read_finished",
    "rows",
    "story",
    "summary",
]

_HOMES: Final = {"Manifest": "batch.manifest.journal", "open_manifest": "batch.manifest.opening"}


def __getattr__(name: str) -> object:
    """Import asyncio only where a manifest is written: most commands only read one."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
