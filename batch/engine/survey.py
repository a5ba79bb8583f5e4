"""What a run finds before it sends anything: changed targets, and the Clones behind the manifest's open intents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from batch.errors import ManifestMismatchError
from batch.model import Clone, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.model import Intent, Plan

_NAMED = 10
_PAUSE_EVERY = 512
_KEPT_DIGITS = 12
"""Hex digits of a digest that a settled Clone keeps."""


class Past(Protocol):
    """The fold of a manifest, as far as the engine needs it."""

    @property
    def intents(self) -> Mapping[str, Intent]:
        """Clones that are not final but were recorded before."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the last process before this one died."""

    @property
    def counts(self) -> Mapping[State, int]:
        """Clones by state, kept up to date while the run appends."""

    @property
    def settled(self) -> Mapping[State, int]:
        """Clones by final state, without the others."""

    @property
    def canary_passed(self) -> bool:
        """Whether the server was seen to honour resourceUuid."""

    def final(self, key: str) -> tuple[State, int] | None:
        """Tell the final state and the first 48 bits of the digest it was sent with (0: not on record), or None."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The open Clones in the plan's order, then those whose target left the job file."""

    open: tuple[Clone, ...]
    changed: tuple[str, ...]
    """Keys that were sent with another body than the plan has now."""
    is_nothing_left: bool = False
    """Whether every target of the plan is settled for good."""
    settled: int = 0
    """How many of them are."""


def survey(plan: Plan, past: Past) -> Survey:
    """Walk the plan once against the manifest; where nothing was ever sent there is nothing to find."""
    if not past.intents and not past.counts.keys() - {State.PLANNED}:
        return Survey((), (), is_nothing_left=plan.count == 0)
    intents = dict(past.intents)
    found: list[Clone] = []
    changed: list[str] = []
    settled = 0
    for clone in plan.clones():
        intent = intents.pop(clone.key, None)
        final = past.final(clone.key) if intent is None else None
        if intent is not None:
            found.append(clone)
            # A repaired manifest may not know what was sent: that is no sign of a change.
            is_changed = intent.digest not in ("", clone.digest)
        else:
            is_changed = final is not None and final[1] not in (0, int(clone.digest[:_KEPT_DIGITS], 16))
        settled += final is not None
        if is_changed:
            changed.append(clone.key)
    found.extend(_removed(intent) for intent in intents.values())
    return Survey(tuple(found), tuple(changed), is_nothing_left=settled == plan.count and not found, settled=settled)


def refuse_changes(changed: tuple[str, ...]) -> None:
    """Raise ManifestMismatchError naming the targets that were sent and then edited."""
    if not changed:
        return
    named = ", ".join(changed[:_NAMED]) + (f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else "")
    raise ManifestMismatchError(
        f"changed since they were sent: {named}; give them a new id (or the job a new run), or say --accept-changes: "
        "what was made stays as it is, what must be sent again is sent as the file has it now"
    )


def fresh(plan: Plan, past: Past, opened: frozenset[str]) -> Iterator[Clone | None]:
    """Stream the Clones nothing was recorded of; None now and then while skipping the others."""
    if not opened and not past.settled:
        yield from plan.clones()
        return
    skipped = 0
    for clone in plan.clones():
        if clone.key not in opened and past.final(clone.key) is None:
            yield clone
            continue
        skipped += 1
        if skipped % _PAUSE_EVERY == 0:
            yield None


def _removed(intent: Intent) -> Clone:
    """Stand in for a target that is no longer in the job file: enough to ask about it, never sent again."""
    return Clone(intent.key, intent.source_uuid, intent.resource_uuid, b"", intent.digest)
