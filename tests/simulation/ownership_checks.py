"""What a manifest says of clones, judged by the node's own ledger: whose they are, and what may still be made.

A clone that the node made is never called failed, conflict, planned or withdrawn, and never unknown; only a foreign
service is a conflict; there are never two for a target, on any server; exit 5 only if nothing was ever sent.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import QUARANTINED, UNKNOWN_JOB, State
from batch.zstack.answers import ErrorClass, NotSent, Refused
from tests.simulation import promises
from tests.simulation.manifest_reader import proven, records
from tests.simulation.process import MANIFEST
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import Record
    from tests.simulation.command import Ended
    from tests.simulation.wider import WiderWorld
    from tests.simulation.witness import Post, Story

_DENIALS: Final = {"failed", "conflict", "planned", "withdrawn", "undone", None}
"""States that deny any present or future clone of the target."""
_ENDED_EARLY: Final = frozenset({State.FAILED, State.PLANNED, State.WITHDRAWN, State.CONFLICT})
_DEFAULT_TIME: Final = 1800.0
"""Seconds that count for a job whose apiTimeout is unknown."""
_UNCHARGED: Final = 16
"""POSTs of one target for each that is charged: after a dead session, or for a node that is not ready."""
_SENT: Final = b'"state":"sent"'


def broken(world: WiderWorld) -> list[str]:
    """Return every broken promise once nothing that was sent is under way any more."""
    found = [*world.witness.broken, *unrecorded_clones(world), *phantom_clones(world), *false_conflicts(world)]
    found += promises.torn_chain(world, MANIFEST) or promises.reopened(world, MANIFEST)
    found += promises.leaked_secrets(world, MANIFEST)
    for _, life in world.witness.lives:
        found += promises.rate(world, life)
    found += unbounded(world)
    for story in world.witness.stories.values():
        found += repeated(story)
    return found


def unrecorded_clones(world: WiderWorld) -> list[str]:
    """I1 and I3: what the node has made has a record with a state, and no target has two clones."""
    last = {record.key: record for record in records(world.manifest(MANIFEST))}
    found = []
    for row in world.node.ledger.clones:
        key = _key(str(row.source))
        state = last[key].state if key in last else None
        if state in _ENDED_EARLY and was_ended_early(world, key):
            # A process whose clock was ahead found the time over; the retry finds the clone, or a conflict if its uuid
            # is the user's own.
            continue
        if state is State.FAILED and world.attempts.traits.api_timeout > _DEFAULT_TIME and _was_unheard(world, key):
            continue
        if state is State.FAILED and _is_forgotten(world, row.uuid):
            continue
        # A target without any remaining line is unknown; its uuid keeps it from a second clone.
        if state in _DENIALS and not (world.is_damaged and state in {None, "planned"}):
            found.append(f"I3: {key} is {state} although {row.uuid} was made for it")
    known = [row for row in world.node.ledger.clones if not _is_forgotten(world, row.uuid)]
    twice = Counter(str(row.source) for row in known if not _was_given_up_early(world, _key(str(row.source)), row.uuid))
    return [*found, *(f"I1: {count} clones of {source}" for source, count in twice.items() if count > 1)]


def _is_forgotten(world: WiderWorld, uuid: str) -> bool:
    """Return whether the lines that a uuid was sent with were lost: after a new uuid in the job file it is unknown."""
    if not world.is_damaged:
        return False
    # A record's text may name it, but no process reads that.
    return not any(uuid in {line.resource_uuid, line.clone_uuid} for line in records(world.manifest(MANIFEST)))


def _was_unheard(world: WiderWorld, key: str) -> bool:
    """Return whether the process that sent the target was killed before it recorded how long the server may work."""
    return not any(line.key == key and line.api_timeout for line in records(world.manifest(MANIFEST)))


def was_ended_early(world: WiderWorld, key: str) -> bool:
    """Return whether a process whose clock was ahead ended an attempt of the target."""
    ended, now = {State.FAILED, State.PLANNED}, EPOCH + world.now
    lines = records(world.manifest(MANIFEST))
    return any(line.key == key and line.state in ended and line.at > now for line in lines)


def _was_given_up_early(world: WiderWorld, key: str, uuid: str) -> bool:
    """Return whether a clock ahead ended the attempt of ``uuid`` too early, and another uuid was sent later."""
    lines = [line for line in records(world.manifest(MANIFEST)) if line.key == key]
    early = next((at for at, line in enumerate(lines) if line.state is State.FAILED and line.at > EPOCH + world.now), 0)
    return any(line.resource_uuid not in {None, uuid} for line in lines[early:]) if early else False


def phantom_clones(world: WiderWorld) -> list[str]:
    """I3: a cloned target was made by one of our POSTs for this very target."""
    made = {row.uuid: _key(str(row.source)) for row in world.node.ledger.clones}
    return [
        f"I3: {record.key} is called cloned as {record.clone_uuid}"
        for record in records(world.manifest(MANIFEST))
        if record.state is State.CLONED
        and made.get(record.clone_uuid or "") != record.key
        and record.clone_uuid not in world.witness.counted_early
    ]


def false_conflicts(world: WiderWorld) -> list[str]:
    """I3: a conflict is with a foreign service."""
    foreign = world.attempts.traits.foreign | world.attempts.traits.differing
    return [
        f"I3: {record.key} is called a conflict with a uuid that nobody else has"
        for record in records(world.manifest(MANIFEST))
        if record.state is State.CONFLICT
        and not was_ended_early(world, record.key)
        and not any(clone.key == record.key and clone.resource_uuid in foreign for clone in world.versions.values())
    ]


def false_exit(world: WiderWorld, ended: Ended) -> list[str]:
    """I15: "nothing was sent" only if no record of a POST was ever written."""
    if ended.code == ExitCode.UNREACHABLE and _SENT in world.manifest(MANIFEST):
        return [f"I15: exit 5 although something was sent: {ended.reason}"]
    return []


def endless_doubt(world: WiderWorld) -> list[str]:
    """I7: on a healed server that is known to honour resourceUuid only what still answers 202 stays uncertain."""
    last = {record.key: record for record in records(world.manifest(MANIFEST))}
    if world.at_most_once or not proven(world.manifest(MANIFEST)):
        return []
    return [
        f"I7: {key} stays {record.state}: {record.error}"
        for key, record in last.items()
        if record.state is State.UNCERTAIN
        and record.error_code != QUARANTINED
        and not _has_unknown_owner(world, key)
        and not _was_in_use(world, record)
        and not any(world.attempts.is_stuck(job) for job in (record.job_uuid or "", *(record.open_jobs or ())))
    ]


def _was_in_use(world: WiderWorld, record: Record) -> bool:
    """Return whether a job found the uuid in use by what another job showed and took back: whose it was is unknown."""
    lines = records(world.manifest(MANIFEST))
    asked = {line.resource_uuid for line in lines if line.key == record.key}
    return bool(record.in_use and asked & (world.attempts.shown_early - world.attempts.rows.keys()))


def _has_unknown_owner(world: WiderWorld, key: str) -> bool:
    """Return whether lines were lost so that the owner of the service with the target's uuid is unknown.

    That holds for a uuid that the job file gives, and for a service that differs from the current job file.
    """
    rows, versions = world.attempts.rows, [clone for clone in world.versions.values() if clone.key == key]
    is_given = any(clone.is_given and clone.resource_uuid in rows for clone in versions)
    in_use = [clone for clone in world.clones if clone.key == key and clone.resource_uuid in rows]
    has_other_name = any(rows[one.resource_uuid].name != one.params["name"] for one in in_use)
    return (world.is_damaged or has_lost_lines(world, key)) and (is_given or has_other_name)


def has_lost_lines(world: WiderWorld, key: str | None = None) -> bool:
    """Return whether a record says that damaged lines may have named the target; None: any target."""
    lines = records(world.manifest(MANIFEST))
    return any(key in {None, line.key} and UNKNOWN_JOB in (line.open_jobs or ()) for line in lines)


def unbounded(world: WiderWorld) -> Iterator[str]:
    """I7: a process sends no target without a limit."""
    for _, life in world.witness.lives:
        for uuid, count in Counter(post.uuid for post in life.posts if not isinstance(post.answer, NotSent)).items():
            if count > world.limits.attempts * (1 + _UNCHARGED):
                yield f"I7: {uuid} was sent {count} times by one process"


def repeated(story: Story) -> Iterator[str]:
    """At most once: one POST per resource uuid beside those proven not to have run."""
    for uuid, posts in story.posts.items():
        doubtful = [post for post in posts if not _is_void(story, post)]
        if any(post.is_at_most_once for post in doubtful[1:]):
            yield f"I1: {uuid} was sent {len(doubtful)} times at most once"


def _is_void(story: Story, post: Post) -> bool:
    if isinstance(post.answer, NotSent):
        return True
    if isinstance(post.answer, Refused) and post.answer.error.error_class is not ErrorClass.AMBIGUOUS:
        return True
    return story.jobs[post.job].is_void


def _key(source: str) -> str:
    return f"t{int(source, 16) - 1}"
