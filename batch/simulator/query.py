"""The query language of the REST API (zstack/README.md 8)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch.simulator.api_errors import ErrorFactory, RestError
from batch.simulator.resources import NESTED, object_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from batch.simulator.wire import Json, Request

OPERATORS: Final = {
    "!=": "!=",
    ">=": ">=",
    "<=": "<=",
    "!?=": "not in",
    "!~=": "not like",
    "~=": "like",
    "?=": "in",
    "=": "=",
    ">": ">",
    "<": "<",
    "is null": "is null",
    "not null": "is not null",
}
"""Tried in this order by substring: an operator inside a value changes the parse. Values: as messages spell them."""

DEFAULT_LIMIT: Final = 1000
_UNARY: Final = frozenset({"is null", "is not null"})
_INTEGER: Final = re.compile(r"[+-]?\d+", re.ASCII)
_LARGEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, its operator as a message spells it."""

    name: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class NodeQuery:
    """A parsed query; unknown parameters are ignored, so ``condition=`` matches everything."""

    conditions: tuple[Condition, ...] = ()
    start: int = 0
    limit: int = DEFAULT_LIMIT
    """Negative: no limit."""
    count: bool = False
    with_total: bool = False
    fields: tuple[str, ...] = ()
    group_by: str | None = None
    sort: tuple[str, bool] | None = None
    """Field and whether descending."""

    def uuids(self, name: str = "uuid") -> list[str] | None:
        """Return the uuids that a condition on ``name`` restricts the rows to, if any."""
        for condition in self.conditions:
            if condition.name == name and condition.operator in {"=", "in"}:
                return condition.value.split(",") if condition.operator == "in" else [condition.value]
        return None


def by_uuid(uuid: str) -> NodeQuery:
    """Return the query of a path with a uuid, which ignores all parameters."""
    return NodeQuery(conditions=(Condition("uuid", "=", uuid),))


def parse(request: Request) -> NodeQuery:
    """Read the query string. Raises RestError 400 with plain text."""
    return NodeQuery(
        conditions=tuple(_condition(text) for text in request.values("q")),
        start=_number(request, "start", 0),
        limit=_number(request, "limit", DEFAULT_LIMIT),
        count=_flag(request, "count"),
        with_total=_flag(request, "replyWithCount"),
        fields=_names(request.value("fields")),
        group_by=_parameter(request, "groupBy"),
        sort=_sort(_parameter(request, "sort")),
    )


def _condition(text: str) -> Condition:
    for separator, operator in OPERATORS.items():
        if separator not in text:
            continue
        name, _, value = text.partition(separator)
        if operator in _UNARY:
            return Condition(name.strip(), operator, "")
        if not name or not value:
            raise RestError(
                400,
                f"Invalid query parameter. The '{text}' in parameter[q] is not a key-value pair split by {operator}",
            )
        return Condition(name.strip(), operator, value)
    raise RestError(
        400,
        f"Invalid query parameter. The '{text}' in the parameter[q] doesn't contain any query operator. "
        f"Valid query operators are [[{', '.join(OPERATORS)}]]",
    )


def _parameter(request: Request, name: str) -> str | None:
    text = request.value(name)
    return None if text is None else text.strip()


def _number(request: Request, name: str, default: int) -> int:
    text = _parameter(request, name)
    if text is None:
        return default
    if not _INTEGER.fullmatch(text) or not -_LARGEST - 1 <= int(text) <= _LARGEST:
        raise RestError(400, f"Invalid query parameter. '{name}' must be an integer")
    return int(text)


def _flag(request: Request, name: str) -> bool:
    return (_parameter(request, name) or "").lower() == "true"


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _sort(text: str | None) -> tuple[str, bool] | None:
    """Read ``name``, ``+name`` or ``-name``; an unescaped plus was decoded as a space and stripped."""
    if not text:
        return None
    return text.lstrip(text[0]) if text[0] in "+-" else text, text[0] == "-"


def of_message(fields: Json) -> NodeQuery:
    """Read a query message of the legacy API: conditions with operators as messages spell them."""
    conditions = fields.get("conditions") or []
    by = fields.get("sortBy")
    return NodeQuery(
        conditions=tuple(map(_message_condition, conditions)),
        start=int(fields.get("start") or 0),
        limit=DEFAULT_LIMIT if fields.get("limit") is None else int(fields["limit"]),
        count=fields.get("count") is True,
        with_total=fields.get("replyWithCount") is True,
        fields=tuple(map(str, fields.get("fields") or ())),
        sort=None if by is None else (str(by), fields.get("sortDirection") == "desc"),
    )


