"""Compares plan and manifest: open Clones, edited targets, settled ones; and the hand-overs that are left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from batch.errors import ManifestMismatchError
from batch.keytable import digest_prefix
from batch.model import Clone, HandOverCounts, State

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Mapping

    from batch.model import HandOver, Intent, Plan

_NAMED = 10
_PAUSE_EVERY = 512


class RunHistory(Protocol):
    """The fold of a manifest, as far as the engine needs it."""

    @property
    def intents(self) -> Mapping[str, Intent]:
        """Clones with records that are not final, by key."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the last process before this one was killed."""

    @property
    def counts(self) -> Mapping[State, int]:
        """Clones by state, updated while the run appends."""

    @property
    def settled_counts(self) -> Mapping[State, int]:
        """Clones by final state; others are not counted."""

    @property
    def canary_passed(self) -> bool:
        """Whether the manifest shows that the server honours resourceUuid."""

    @property
    def uuids_without_sent(self) -> Mapping[str, str]:
        """By key the uuid of each clone whose ``sent`` line was lost to damage."""

    @property
    def was_sent(self) -> bool:
        """Whether any attempt was ever recorded."""

    @property
    def was_uuid_ignored(self) -> bool:
        """Whether the server ever made a clone under another uuid than requested."""

    @property
    def api_timeout(self) -> float:
        """The longest apiTimeout that the server reported for a job, in seconds; 0 where it reported none."""

    @property
    def is_repaired(self) -> bool:
        """Whether lines were lost to damage, so that any target may have been sent."""

    @property
    def repeated(self) -> Container[str]:
        """Keys of targets that processes without --at-most-once may have sent more than once, or that they reset."""

    def has_predecessor(self, key: str, resource_uuid: str) -> bool:
        """Return whether a target without open records may have been sent before."""

    def final(self, key: str) -> tuple[State, int] | None:
        """Return the final state and the first 48 bits of the sent digest (0: not recorded), or None."""


@dataclass(frozen=True, slots=True)
class Survey:
    """The open Clones in the order of the plan, then those whose target left the job file, and what else was found."""

    open: tuple[Clone, ...]
    changed: tuple[str, ...]
    """Keys of targets that were sent with another body than the plan has now, with unknown results."""
    is_nothing_left: bool = False
    """Whether every target of the plan has a final state."""
    settled: Counter[State] = field(default_factory=Counter)
    """Settled targets of the plan, by state."""
    outdated: tuple[str, ...] = ()
    """Keys of clones that were made with another body than the plan has now."""
    taken: tuple[str, ...] = ()
    """Keys of targets whose resourceUuid was sent in an attempt of another target, with unknown result."""
    is_honoured: bool = False
    """Whether a clone has the uuid that the plan derives, though its ``sent`` line was lost."""
    outside_plan: tuple[Clone, ...] = ()
    """Open Clones of targets that are unchanged in the job file but outside this plan, which is a part of it."""


def survey(plan: Plan, past: RunHistory, *, whole: Plan | None = None) -> Survey:
    """Compare the plan with the manifest in one pass; where nothing was ever sent, there is nothing to find.

    ``whole``: the plan of all targets of the job file, where ``plan`` is a part of it.
    """
    if not past.intents and not past.counts.keys() - {State.PLANNED}:
        return Survey((), (), is_nothing_left=plan.count == 0)
    intents = dict(past.intents)
    owners = {intent.resource_uuid: intent.key for intent in intents.values() if _is_in_use(intent)}
    found: list[Clone] = []
    changed: list[str] = []
    outdated: list[str] = []
    taken: list[str] = []
    settled: Counter[State] = Counter()
    unsent, is_honoured = past.uuids_without_sent, False
    for clone in plan.clones():
        intent = intents.pop(clone.key, None)
        final = past.final(clone.key) if intent is None else None
        if clone.is_given and owners.get(clone.resource_uuid, clone.key) != clone.key:
            taken.append(clone.key)
        if intent is not None:
            found.append(clone)
            # A repaired manifest may not know what was sent: a missing digest is no sign of a change.
            if intent.state is not State.PLANNED and intent.digest not in ("", clone.digest):
                changed.append(clone.key)
        elif final is not None:
            settled[final[0]] += 1
            is_honoured = is_honoured or (not clone.is_given and unsent.get(clone.key) == clone.resource_uuid)
            if _is_outdated(final, clone):
                outdated.append(clone.key)
    others = _find_outside_plan(whole, intents) if whole is not None and whole.count > plan.count and intents else {}
    found.extend(without_body(intent) for key, intent in intents.items() if key not in others)
    is_nothing_left = settled.total() == plan.count and not (found or others)
    return Survey(
        tuple(found),
        tuple(changed),
        is_nothing_left,
        settled,
        tuple(outdated),
        tuple(taken),
        is_honoured,
        tuple(others.values()),
    )


def _is_in_use(intent: Intent) -> bool:
    """Return whether a job of the Clone may still make a clone under its uuid."""
    ended = {job.job_uuid for job in intent.sent_jobs if job.is_unexecuted}
    return bool(intent.resource_uuid) and not ({intent.job_uuid, *intent.open_jobs} - {None} <= ended)


