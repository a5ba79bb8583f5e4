"""Job files in JSON: values by the ``json`` module, places by the YAML events of the same text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from batch.jobfile.problems import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.errors import JobFileError

_ESCAPE: Final = re.compile(r"\\(u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL)
_PLACEHOLDER: Final = r"\ufffd"
"""As long as the escape of half a surrogate pair, which YAML does not allow."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class _Value(NamedTuple):
    """A scalar's text as YAML would write it, and whether it is in quotes."""

    text: str
    is_quoted: bool


class _Number(str):
    """A number as written."""

    __slots__ = ()


class JsonText(NamedTuple):
    """A text that is JSON."""

    values: list[_Value]
    """Values of all keys and scalars in the order of the text."""
    as_yaml: str
    """The same text, with every character in the same place, with escapes that YAML can parse."""

    def events(self, found: Iterator[Any], file: str) -> Iterator[Any]:
        """Yield the events ``found`` in ``as_yaml`` with the values of the JSON. Raises JobFileError."""
        values = iter(self.values)
        for event in found:
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
    raise ValueError(f"{name} is not JSON")


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
