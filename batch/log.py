"""Logging: the one place that configures structlog and renders, redacts and sanitises events.

One event is one line, whatever the server put into its fields.
"""

from __future__ import annotations

import functools
import json
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import structlog

from batch.redaction import REDACTED, SECRETS
from batch.text import escape, escape_json, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from batch.sink import Sink


_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30
_MARKS: Final = {"debug": ".", "info": "-", "warning": "!"}
"""Marks of the levels on the console; ``x`` for error and critical."""

_SECRET_KEYS: Final = re.compile(
    r"passw(or)?d|passphrase|secret|token|authorization|cookie|signature|session_?(uu)?id|credential",
    re.IGNORECASE,
)
_SINKS: Final[list[Sink]] = []
"""Where events go; one sink once it is configured."""
_BOUND: Final[dict[str, str]] = {}
"""Fields at the end of every line, from whichever thread or task."""


class Format(StrEnum):
    """Output formats of events."""

    JSON = "json"
    CONSOLE = "console"


class _Lines:
    """The logger that structlog wraps: every level ends in the same sink."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = sink.put


def configure(sink: Sink, *, style: Format, level: int = INFO, columns: Callable[[], int] | None = None) -> None:
    """Send every event of the process to ``sink`` and unbind all fields; the only call of ``structlog.configure``.

    ``columns``: width of the terminal that console lines are cut to; None or 0: they are not cut.
    """
    _BOUND.clear()
    _SINKS[:] = [sink]
    structlog.configure(
        processors=[*_COMPLETE, *(_JSON_LINE if style is Format.JSON else [_ConsoleLine(columns)])],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sink),
        cache_logger_on_first_use=False,
    )


def flush() -> None:
    """Wait until all events so far are written, or the sink's time limit is over."""
    for sink in _SINKS:
        sink.flush()


def bind(**fields: str) -> None:
    """Add fields to every later event of the process that does not have them itself."""
    _BOUND.update(fields)


@functools.lru_cache(maxsize=1024)
def _names_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _without_secrets(event: EventDict) -> dict[str, Any]:
    named = ((str(key), value) for key, value in event.items())
    return {SECRETS.redact(key): REDACTED if _names_secret(key) else _redact(value) for key, value in named}


def _redact(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [_redact(inner) for inner in value]
    return SECRETS.redact(str(value))


def _with_bound(_logger: WrappedLogger, _level: str, event: EventDict) -> EventDict:
    return {**event, **{name: value for name, value in _BOUND.items() if name not in event}}


def _arrange(_logger: WrappedLogger, _level: str, event: EventDict) -> dict[str, Any]:
    """Put time, level and name first; remove secrets."""
    first = {name: event.pop(name) for name in ("at", "level", "event")}
    return _without_secrets({**first, **event})


def _as_line(_logger: WrappedLogger, _level: str, text: Any) -> bytes:
    return escape_json(text).encode() + b"\n"


_COMPLETE: Final[tuple[Processor, ...]] = (
    _with_bound,
    structlog.processors.TimeStamper("%Y-%m-%dT%H:%M:%S.%fZ", utc=True, key="at"),
    structlog.processors.add_log_level,
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    _arrange,
)
"""Processors that every event passes before it is rendered in either format."""
_JSON_LINE: Final[tuple[Processor, ...]] = (
    structlog.processors.JSONRenderer(lambda event, **_: _JSON.encode(event)),
    _as_line,
)


class _ConsoleLine:
    """Renders an event as one line for people: time, level mark, event, fields.

    The line of a settled clone shows key, state, code, attempt, seconds and text; bound fields appear in the first line
    only.
    """

    def __init__(self, columns: Callable[[], int] | None) -> None:
        self._columns = columns
        self._shown: dict[str, object] = {}

    def __call__(self, _logger: WrappedLogger, _level: str, event: EventDict) -> bytes:
        moment, level = str(event.pop("at", ""))[11:19], str(event.pop("level", ""))
        trace = event.pop("exception", None)
        name = escape(str(event.pop("event", "")))
        fields = self._without_repeats({key: value for key, value in event.items() if value is not None})
        text = _clone_text(fields) if name == "clone.settled" else f"{name} {_pairs(fields)}"
        line = f"{moment} {_MARKS.get(level, 'x')} {text}".rstrip()
        if trace:
            line += f" {_console_value(json.dumps(trace))}"
        elif self._columns is not None and (columns := self._columns()):
            line = fit(line, columns)
        return line.encode("utf-8", "backslashreplace") + b"\n"

    def _without_repeats(self, fields: dict[str, Any]) -> dict[str, Any]:
        bound = {key: value for key, value in fields.items() if key in _BOUND}
        repeated = {key for key, value in bound.items() if self._shown.get(key) == value}
        self._shown |= bound
        return {key: value for key, value in fields.items() if key not in repeated}


def _clone_text(fields: dict[str, Any]) -> str:
    attempt, seconds = fields.get("attempts"), fields.get("seconds")
    known = (fields.get("key"), fields.get("state"), fields.get("error_code"))
    times = (attempt and f"attempt {attempt}", None if seconds is None else f"{seconds:.1f} s")
    others = {key: value for key, value in fields.items() if key in _BOUND}
    parts = (*known, *times, fields.get("error"), _pairs(others))
    return "  ".join(escape(str(part)) for part in parts if part)


def _pairs(fields: dict[str, Any]) -> str:
    return " ".join(f"{escape(str(key))}={_console_value(value)}" for key, value in fields.items())


def _console_value(value: object) -> str:
    text = escape(value if isinstance(value, str) else str(value))
    return f'"{text}"' if " " in text or not text else text
