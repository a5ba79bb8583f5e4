"""The columns of ``from:`` files: those with a meaning for the target, and values for ``${…}``."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.check import check_uuid
from batch.jobfile.layers import HAND_OVER_KEYS
from batch.jobfile.matrix import NAME
from batch.jobfile.problems import Complaint, fold, quote, unknown
from batch.zstack.params import BODY_PARAMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batch.jobfile.job import Entry, Layer

OWN_COLUMNS: Final = ("uuid", "id", "params", "systemTags", "userTags")
PARAM_COLUMN: Final = "params."

_ENTRY_KEYS: Final = ("keep", "matrix", "from", "query", *HAND_OVER_KEYS)
"""Keys of the job file's entry that no column sets."""
_FOLDED: Final = {fold(name): name for name in (*_ENTRY_KEYS, *BODY_PARAMS, *OWN_COLUMNS)} | {"parameter": "params"}
_USED: Final = re.compile(r"\$\$|\$\{([^}]*)\}")
_UNSAFE_IN_ID: Final = frozenset("\\$`'\"")
"""Characters with a meaning in shells: keys are completed and pasted there."""


class Columns:
    """The columns of one file that are values for ``${…}``; each problem of a name is reported once."""

    def __init__(self, entry: Entry) -> None:
        """Start for the ``from:`` entry, with ``defaults`` merged in."""
        base = entry.base
        over = base.hand_over
        accounts = () if over is None else (over.owner, over.share_with)
        self._used = _used_names([*base.params.values(), base.system_tags, base.user_tags, accounts])
        self._good: set[str] = set()
        self._bad: set[str] = set()

    def check(self, names: Iterable[str], layer: Layer, complaints: list[Complaint]) -> bool:
        """Complain of names that cannot be used, and of unused ones that are spelt like something else.

        ``layer``: the row's own, whose ``${…}`` count too. Return whether all names are usable.
        """
        new = [name for name in names if name not in self._good]
        used: set[str] | None = None
        for name in new:
            near = _FOLDED.get(fold(name))
            if (near is None and not name.startswith("source.")) or name in self._used:
                self._good.add(name)
            elif name not in self._bad:
                if used is None:
                    used = _used_names([*layer.params.values(), layer.system_tags, layer.user_tags])
                if name not in used:
                    self._bad.add(name)
                    complaints.append(Complaint(name, _explain(name, near), at_key=True))
        return self._bad.isdisjoint(new)


def _used_names(values: list[Any]) -> set[str]:
    texts = json.dumps(values, ensure_ascii=False)
    return set(_USED.findall(texts)) if "$" in texts else set()


@lru_cache
def _explain(name: str, near: str | None) -> str:
    if near is None:
        return f"{quote(name)} can never be used: ${{source.…}} is read from the server's data of the source"
    if near in OWN_COLUMNS:
        return unknown(name, OWN_COLUMNS, what="column")
    idle = f"is only a value for ${{{name}}}, which nothing uses; " if NAME.fullmatch(name) else ""
    if near in HAND_OVER_KEYS:
        return f"{idle}write {near}: ${{{name}}} beside from"
    if near in _ENTRY_KEYS:
        return f"{idle}{near} is a key of the job file and no column: write it there"
    return f"{idle}did you mean params.{near}?"


def check_id(value: Any, complaints: list[Complaint]) -> None:
    """Complain of an ``id`` that is not a plain text."""
    if value.__class__ is not str or not value or value.strip() != value or not value.isprintable():
        hint = ": put it in quotes" if value.__class__ is int else ""
        complaints.append(Complaint("id", f"must be a text without control characters, not {quote(value)}{hint}"))
    elif not _UNSAFE_IN_ID.isdisjoint(value):
        complaints.append(Complaint("id", f"must have no quotes, backslash, backtick or dollar, not {quote(value)}"))


def check_identity(own: Any, identity: Any, uuid: str | None, complaints: list[Complaint]) -> None:
    """Check a row's ``uuid`` and ``id``; ``uuid``: the source of rows that name none."""
    check_uuid("uuid", uuid if own is None else own, complaints)
    if identity is not None:
        check_id(identity, complaints)
    elif own is None and uuid is not None:
        complaints.append(Complaint("", "has no uuid of its own, so it needs an id"))
