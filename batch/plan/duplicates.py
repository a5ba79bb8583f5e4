"""Finds targets with the same key or resource uuid, with a few bytes of memory for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.jobfile.problems import Complaint, Problems, quote
from batch.keytable import KeyTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.jobfile.job import Target
    from batch.model import Clone

_MAX_CANDIDATES: Final = 1000
"""Maximum number of candidates that are compared as texts."""


class Duplicates:
    """Stores hashes of keys and of the user's own resource uuids; a second pass compares texts with equal hashes."""

    def __init__(self) -> None:
        """Start with no clone."""
        self._keys = KeyTable(1)
        self._own_uuids = KeyTable(1)
        self._candidates: set[str] = set()

    def add(self, target: Target, clone: Clone) -> None:
        """Add one clone."""
        # Python's string hash has 64 well-distributed bits; equal hashes are compared as texts later.
        if not self._keys.put(hash(clone.key), 0):
            self._add_candidate(clone.key)
        own = "resourceUuid" in target.layer.params or "resourceUuid" in target.entry.base.params
        if own and not self._own_uuids.put(hash(clone.resource_uuid), 0):
            self._add_candidate(clone.resource_uuid)

    def report(self, walk: Callable[[], Iterator[tuple[Target, Clone]]], problems: Problems) -> None:
        """Report the duplicates; ``walk`` iterates over all targets again, where that is needed."""
        if self._candidates:
            self._compare(walk(), "key", lambda clone: clone.key, problems)
            self._compare(walk(), "resourceUuid", lambda clone: clone.resource_uuid, problems)
        if len(self._own_uuids):
            self._refuse_taken(walk, problems)

    def _add_candidate(self, text: str) -> None:
        if len(self._candidates) < _MAX_CANDIDATES:
            self._candidates.add(text)

    def _compare(
        self, walk: Iterator[tuple[Target, Clone]], what: str, name: Callable[[Clone], str], problems: Problems
    ) -> None:
        """Report the repetitions of each candidate: equal hashes are not yet equal keys."""
        first: dict[str, Target] = {}
        for target, clone in walk:
            text = name(clone)
            if text not in self._candidates:
                continue
            if text in first:
                problems.add(target.repeat_problem(what, text, first[text]))
            else:
                first[text] = target

    def _refuse_taken(self, walk: Callable[[], Iterator[tuple[Target, Clone]]], problems: Problems) -> None:
        """Report each ``resourceUuid`` that is the source of a target, or the derived uuid of one."""
        taken: dict[str, str] = {}
        for _, clone in walk():
            if self._own_uuids.get(hash(clone.source_uuid)) is not None:
                taken[clone.source_uuid] = f"the source of the target {quote(clone.key)}"
            if not clone.is_given and self._own_uuids.get(hash(clone.resource_uuid)) is not None:
                taken[clone.resource_uuid] = f"the derived uuid of the target {quote(clone.key)}"
        for target, clone in walk() if taken else ():
            if clone.is_given and clone.resource_uuid in taken:
                message = f"{clone.resource_uuid} is {taken[clone.resource_uuid]}: give an unused uuid"
                problems.add(target.problem(Complaint("params.resourceUuid", message)))
