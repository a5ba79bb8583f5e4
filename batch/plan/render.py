"""``${…}``: dotted names and ``$$``, looked up and never evaluated; values are not rendered again."""

from __future__ import annotations

import string
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile.envelope import VARIABLE_PATTERN
from batch.jobfile.problems import unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from batch.model import JsonValue

SOURCE: Final = "source."
MAX_NAMES: Final = 1000
"""Names in one text; with MAX_VALUE it limits the size that a small file can expand to."""
MAX_VALUE: Final = 65_536
"""Characters of one value."""


class RenderError(Exception):
    """A text cannot be rendered; the message gives the reason."""


class MissingSourceError(RenderError):
    """The source does not exist on the server, whichever field of it is needed."""


class _Template(string.Template):
    """``${name}`` and ``$$`` only: a dollar before anything else is a dollar."""

    pattern = rf"""
    \$(?:
      (?P<escaped>\$)
    | \{{(?P<braced>{VARIABLE_PATTERN})\}}
    | (?P<named>(?!))
    | (?P<invalid>\{{)
    )
    """  # type: ignore[assignment]  # string.Template compiles it when the class is made


class Scope:
    """The names that one target can use; inner hide outer ones: columns, matrix, vars, then date, time, run, name."""

    __slots__ = ("_names", "_source", "_uuid")

    def __init__(self, names: Mapping[str, str], uuid: str, source: Callable[[str], Mapping[str, JsonValue]]) -> None:
        """Start with ``names``; ``source`` is called with ``uuid`` only when another field of the source is used.

        It may raise RenderError.
        """
        self._names = names
        self._uuid = uuid
        self._source = source

    def __getitem__(self, name: str) -> str:
        if name.startswith(SOURCE):
            return self._source_field(name)
        value = self._names.get(name)
        if value is None:
            hint = f"${{{name}}} for the shell or the container is written $${{{name}}}"
            raise RenderError(f"{unknown(name, self._names, what='name')} ({hint})")
        if len(value) > MAX_VALUE:
            raise RenderError(f"the value of {name} is longer than {MAX_VALUE:,} characters")
        return value

    def _source_field(self, name: str) -> str:
        field = name.removeprefix(SOURCE)
        if field == "uuid":
            return self._uuid
        value = self._source(self._uuid).get(field)
        if isinstance(value, (dict, list)):
            raise RenderError(f"the source's {field} is not one value")
        if value is None:
            raise RenderError(f"the source has no {field}")
        if isinstance(value, str) and len(value) > MAX_VALUE:
            raise RenderError(f"the source's {field} is longer than {MAX_VALUE:,} characters")
        return str(value).lower() if isinstance(value, bool) else str(value)


def render(text: str, scope: Scope | Mapping[str, str]) -> str:
    """Replace ``${name}`` by its value and ``$$`` by a dollar. Raises RenderError."""
    if text.count("${") > MAX_NAMES:
        raise RenderError(f"has more than {MAX_NAMES:,} names")
    try:
        return _Template(text).substitute(scope)  # type: ignore[arg-type]  # only __getitem__ is used
    except KeyError as error:
        raise RenderError(unknown(str(error.args[0]), scope, what="name")) from None  # type: ignore[arg-type]
    except ValueError:
        message = "${ must be followed by a dotted name and }; a dollar before a brace is written $${"
        raise RenderError(message) from None


def render_tree(value: JsonValue, scope: Scope) -> JsonValue:
    """Render every text of ``value``; keys of maps are not changed. Raises RenderError."""
    if isinstance(value, str):
        return render(value, scope) if "$" in value else value
    if isinstance(value, list):
        return [render_tree(item, scope) for item in value]
    if isinstance(value, dict):
        return {name: render_tree(inner, scope) for name, inner in value.items()}
    return value


class RunNames(NamedTuple):
    """The names that belong to the run: the same on every resume, as its start is recorded."""

    date: str
    """Date of the run's start in the job's timezone, such as 2026-11-23."""
    time: str
    """Time of the run's start, such as 010203; with a ``b`` where the clock shows that time of day for the second
    time."""
    name: str
    """Name of the job."""

    @classmethod
    def at(cls, started_at: float, name: str, zone: tzinfo) -> RunNames:
        """Return the names of a run that started at ``started_at``, in seconds since the epoch."""
        moment = datetime.fromtimestamp(started_at, zone)
        return cls(moment.date().isoformat(), moment.strftime("%H%M%S") + "b" * moment.fold, name)
