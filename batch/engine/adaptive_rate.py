"""Adapts the rate to the server's own rate limiter: lowered after a refusal, then raised to the configured rate again.

The limit of the server is not known, nor who shares it. A refusal pauses all calls and lowers the rate. The number of
calls admitted between two refusals shows the limit: from just below it the rate is raised slowly, and faster the longer
no refusal comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.clock import backoff_pause

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock

_LOWER: Final = 0.85
"""Factor by which a refusal lowers the rate."""
_BELOW: Final = 0.97
"""Factor of the rate that was admitted between two refusals, for the rate after the second one."""
_SHORTEST: Final = 10.0
_LONGEST: Final = 60.0
"""Shortest and longest time in seconds over which admitted calls are counted: a limiter has a window of its own."""
_GROWTH: Final = 0.001
"""Share of the rate by which it is raised in a second."""
_PATIENCE: Final = 20.0
"""Seconds without a refusal after which that share grows with time."""
_FIRST: Final = 1.0
_CAP: Final = 30.0
"""Longest pause in seconds; pauses double while refusals follow each other."""
_LEAST: Final = 0.01
"""Share of the configured rate below which the rate never falls."""


class AdaptiveRate:
    """The number of calls a second that the server currently admits."""

    def __init__(self, maximum: float, clock: Clock) -> None:
        """Start at ``maximum``, the configured rate."""
        self.on_change: Callable[[float, float], None] | None = None
        """Called with the current and the configured rate when the rate was lowered and when it is back."""
        self._maximum = maximum
        self._clock = clock
        self._rate = maximum
        self._refused_at: float | None = None
        """When the first refusal of the current series came."""
        self._grown_at = 0.0
        self._in_a_row = 0
        self._closed_until = float("-inf")
        self._calls = 0
        """Calls since the last pause."""
        self._measured_from = 0.0
        self._admitted = 0.0
        """Calls since the last lowering."""

    def set_maximum(self, maximum: float) -> float:
        """Set the configured rate to ``maximum``; return the calls a second until the next call."""
        was_lowered, self._maximum = self.is_lowered, maximum
        self._rate = min(self._rate, maximum) if was_lowered else maximum
        if was_lowered and not self.is_lowered:
            self._report()
        return self._rate

    @property
    def value(self) -> float:
        """The current rate in calls a second."""
        return self._rate

    @property
    def is_lowered(self) -> bool:
        """Whether the current rate is below the configured one."""
        return self._rate < self._maximum

    def note_call(self) -> float:
        """Count a call; return the calls a second until the next one."""
        self._calls += 1
        self._admitted += 1.0
        if self._refused_at is not None and self.is_lowered:
            now = self._clock.monotonic()
            share = _GROWTH * max(1.0, (now - self._refused_at) / _PATIENCE) ** 2
            self._rate = min(self._maximum, self._rate * (1.0 + share * (now - self._grown_at)))
            self._grown_at = now
            if self._rate == self._maximum:
                self._report()
        return self._rate

    def _report(self) -> None:
        if self.on_change is not None:
            self.on_change(self._rate, self._maximum)

    def slow_down(self) -> float:
        """Handle a refusal; return the seconds of the pause, 0 where one is already in force."""
        now = self._clock.monotonic()
        if now < self._closed_until:
            return 0.0
        # The first calls after a pause show nothing: the limiter's window is still as full as before.
        self._in_a_row = self._in_a_row + 1 if self._calls <= max(2.0, self._rate / 2) else 1
        pause = backoff_pause(self._in_a_row - 1, self._clock.random(), first=_FIRST, cap=_CAP)
        if self._in_a_row == 1:
            self._lower(now)
        self._grown_at, self._calls = now + pause, 0
        self._closed_until = now + pause
        return pause

    def _lower(self, now: float) -> None:
        lower = self._rate * _LOWER
        if self._refused_at is None:
            self._measured_from, self._admitted = now, 0.0
        elif (seconds := now - self._measured_from) >= _SHORTEST:
            measured = self._admitted / seconds
            # The measured time includes pauses: where the result is not far below the rate, the rate itself was
            # refused.
            lower = _BELOW * (measured if measured < lower else self._rate)
            if seconds >= _LONGEST:
                self._measured_from, self._admitted = now - seconds / 2, self._admitted / 2
        self._refused_at = now
        self._rate = max(_LEAST * self._maximum, lower)
        self._report()
