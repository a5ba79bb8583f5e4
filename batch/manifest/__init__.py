"""The manifest: the append-only journal of one run, and the only truth about it."""

from batch.manifest.ending import FinishedRun, read_finished
from batch.manifest.figures import Cluster, Summary, summary
from batch.manifest.fold import ManifestFold, digest_prefix
from batch.manifest.header import Header
from batch.manifest.journal import Manifest
from batch.manifest.listing import Story, clone_lines, rows, story
from batch.manifest.opening import open_manifest
from batch.manifest.reading import is_held

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
    "is_held",
    "open_manifest",
    "read_finished",
    "rows",
    "story",
    "summary",
]
