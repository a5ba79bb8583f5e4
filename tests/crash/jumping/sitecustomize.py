"""A wall clock that is set by hand: ``CLOCK_JUMPS`` seconds are added to it half a second after the first POST's time.

On the PYTHONPATH of a child process before anything of the project is loaded; the monotonic clock stays true.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import tests.confined.sitecustomize  # noqa: F401 - Python loads one sitecustomize only

_true = time.time
_flag = Path(os.environ["CLOCK_FLAG"])
_jump = float(os.environ["CLOCK_JUMPS"])


def _set() -> float:
    return _true() + (_jump if _flag.exists() else 0.0)


time.time = _set