def _message_condition(item: Json) -> Condition:
    value = item.get("value")
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value if value is not None else "")
    return Condition(str(item.get("name")), str(item.get("op", "=")), text)


def _check_field_names(query: NodeQuery, known: frozenset[str], inventory: str, errors: ErrorFactory) -> None:
    names = [condition.name for condition in query.conditions] + list(query.fields)
    names += [query.sort[0]] if query.sort else []
    names += [query.group_by] if query.group_by else []
    for name in names:
        if name not in known and not _is_nested(name, known):
            raise errors.failure("SYS.1000", "field", inventory, name)


def _is_nested(name: str, known: frozenset[str]) -> bool:
    outer, dot, inner = name.partition(".")
    return bool(dot) and outer in known and inner in NESTED.get(outer, ())


def answer(query: NodeQuery, rows: Iterable[Json], known: frozenset[str], inventory: str, errors: ErrorFactory) -> Json:
    """Filter, sort and page ``rows``; private members (``__userTag__``) are matched but not shown.

    Raises ApiFailureError SYS.1000 for a field that is not ``known``.
    """
    _check_field_names(query, known, inventory, errors)
    matches = [row for row in rows if all(_matches(condition, row) for condition in query.conditions)]
    if query.group_by is not None:
        matches = list({_text(row.get(query.group_by)): row for row in reversed(matches)}.values())[::-1]
    if query.count:
        return {"total": len(matches)}
    if query.sort:
        name, descending = query.sort
        matches.sort(key=lambda row: _sort_key(row.get(name)), reverse=descending)
    start = max(0, query.start)
    page = matches[start:] if query.limit < 0 else matches[start : start + query.limit]
    shown = [_select_fields(row, query.fields) for row in page]
    schema: dict[str, str] = {}
    for number, row in enumerate(shown):
        schema |= object_schema(f"inventories[{number}]", row, inventory)
    return {"inventories": shown, "total": len(matches) if query.with_total else None, "schema": schema}


def _sort_key(value: Any) -> tuple[bool, float, str]:
    if isinstance(value, int | float):
        return (True, float(value), "")
    return (value is not None, 0.0, str(value))


def _select_fields(row: Json, fields: tuple[str, ...]) -> Json:
    names = fields or [name for name in row if not name.startswith("__")]
    return {name: row[name] for name in names if name in row}


def _matches(condition: Condition, row: Json) -> bool:
    outer, dot, inner = condition.name.partition(".")
    value = [part.get(inner) for part in row.get(outer) or []] if dot else row.get(condition.name)
    if isinstance(value, list):
        return _matches_any(condition, value)
    return _TESTS[condition.operator](value, condition.value)


def _matches_any(condition: Condition, values: list[Any]) -> bool:
    if condition.operator in _UNARY:
        return bool(values) == (condition.operator == "is not null")
    if condition.operator.startswith(("!", "not")):
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
    """Return the sign of ``value - text``; None if one of them is missing or not a number."""
    if value is None:
        return None
    try:
        return float(value) - float(text)
    except (TypeError, ValueError):
        return float((_text(value) > text) - (_text(value) < text))


def _comparison(accept: Callable[[float], bool]) -> Callable[[Any, str], bool]:
    def test(value: Any, text: str) -> bool:
        difference = _compare(value, text)
        return difference is not None and accept(difference)

    return test


_TESTS: Final[Mapping[str, Callable[[Any, str], bool]]] = {
    "=": _equal,
    "!=": lambda value, text: value is not None and not _equal(value, text),
    "like": _like,
    "not like": lambda value, text: value is not None and not _like(value, text),
    "in": _in,
    "not in": lambda value, text: value is not None and not _in(value, text),
    ">": _comparison(lambda difference: difference > 0),
    "<": _comparison(lambda difference: difference < 0),
    ">=": _comparison(lambda difference: difference >= 0),
    "<=": _comparison(lambda difference: difference <= 0),
    "is null": lambda value, _: value is None,
    "is not null": lambda value, _: value is not None,
}
