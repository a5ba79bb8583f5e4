"""Logs: the one place that configures structlog, and renders, redacts and sanitises events.

One event is one line, whatever the server put into its fields.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import re
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from structlog.typing import EventDict, Processor, WrappedLogger

    from batch.sink import Sink


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


_ORJSON: Final = _optional("orjson")
"""The extra [speed] brings it; the standard library writes the same lines."""

_PLAIN: Final = (
    0
    if _ORJSON is None
    else _ORJSON.OPT_PASSTHROUGH_DATACLASS | _ORJSON.OPT_PASSTHROUGH_DATETIME | _ORJSON.OPT_PASSTHROUGH_SUBCLASS
)
"""Only JSON's own types are encoded as they are."""
_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
REDACTED: Final = "[redacted]"
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30

_SECRET_KEYS: Final = re.compile(
    r"passw(or)?d|passphrase|secret|token|authorization|cookie|signature|session_?(uu)?id|credential",
    re.IGNORECASE,
)
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_UNSAFE_UTF8: Final = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xbb\xbf"
)
_PERCENT: Final = re.compile("%[0-9A-F]{2}")
_NESTED: Final = {dict, list, tuple}
_FIRST: Final = {"at": None, "level": None, "event": None}
"""What every line begins with."""
_BOUND: Final[dict[str, str]] = {}
"""What every line ends with; structlog's own, kept in the context of each task, would be looked for at every event."""
_SHORTEST_SECRET: Final = 4


class Format(StrEnum):
    """How events are written."""

    JSON = "json"
    CONSOLE = "console"


class Secrets:
    """Values that must not leave the process, and every form they could leave in."""

    def __init__(self) -> None:
        """Know none yet."""
        self._forms: set[str] = set()
        self._encoded: tuple[bytes, ...] = ()
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """Redact ``value`` from now on, also hashed, base64, url- and JSON-encoded; under 4 characters is ignored."""
        if len(value) < _SHORTEST_SECRET:
            return
        self._forms |= set(_forms(value))
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        in_json = {
            json.dumps(form, ensure_ascii=ascii_only)[1:-1] for form in self._forms for ascii_only in (True, False)
        }
        encoded = {form.encode("utf-8", "backslashreplace") for form in self._forms | in_json}
        # Where a form is, the shorter ones that it contains are too: only they need to be looked for.
        self._encoded = tuple(form for form in encoded if not any(part in form for part in encoded - {form}))

    def are_in(self, line: bytes) -> bool:
        """Whether any registered secret, in any form, is in a line of JSON."""
        for form in self._encoded:  # noqa: SIM110 - any() would cost as much as the search
            if form in line:
                return True
        return False

    def redact(self, text: str) -> str:
        """Replace every registered secret in ``text``."""
        return self._pattern.sub(REDACTED, text) if self._pattern else text


def _forms(value: str) -> Iterable[str]:
    raw = value.encode("utf-8", "surrogateescape")
    digest = hashlib.sha512(raw).hexdigest()
    yield from (digest, digest.upper())
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        yield from (quoted, _PERCENT.sub(lambda match: match.group().lower(), quoted))
    for encoded in (base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()):
        yield from (encoded, encoded.rstrip("="))
    yield from (value, sanitised(value), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1])


SECRETS: Final = Secrets()
"""The secrets of this process: whatever resolves a setting registers it here before it is used."""


def sanitised(text: str) -> str:
    r"""Escape what steers a terminal or breaks a line: C0, DEL, C1, bidi controls, U+2028, lone surrogates.

    >>> sanitised("a\x1b[2J")
    'a\\x1b[2J'
    """
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    named = {9: r"\t", 10: r"\n", 13: r"\r"}
    return named.get(code) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")


def _escape_utf8(match: re.Match[bytes]) -> bytes:
    return f"\\u{ord(match.group().decode()):04x}".encode()