def _find_outside_plan(whole: Plan, intents: Mapping[str, Intent]) -> dict[str, Clone]:
    """Return by key the Clones of the intents that ``whole`` has as they were sent."""
    return {clone.key: clone for clone in whole.clones() if (one := intents.get(clone.key)) and is_same(clone, one)}


def is_same(clone: Clone, intent: Intent) -> bool:
    """Return whether the job file still has the target as its last attempt was sent, as far as the manifest knows."""
    return intent.resource_uuid in ("", clone.resource_uuid) and intent.digest in ("", clone.digest)


def keep_outdated(keys: Collection[str], plan: Plan, past: FinalStates) -> tuple[str, ...]:
    """Return those of ``keys`` whose clone was made from another body than the plan's."""
    finals = ((clone, past.final(clone.key)) for clone in plan.clones() if clone.key in keys) if keys else ()
    return tuple(clone.key for clone, final in finals if final is not None and _is_outdated(final, clone))


def _is_outdated(final: tuple[State, int], clone: Clone) -> bool:
    return final[0] is State.CLONED and final[1] not in (0, digest_prefix(clone.digest))


def refuse_changes(changed: tuple[str, ...]) -> None:
    """Raise ManifestMismatchError naming the targets that were edited while their last attempt is in doubt."""
    if changed:
        raise ManifestMismatchError(
            f"changed after they were sent, and the outcome is not known: {_join(changed)}; change them back "
            "until they have settled, or use --accept-changes: clones that exist stay as they are, and what must be "
            "sent again is sent as the file has it now"
        )


def refuse_taken(taken: tuple[str, ...]) -> None:
    """Raise ManifestMismatchError naming the targets whose resourceUuid may become another target's clone."""
    if taken:
        raise ManifestMismatchError(
            f"their resourceUuid was sent for another target, and the outcome is not known: {_join(taken)}; "
            "give them another one, or change it back until the other has settled"
        )


def describe_outdated(outdated: tuple[str, ...], *, is_strict: bool) -> str | None:
    """Describe the clones that differ from the job file as it is now; None where there are none.

    Raises ManifestMismatchError instead where ``is_strict``.
    """
    if not outdated:
        return None
    made = f"{len(outdated)} clones were made before the job file was changed"
    if is_strict:
        raise ManifestMismatchError(
            f"{made}: {_join(outdated)}; give them a new id (or the job a new run), or run without --strict"
        )
    return f"{made} and stay as they were made: {_join(outdated)}"


def _join(keys: tuple[str, ...]) -> str:
    return ", ".join(keys[:_NAMED]) + (f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else "")


def find_unrecorded(plan: Plan, past: RunHistory, opened: frozenset[str]) -> Iterator[Clone | None]:
    """Yield the Clones without records; None now and then while skipping others."""
    if not opened and not past.settled_counts:
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


def without_body(intent: Intent) -> Clone:
    """Return the Clone of an attempt without its body: enough to poll and look for it, never to send it."""
    return Clone(intent.key, intent.source_uuid, intent.resource_uuid, b"", intent.digest)


class FinalStates(Protocol):
    """The fold of a manifest, as far as hand-overs need it."""

    def final(self, key: str) -> tuple[State, int] | None:
        """Return the final state of a Clone, or None."""

    @property
    def api_timeout(self) -> float:
        """The longest apiTimeout that the server reported for a job, in seconds; 0 where there is none."""

    @property
    def hand_overs(self) -> HandOverResults:
        """Results of the hand-overs so far."""


class HandOverHistory(RunHistory, FinalStates, Protocol):
    """The fold of a manifest, as far as a run and its hand-overs need it."""


class HandOverResults(Protocol):
    """Results of hand-overs according to a manifest."""

    def is_done(self, key: str, wanted: HandOver) -> bool:
        """Return whether the target was handed over exactly as ``wanted``."""

    def is_refused(self, key: str, wanted: HandOver) -> bool:
        """Return whether the server's last answer refused exactly ``wanted``."""

    def tries(self, key: str) -> Mapping[str, tuple[float, float]]:
        """Return by owner the times of the first and the last try that have no known end."""


def count_hand_overs(plan: Plan, past: FinalStates) -> HandOverCounts:
    """Count the hand-overs of the plan's existing clones; a plan without hand-overs is not iterated."""
    done, left, refused = 0, 0, 0
    for clone in plan.clones() if plan.hand_overs else ():
        wanted = clone.hand_over
        if wanted is None or not is_made(clone, past):
            continue
        if past.hand_overs.is_done(clone.key, wanted):
            done += 1
        elif past.hand_overs.is_refused(clone.key, wanted):
            refused += 1
        else:
            left += 1
    return HandOverCounts(done, left, refused)


def is_made(clone: Clone, past: FinalStates) -> bool:
    """Return whether the target is cloned."""
    final = past.final(clone.key)
    return final is not None and final[0] is State.CLONED
