"""JSON: job files, with places by the YAML events of the same text; JSON Lines, one object a line with its number."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from batch.jobfile.problems import Complaint, Problems, RowOrigin, fail, quote
from batch.jobfile.values import MAX_DEPTH, TOO_DEEP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from batch.errors import JobFileError

_ESCAPE: Final = re.compile(r"\\(u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL)
_PLACEHOLDER: Final = r"\ufffd"
"""As long as the escape of half a surrogate pair, which YAML does not allow."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""Above the longest ``yaml`` parameter that the server stores (16 MiB), escaped."""
_BARE_UUID: Final = re.compile(r"[0-9A-Za-z]{32}")
_LINE: Final = "a JSON object or a source uuid in quotes"


class _Value(NamedTuple):
    """A scalar's text as YAML would write it, and whether it is in quotes."""

    text: str
    is_quoted: bool


class _Number(str):
    """A number as written."""

    __slots__ = ()


class _BadJsonError(ValueError):
    """JSON that the json module accepts and zclone does not."""


class JsonText(NamedTuple):
    """A text that is JSON."""

    values: list[_Value]
    """Values of all keys and scalars in the order of the text."""
    as_yaml: str
    """The same text, with every character in the same place, with escapes that YAML can parse."""

    def events(self, yaml_events: Iterator[Any], file: str) -> Iterator[Any]:
        """Yield the events ``yaml_events`` in ``as_yaml`` with the values of the JSON. Raises JobFileError."""
        values = iter(self.values)
        for event in yaml_events:
            if event.__class__ is not yaml.ScalarEvent:
                yield event
                continue
            mark: Any = event.start_mark
            value = next(values)
            if _SURROGATE.search(value.text):
                message = r"has half of a surrogate pair: write both, such as \ud83d\ude80, or the character itself"
                raise fail(file, message, at=(mark.line + 1, mark.column + 1))
            style = '"' if value.is_quoted else None
            yield yaml.ScalarEvent(None, None, (True, True), value.text, mark, event.end_mark, style)


def read_json(text: str) -> JsonText:
    """Parse ``text``. Raises ValueError where it is not JSON, RecursionError where it is nested too deeply."""
    tree = json.loads(
        text,
        object_pairs_hook=tuple,
        parse_int=_Number,
        parse_float=_Number,
        parse_constant=_refuse_constant,
    )
    return JsonText(list(_scalars(tree)), _ESCAPE.sub(_readable, text))


def bad_json(file: str, error: ValueError) -> JobFileError:
    """Return the error for a ``.json`` file that is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        return fail(file, f"not JSON: {error.msg}", at=(error.lineno, error.colno))
    return fail(file, str(error))


def _refuse_constant(name: str) -> None:
    raise _BadJsonError(f"{name} is not JSON")


def _readable(match: re.Match[str]) -> str:
    return _PLACEHOLDER if len(match[1]) > 1 else match[0]


def _scalars(tree: Any) -> Iterator[_Value]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple):
            waiting += [part for pair in reversed(node) for part in reversed(pair)]
        elif isinstance(node, list):
            waiting += reversed(node)
        elif isinstance(node, str):
            yield _Value(str(node), not isinstance(node, _Number))
        else:
            yield _Value(json.dumps(node), is_quoted=False)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _BadJsonError(f"duplicate key {quote(twice)}")
    return fields


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant).decode


def read_jsonl(stream: IO[bytes], file: str, problems: Problems) -> Iterator[tuple[RowOrigin, dict[str, Any]]]:
    """Yield the objects; a text alone is the ``uuid`` of one.

    Raises JobFileError where the file can no longer be read.
    """
    is_first = True
    for number, line in enumerate(iter(partial(stream.readline, MAX_LINE_BYTES), b""), 1):
        text = _decode_line(line, number, file)
        if not text:
            continue
        origin = RowOrigin(file, number, text)
        if is_first:
            _refuse_document(text, file, number)
            is_first = False
        complaints: list[Complaint] = []
        row = _parse(text, complaints)
        if row.__class__ is dict:
            yield origin, row
        elif row.__class__ is str:
            yield origin, {"uuid": row}
        else:
            if not complaints:
                complaints.append(Complaint("", f"a line must be {_LINE}"))
            problems.place(complaints, origin.problem)


def _refuse_document(text: str, file: str, number: int) -> None:
    """Raise JobFileError where the first line begins one JSON text over many lines, or a list of all."""
    command = "jq -c '.[]'" if text.startswith("[") else "jq -c ." if text == "{" else None
    if command is not None:
        message = f"is JSON, but not JSON Lines: a line must be {_LINE}; `{command}` rewrites the file so"
        raise fail(file, message, at=(number, 1))


def _decode_line(line: bytes, number: int, file: str) -> str:
    if len(line) == MAX_LINE_BYTES:
        raise fail(file, "a line longer than 32 MiB", at=(number, 1))
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise fail(file, "is not UTF-8: save it as UTF-8", at=(number, error.start + 1)) from None
    if number == 1 and text.startswith("\ufeff"):
        raise fail(file, "starts with a byte order mark: save it as UTF-8 without BOM")
    return text


def _parse(text: str, complaints: list[Complaint]) -> Any:
    if _BARE_UUID.fullmatch(text):
        complaints.append(Complaint("", f'not JSON: a uuid alone must be in quotes: "{text}"'))
        return None
    try:
        value = _decode(text)
    except json.JSONDecodeError as error:
        complaints.append(Complaint("", f"not JSON: {error.msg}", column=error.colno))
    except _BadJsonError as error:
        complaints.append(Complaint("", str(error)))
    except RecursionError:
        complaints.append(Complaint("", TOO_DEEP))
    except ValueError:
        complaints.append(Complaint("", "has a number with too many digits"))
    else:
        if text.count("[") + text.count("{") <= MAX_DEPTH or not _is_too_deep(value):
            return value
        complaints.append(Complaint("", TOO_DEEP))
    return None


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [node for node in level if isinstance(node, (dict, list))]
        if not level:
            return False
        level = [inner for node in level for inner in (node.values() if isinstance(node, dict) else node)]
    return True
