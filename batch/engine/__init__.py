"""The engine: worker pool, rate limiter, protocol of one Clone, retry policy."""

from batch.engine.control import Stop
from batch.engine.gate import Gate, hard_cap
from batch.engine.run import clone_all

__all__ = ["Gate", "Stop", "clone_all", "hard_cap"]
