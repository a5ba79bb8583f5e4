"""The query language of the REST API (wire: section 6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.codes import RestError, Speech

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batch.simulator.wire import Json, Request

OPERATORS: Final = ("!=", ">=", "<=", "!?=", "!~=", "~=", "?=", "=", ">", "<", "is null", "not null")
"""Tried in this order by substring: an operator inside a value changes the parse."""

DEFAULT_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """One ``q``."""

    name: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query string; unknown parameters are ignored, so ``condition=`` asks for everything."""

    conditions: tuple[Condition, ...]
    start: int
    limit: int
    count: bool
    with_total: bool
    fields: tuple[str, ...]
    sort: tuple[str, bool] | None
    """Field and whether descending."""

    def uuids(self, name: str = "uuid") -> list[str] | None:
        """Name the only rows that can match, where a condition on ``name`` says so."""
        for condition in self.conditions:
            if condition.name == name and condition.operator in {"=", "?="}:
                return condition.value.split(",") if condition.operator == "?=" else [condition.value]
        return None


def parse(request: Request) -> Query:
    """Read the query string. Raises RestError 400 with plain text."""
    return Query(
        conditions=tuple(_condition(text) for text in request.values("q")),
        start=_number(request, "start", 0),
        limit=_number(request, "limit", DEFAULT_LIMIT),
        count=request.value("count") == "true",
        with_total=request.value("replyWithCount") == "true",
        fields=tuple(name for name in (request.value("fields") or "").split(",") if name),
        sort=_sort(request.value("sort")),
    )


def _condition(text: str) -> Condition:
    for operator in OPERATORS:
        name, found, value = text.partition(operator)
        if found:
            return Condition(name.strip(), operator, value)
    raise RestError(400, f"Invalid query parameter. The '{text}' in the parameter[q] doesn't contain any operator")


def _number(request: Request, name: str, default: int) -> int:
    text = request.value(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,10}", text):
        raise RestError(400, f"Invalid query parameter. '{name}' must be an integer")
    return int(text)


def _sort(text: str | None) -> tuple[str, bool] | None:
    if text is None:
        return None
    if text[:1] not in {"+", "-"} or len(text) == 1:
        raise RestError(400, f"Invalid query parameter. 'sort' must start with '+' or '-', but was '{text}'")
    return text[1:], text[0] == "-"


def check_fields(query: Query, known: frozenset[str], inventory: str, speech: Speech) -> None:
    """Refuse fields the inventory does not have. Raises ApiFailureError SYS.1000."""
    names = [condition.name for condition in query.conditions] + list(query.fields)
    names += [query.sort[0]] if query.sort else []
    for name in names:
        if name not in known:
            raise speech.fail("SYS.1000", "field", inventory, name)


def answer(query: Query, rows: Iterable[Json], inventory: str) -> Json:
    """Filter, sort and page ``rows``; private members (``__userTag__``) are matched and not shown."""
    found = [row for row in rows if all(_matches(condition, row) for condition in query.conditions)]
    if query.count:
        return {"total": len(found)}
    if query.sort:
        name, descending = query.sort
        found.sort(key=lambda row: _sort_key(row.get(name)), reverse=descending)
    page = found[query.start : query.start + query.limit]
    return {
        "inventories": [_shown(row, query.fields) for row in page],
        "total": len(found) if query.with_total else None,
        "schema": {f"inventories[{number}]": inventory for number in range(len(page))},
    }


def _sort_key(value: Any) -> tuple[bool, float, str]:
    if isinstance(value, int | float):
        return (True, float(value), "")
    return (value is not None, 0.0, str(value))


def _shown(row: Json, fields: tuple[str, ...]) -> Json:
    names = fields or [name for name in row if not name.startswith("__")]
    return {name: row[name] for name in names if name in row}


def _matches(condition: Condition, row: Json) -> bool:
    value = row.get(condition.name)
    if isinstance(value, list):
        return _matches_any(condition, value)
    return _TESTS[condition.operator](value, condition.value)


def _matches_any(condition: Condition, values: list[Any]) -> bool:
    if condition.operator in {"is null", "not null"}:
        return bool(values) == (condition.operator == "not null")
    if condition.operator.startswith("!"):
        return all(_TESTS[condition.operator](value, condition.value) for value in values)
    return any(_TESTS[condition.operator](value, condition.value) for value in values)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _equal(value: Any, text: str) -> bool:
    # The tables' collation ignores case.
    return value is not None and _text(value).casefold() == text.casefold()


def _like(value: Any, text: str) -> bool:
    pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in text)
    return value is not None and re.fullmatch(pattern, _text(value), re.IGNORECASE | re.DOTALL) is not None


def _in(value: Any, text: str) -> bool:
    return any(_equal(value, part) for part in text.split(","))


def _compare(value: Any, text: str) -> float | None:
    """Sign of ``value - text``; None where one of them is no number or missing."""
    if value is None:
        return None
    try:
        return float(value) - float(text)
    except (TypeError, ValueError):
        return float((_text(value) > text) - (_text(value) < text))


def _ordered(accept: Callable[[float], bool]) -> Callable[[Any, str], bool]:
    def test(value: Any, text: str) -> bool:
        difference = _compare(value, text)
        return difference is not None and accept(difference)

    return test


_TESTS: Final[Mapping[str, Callable[[Any, str], bool]]] = {
    "=": _equal,
    "!=": lambda value, text: value is not None and not _equal(value, text),
    "~=": _like,
    "!~=": lambda value, text: value is not None and not _like(value, text),
    "?=": _in,
    "!?=": lambda value, text: value is not None and not _in(value, text),
    ">": _ordered(lambda difference: difference > 0),
    "<": _ordered(lambda difference: difference < 0),
    ">=": _ordered(lambda difference: difference >= 0),
    "<=": _ordered(lambda difference: difference <= 0),
    "is null": lambda value, _: value is None,
    "not null": lambda value, _: value is not None,
}
