"""Progress: a live view on a terminal, else a heartbeat in the log; both only read the manifest's counts."""

from batch.progress.board import Board, CallRate, Failure, Snapshot, Waiting, oldest_in_flight, time_left, wave_text
from batch.progress.views import BEAT, draw_frame, heartbeat, live, new_view, no_view, show_until, ticking

__all__ = [
    "BEAT",
    "Board",
    "CallRate",
    "Failure",
    "Snapshot",
    "Waiting",
    "draw_frame",
    "heartbeat",
    "live",
    "new_view",
    "no_view",
    "oldest_in_flight",
    "show_until",
    "ticking",
    "time_left",
    "wave_text",
]
