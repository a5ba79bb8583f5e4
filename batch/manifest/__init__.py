"""The manifest: the append-only journal of one run, and the only truth about it."""

from batch.manifest.figures import Cluster, Summary, summary
from batch.manifest.finished import Finished, finished
from batch.manifest.fold import Past, digest_prefix
from batch.manifest.header import Header
from batch.manifest.journal import Manifest
from batch.manifest.listing import Story, rows, scan, story
from batch.manifest.opening import open_manifest
from batch.manifest.reading import is_held

__all__ = [
    "Cluster",
    "Finished",
    "Header",
    "Manifest",
    "Past",
    "Story",
    "Summary",
    "digest_prefix",
    "finished",
    "is_held",
    "open_manifest",
    "rows",
    "scan",
    "story",
    "summary",
]
