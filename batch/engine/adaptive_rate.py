"""The rate after the server's own limiter refused calls: lowered a little, then grown back to what was asked for.

How many calls a server admits is not known, nor who shares that number. A refusal pauses everybody and lowers the rate.
What was admitted from one refusal to the next shows the limit: just below it the rate is won back slowly, and faster
the longer no refusal comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock

_LOWER: Final = 0.85
"""What a refusal leaves of the rate."""
_BELOW: Final = 0.97
"""Of what was admitted between two refusals: the rate after the second one."""
_SHORTEST: Final = 10.0
_LONGEST: Final = 60.0
"""Seconds over which that is counted: no less, as a limiter counts over a time of its own, and not much more."""
_GROWTH: Final = 0.001
"""The share of the rate that is won back in a second."""
_PATIENCE: Final = 20.0
"""Seconds without a refusal after which that share grows with the time."""
_FIRST: Final = 1.0
_CAP: Final = 30.0
"""Seconds of a pause: it doubles while refusals follow each other."""
_LEAST: Final = 0.01
"""The rate never falls below this share of what was asked for."""


class AdaptiveRate:
    """Calls a second that may be made just now."""

    def __init__(self, most: float, clock: Clock) -> None:
        """``most``: what was asked for."""
        self.on_change: Callable[[float, float], None] | None = None
        """Called with the rate and what was asked for, when the one was lowered and when it is back at the other."""
        self._most = most
        self._clock = clock
        self._rate = most
        self._refused_at: float | None = None
        """When the last refusal came that was the first of a row."""
        self._grown_at = 0.0
        self._in_a_row = 0
        self._closed_until = float("-inf")
        self._calls = 0
        """Since the last pause."""
        self._measured_from = 0.0
        self._admitted = 0.0
        """Calls since then."""

    def set_most(self, most: float) -> float:
        """Take in that ``most`` is asked for from now on; return the calls a second until the next one."""
        was_lowered, self._most = self.is_lowered, most
        self._rate = min(self._rate, most) if was_lowered else most
        if was_lowered and not self.is_lowered:
            self._report()
        return self._rate

    @property
    def value(self) -> float:
        """Calls a second."""
        return self._rate

    @property
    def is_lowered(self) -> bool:
        """Whether it is below what was asked for."""
        return self._rate < self._most

    def note_call(self) -> float:
        """Take in that a call is made now; return the calls a second until the next one."""
        self._calls += 1
        self._admitted += 1.0
        if self._refused_at is not None and self.is_lowered:
            now = self._clock.monotonic()
            share = _GROWTH * max(1.0, (now - self._refused_at) / _PATIENCE) ** 2
            self._rate = min(self._most, self._rate * (1.0 + share * (now - self._grown_at)))
            self._grown_at = now
            if self._rate == self._most:
                self._report()
        return self._rate

    def _report(self) -> None:
        if self.on_change is not None:
            self.on_change(self._rate, self._most)

    def slow_down(self) -> float:
        """Take in a refusal; return the seconds of a pause, 0 where one is under way already."""
        now = self._clock.monotonic()
        if now < self._closed_until:
            return 0.0
        # A call or two after a pause show nothing yet: the window of the limiter is as full as it was.
        self._in_a_row = self._in_a_row + 1 if self._calls <= max(2.0, self._rate / 2) else 1
        pause = min(_CAP, _FIRST * 2.0 ** (self._in_a_row - 1)) * (0.75 + 0.5 * self._clock.random())
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
            # Pauses are part of what is measured: where it is not far below the rate, that is what was refused.
            lower = _BELOW * (measured if measured < lower else self._rate)
            if seconds >= _LONGEST:
                self._measured_from, self._admitted = now - seconds / 2, self._admitted / 2
        self._refused_at = now
        self._rate = max(_LEAST * self._most, lower)
        self._report()
