"""Progress: a live view on a terminal, a heartbeat in the log elsewhere; both only read what the manifest counts."""

from batch.progress.board import Board, Failure, Snapshot
from batch.progress.picture import picture
from batch.progress.views import BEAT, heartbeat, live, new_view, silent, ticking

__all__ = ["BEAT", "Board", "Failure", "Snapshot", "heartbeat", "live", "new_view", "picture", "silent", "ticking"]
