"""How Python's interpreter works while clones are in flight."""

from __future__ import annotations

import gc
import sys
from typing import Final

_COLLECT_AFTER: Final = (50_000, 50, 100)
"""Thresholds of the cycle collector: a clone leaves hardly a cycle, and collections would only stall the others."""
_SWITCH_INTERVAL: Final = 0.001
"""Seconds: the journal's thread has next to nothing to do, and waits five times as long for its turn by default."""


def tune() -> None:
    """Take what is there now as lasting until the end, and let the event loop and the journal's thread take turns."""
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)
    sys.setswitchinterval(_SWITCH_INTERVAL)