class _Lines:
    """What structlog calls a logger: every level ends in the same sink."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = sink.put


def configure(sink: Sink, *, style: Format, level: int = INFO) -> None:
    """Send every event of the process to ``sink``, nothing bound; the only ``structlog.configure`` of the project."""
    _BOUND.clear()
    structlog.configure(
        processors=[_as_json if style is Format.JSON else _as_console],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Lines(sink),
        cache_logger_on_first_use=False,
    )


def bind(**fields: str) -> None:
    """Put fields behind what every event of the process tells from now on, where it does not have them itself."""
    _BOUND.update(fields)


@functools.lru_cache(maxsize=1024)
def _names_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def _without_secrets(event: EventDict) -> dict[str, Any]:
    named = ((str(key), value) for key, value in event.items())
    return {SECRETS.redact(key): REDACTED if _names_secret(key) else _redacted(value) for key, value in named}


def _redacted(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return SECRETS.redact(str(value))


_with_traceback: Final[Processor] = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def _as_json(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    line = _encoded(_completed(logger, level, event))
    if not line.isascii() or b"\x7f" in line:
        line = _UNSAFE_UTF8.sub(_escape_utf8, line)
    return line + b"\n"


def _completed(logger: WrappedLogger, level: str, event: EventDict) -> dict[str, Any]:
    """Put time and level before what is told, and what is bound and a traceback behind it.

    In one step, not in structlog's chain of four: every settled clone pays for each.
    """
    told: dict[str, Any] = {**_FIRST, **event}
    for name, value in _BOUND.items():
        told.setdefault(name, value)
    if "exc_info" in told:
        _with_traceback(logger, level, told)
    told["at"] = _now()
    told["level"] = level
    return told


def _now() -> str:
    digits = f"{time.time_ns():010}"
    return f"{_to_the_second(digits[:-9])}.{digits[-9:-3]}Z"


@functools.lru_cache(maxsize=1)
def _to_the_second(epoch: str) -> str:
    return datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%S")


@functools.lru_cache(maxsize=64)
def _name_secrets(keys: tuple[str, ...]) -> bool:
    return any(map(_names_secret, keys))


def _encoded(event: dict[str, Any]) -> bytes:
    """Encode first and look for secrets in the whole line: hardly any has one."""
    if _name_secrets(tuple(event)):
        return _encoded_without_secrets(event)
    try:
        line: bytes = _encoded_by_json(event) if _ORJSON is None else _ORJSON.dumps(event, None, _PLAIN)
    except TypeError:  # a lone surrogate, a huge number, a value of another type
        return _encoded_without_secrets(event)
    if SECRETS.are_in(line) or _has_nested(event, line):
        return _encoded_without_secrets(event)
    return line


def _has_nested(event: dict[str, Any], line: bytes) -> bool:
    """Whether there may be fields within fields, whose names may say secret: then there is a second brace."""
    return line.rfind(b"{") > 0 and not _NESTED.isdisjoint(map(type, event.values()))


def _encoded_without_secrets(event: dict[str, Any]) -> bytes:
    return _encoded_by_json(_without_secrets(event))


def _encoded_by_json(event: dict[str, Any]) -> bytes:
    return _JSON.encode(event).encode("utf-8", "backslashreplace")


def _as_console(logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    event = _without_secrets(_completed(logger, level, event))
    moment = str(event.pop("at", ""))[11:19]
    level = str(event.pop("level", ""))
    trace = event.pop("exception", None)
    name = sanitised(str(event.pop("event", "")))
    fields = " ".join(f"{sanitised(str(key))}={_shown(value)}" for key, value in event.items() if value is not None)
    tail = f" {_shown(json.dumps(trace))}" if trace else ""
    line = f"{moment} {level:<7} {name} {fields}".rstrip() + tail
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _shown(value: object) -> str:
    text = sanitised(value if isinstance(value, str) else str(value))
    return f'"{text}"' if " " in text or not text else text
