"""Progress: a live view on a terminal, else a heartbeat in the log; both only read the manifest's counts."""

from batch.progress.board import Board, CallRate, Failure, Snapshot, Waiting, first_sent, time_left, wave_text
from batch.progress.frame import draw_frame
from batch.progress.views import BEAT, heartbeat, live, new_view, no_view, show_until, ticking

__all__ = [
    "BEAT",
    "Board",
    "CallRate",
    "Failure",
    "Snapshot",
    "Waiting",
    "draw_frame",
    "first_sent",
    "heartbeat",
    "live",
    "new_view",
    "no_view",
    "show_until",
    "ticking",
    "time_left",
    "wave_text",
]
