"""Target filters: ``--only 'state=failed code=SYS.1006'``, ``sample:1%`` and ``--shard K/N``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_TERM: Final = re.compile(r"(?P<field>[a-z]+)(?P<is_not>!?)=(?P<pattern>\S*)")
_SAMPLE: Final = re.compile(r"sample:(?P<percent>\d+(?:\.\d+)?)%")
_SHARD: Final = re.compile(r"(?P<number>\d+)/(?P<of>\d+)")
_SPREAD: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Term:
    """A term ``field=pattern`` or ``field!=pattern``, with the wildcards ``*`` and ``?``."""

    field: str
    pattern: str
    is_not: bool = False

    def matches(self, values: Iterable[str]) -> bool:
        """Return whether any of the field's values matches the pattern; for ``!=``, whether none does."""
        return any(fnmatchcase(value, self.pattern) for value in values) is not self.is_not


@dataclass(frozen=True, slots=True)
class KeyRange:
    """A share of the targets by hash of their keys, independent of the other targets."""

    start: float
    end: float

    def matches(self, key: str) -> bool:
        """Return whether ``key`` belongs to the share."""
        spot = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8]) / _SPREAD
        return self.start <= spot < self.end


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of terms and key ranges."""

    terms: tuple[Term, ...] = ()
    parts: tuple[KeyRange, ...] = ()
    label: str = ""
    """The filter as it was written."""

    def __bool__(self) -> bool:
        return bool(self.terms or self.parts)

    def fields(self) -> frozenset[str]:
        """Return the names of the fields it uses."""
        return frozenset(term.field for term in self.terms)

    def matches_field(self, name: str, value: str) -> bool:
        """Return whether all terms on the field ``name`` match ``value``."""
        return all(term.matches((value,)) for term in self.terms if term.field == name)

    def matches(self, values: Mapping[str, Collection[str]]) -> bool:
        """Return whether a target with these values by field, including ``key``, matches."""
        (key,) = values["key"]
        return all(part.matches(key) for part in self.parts) and all(
            term.matches(values.get(term.field, ())) for term in self.terms
        )


def read_filter(only: Iterable[str], *, shard: str | None, fields: Collection[str]) -> Filter:
    """Parse ``--only`` and ``--shard`` into a filter whose terms must all match.

    Raises UsageError for an invalid term, or one whose field is not in ``fields``.
    """
    terms: list[Term] = []
    parts: list[KeyRange] = []
    words = [word for expression in only for word in expression.split()]
    for word in words:
        if sample := _SAMPLE.fullmatch(word):
            parts.append(KeyRange(0.0, float(sample["percent"]) / 100))
        elif (term := _TERM.fullmatch(word)) and term["field"] in fields:
            terms.append(Term(term["field"], term["pattern"], bool(term["is_not"])))
        else:
            raise UsageError(f"--only: {_refusal(word, fields)}")
    if shard is not None:
        parts.append(read_shard(shard))
        words.append(f"shard:{shard}")
    return Filter(tuple(terms), tuple(parts), " ".join(words))


def _refusal(word: str, fields: Collection[str]) -> str:
    known = ", ".join(f"{field}=" for field in sorted(fields))
    term = _TERM.fullmatch(word)
    if term is not None and term["field"] == "tag":
        why = "a manifest has no tags: use tag= with zclone run or zclone retry"
    elif term is not None and term["field"] in ("state", "code"):
        why = "a plan has no results yet: use it with zclone retry or zclone list"
    else:
        why = f"{known} (or !=, with the wildcard *) or sample:1%"
    return f"{word!r} is not a filter here: {why}"


def read_shard(text: str) -> KeyRange:
    """Parse ``K/N``, where K counts from 0. Raises UsageError."""
    match = _SHARD.fullmatch(text)
    if match is None or not 0 <= (number := int(match["number"])) < (of := int(match["of"])):
        raise UsageError(f"--shard: {text!r} is not K/N with K from 0 to N-1, such as 0/4")
    return KeyRange(number / of, (number + 1) / of)
