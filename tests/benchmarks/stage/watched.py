"""zclone with a heartbeat in its event loop: ``python -m tests.benchmarks.stage.watched FILE ARGUMENT...``.

The heart beats every 2 ms; a thread checks it, and samples the main thread when it is late. FILE gets the worst stalls
as JSON. In a stall with little processor time the main thread waited: for the disk, another thread or a core.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.cli import main

if TYPE_CHECKING:
    from types import FrameType

_BEAT = 0.002
_LATE = 0.005
"""Seconds after which the thread samples the main thread."""
_KEPT = 20
_FRAMES = 4


class Heart:
    """Beats in the loop, and keeps the longest pauses between two beats with the samples taken in them."""

    def __init__(self) -> None:
        self.stalls: list[dict[str, Any]] = []
        self._at = self._spent = 0.0
        self._seen: Counter[str] = Counter()
        self._collecting = 0.0
        self._main = threading.get_ident()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""
        gc.callbacks.append(self._collected)
        self._at, self._spent = time.monotonic(), time.thread_time()
        threading.Thread(target=self._look, daemon=True).start()
        loop.call_later(_BEAT, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        now, spent = time.monotonic(), time.thread_time()
        stall = {
            "seconds": now - self._at - _BEAT,
            "processor": spent - self._spent,
            "collector": self._collecting,
            "seen": max(self._seen, key=self._seen.__getitem__, default=""),
        }
        self._at, self._spent, self._seen, self._collecting = now, spent, Counter(), 0.0
        if len(self.stalls) < _KEPT or _seconds(stall) > _seconds(self.stalls[-1]):
            self.stalls = sorted([*self.stalls, stall], key=_seconds, reverse=True)[:_KEPT]
        loop.call_later(_BEAT, self._beat, loop)

    def _look(self) -> None:
        while True:
            time.sleep(_BEAT)
            if time.monotonic() - self._at > _LATE + _BEAT:
                self._seen[_place(sys._current_frames()[self._main])] += 1

    def _collected(self, phase: str, _info: dict[str, int]) -> None:
        now = time.monotonic()
        self._collecting += -now if phase == "start" else now


def _place(frame: FrameType) -> str:
    """Return the innermost frames of zclone's own code, or of other code if there are none."""
    frames = traceback.extract_stack(frame)
    own = [at for at in frames if f"{os.sep}batch{os.sep}" in at.filename] or frames
    return " < ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in reversed(own[-_FRAMES:]))


def _seconds(stall: dict[str, Any]) -> float:
    return float(stall["seconds"])


def watch(heart: Heart) -> None:
    """Add the heart to the loop of every asyncio.Runner of this process."""
    make = asyncio.Runner

    def runner(**options: Any) -> asyncio.Runner:
        made = make(**options)
        heart.start(made.get_loop())
        return made

    vars(asyncio)["Runner"] = runner


if __name__ == "__main__":
    figures, sys.argv = Path(sys.argv[1]), ["zclone", *sys.argv[2:]]
    ours = Heart()
    watch(ours)
    try:
        main()
    finally:
        figures.write_text(json.dumps({"stalls": ours.stalls}), encoding="utf-8")
