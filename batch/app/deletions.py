"""Deletions of clones: the objections to each, and what became of those that an interrupted rollback recorded.

A clone with a recorded DELETE counts as cloned or undone only once the DELETE's job has ended, or the server can no
longer execute it, and a query after that has shown whether the clone exists.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.app.clone_changes import Objection
from batch.app.verifier import Item, Verifier, is_as_made
from batch.errors import RunStoppedError
from batch.manifest.kinds import DeletingLine
from batch.manifest.targets import open_targets
from batch.model import UNKNOWN_JOB, Record, State
from batch.plan import Identities
from batch.plan.identity import generation_uuid
from batch.report.verification import Verdict, Verification
from batch.zstack.answers import Done, Refused
from batch.zstack.calls import JOB_GRACE, LONGEST_JOB, UUIDS_A_QUERY, CloneReader, ServiceChanges
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batch.app.clone_changes import ChangeLine
    from batch.app.server import Server
    from batch.clock import Clock
    from batch.manifest import Manifest
    from batch.manifest.target_state import TargetState
    from batch.manifest.targets import Targets
    from batch.model import JsonValue
    from batch.report.verification import Finding
    from batch.zstack.answers import SubmitAnswer
    from batch.zstack.queries import Identity

_CONCURRENT_POLLS: Final = 50
"""DELETEs that are asked about together."""
_NAMED: Final = 5
_SHARED: Final = "it was shared, and this account cannot see whether others use it: roll back as admin"


def undone_record(target: TargetState, at: float) -> Record:
    """Return the record that a target's clone is gone; ``at``: seconds since the epoch."""
    uuid = target.clone_uuid
    return Record(State.UNDONE, target.key, at, target.attempts, resource_uuid=uuid, clone_uuid=uuid)


class OpenJob(NamedTuple):
    """A job of a target that has no definite end on record."""

    key: str
    job_uuid: str
    at: float
    """When it was sent last, in seconds since the epoch."""


def open_jobs_of(targets: Iterable[TargetState]) -> list[OpenJob]:
    """Return the jobs that may still make a clone of targets whose clones are to be deleted, or are gone."""
    return [job for target in targets for job in _open_jobs(target)]


def _open_jobs(target: TargetState) -> Iterator[OpenJob]:
    for uuid in target.open_jobs:
        yield OpenJob(target.key, uuid, target.asked_at)
    if target.lost_at:
        yield OpenJob(target.key, UNKNOWN_JOB, target.lost_at)


async def find_pending(
    jobs: Sequence[OpenJob | DeletingLine], service_changes: ServiceChanges, clock: Clock, *, api_timeout: float | None
) -> set[str]:
    """Return the keys of the targets of which the server may still execute a job.

    ``api_timeout``: the server's longest time for a job in seconds, by its answers; None where no answer named it.
    """
    longest = max(LONGEST_JOB, (api_timeout or 0.0) + JOB_GRACE)

    async def is_pending(job: OpenJob | DeletingLine) -> bool:
        if clock.time() >= job.at + longest:
            return False
        if job.job_uuid == UNKNOWN_JOB or (isinstance(job, DeletingLine) and job.was_sent_before):
            return True
        answer = await service_changes.end(job.job_uuid, seconds=1.0, first=0.2)
        has_ended = isinstance(answer, Done) or (isinstance(answer, Refused) and not answer.error.may_go_on)
        return not has_ended

    pending: set[str] = set()
    for start in range(0, len(jobs), _CONCURRENT_POLLS):
        page = jobs[start : start + _CONCURRENT_POLLS]
        answers = await asyncio.gather(*map(is_pending, page))
        pending.update(job.key for job, is_open in zip(page, answers, strict=True) if is_open)
    return pending


async def settle_deletions(manifest: Manifest, server: Server) -> None:
    """Record as undone what an interrupted rollback has deleted.

    Raises RunStoppedError where the outcome of a DELETE is not known yet.
    """
    await manifest.flush()
    client = await server.client()
    service_changes, query_api = ServiceChanges(client), QueryApi(client)
    identity = await query_api.identity()
    with open_targets(manifest.path) as targets:
        unsettled = list(_unsettled_items(targets))
        lines = [targets.deleting[item.target.key] for item in unsettled]
        # Where the line that a clone was made is lost, it is looked for like any uncertain one once the DELETE is over.
        items = [item for item in unsettled if item.target.state is State.CLONED]
        unknown = await find_pending(lines, service_changes, server.clock, api_timeout=targets.api_timeout)
        header = targets.header
        shown = Verification(header.job, header.run, header.endpoint, "", header.tool, server.clock.time())
        verifier = Verifier(targets, None, shown, identity=identity, readback=CloneReader(client), query_api=query_api)
        for start in range(0, len(items), UUIDS_A_QUERY):
            page = items[start : start + UUIDS_A_QUERY]
            findings = await verifier.compare_page(page)
            for item in page:
                verdict = findings[item.target.key].verdict if item.target.key in findings else Verdict.IN_SYNC
                if verdict is Verdict.MISSING:
                    manifest.note(undone_record(item.target, server.clock.time()))
                    unknown.discard(item.target.key)
                elif verdict is Verdict.UNKNOWN:
                    unknown.add(item.target.key)
    await manifest.flush()
    if unknown:
        raise RunStoppedError(_text(unknown))


def _unsettled_items(targets: Targets) -> Iterator[Item]:
    """Yield the targets with a DELETE on record whose clones are not known to be gone."""
    for key in targets.deleting:
        ordinal = targets.find(key)
        target = None if ordinal is None else targets.read(ordinal)
        if ordinal is not None and target is not None and target.state is not State.UNDONE:
            yield Item(ordinal, target, None)


def _text(keys: set[str]) -> str:
    named = sorted(keys)[:_NAMED]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return (
        f"a rollback was interrupted, and it is not known yet whether it deleted {', '.join(named)}{more}: continue it "
        "with zclone rollback, or run the same command again later"
    )


def why_foreign(item: Item, targets: Targets) -> str:
    """Return why a clone does not count as made by this run, and so is not changed; empty if it does."""
    header, target = targets.header, item.target
    if target.is_foreign:
        return "it existed before this run requested it"
    if target.asked_uuid is None or target.asked_uuid != target.clone_uuid:
        return "no attempt of this run to make it is on record"
    own = generation_uuid(Identities(header.job, header.run), target.key, targets.undone)
    is_own = target.clone_uuid in (own, None if item.clone is None else item.clone.resource_uuid)
    return "" if is_own else "its uuid is neither derived nor in the job file"


class CloneDeletion:
    """The change that deletes clones, after a fresh check of their content and use."""

    api = "DeleteModelService"
    past_tense = "deleted"
    is_repeatable = False

    def __init__(
        self,
        verifier: Verifier,
        readback: CloneReader,
        service_changes: ServiceChanges,
        *,
        identity: Identity,
        objections: Mapping[str, Objection],
        longest_job: float,
    ) -> None:
        """Prepare without calling the server.

        ``objections``: those of manifest and job file, which hold whatever the server shows; ``longest_job``: maximum
        duration of a clone's job on the server, in seconds.
        """
        self._verifier = verifier
        self._readback = readback
        self._service_changes = service_changes
        self._identity = identity
        self._objections = objections
        self._longest_job = longest_job

    def line(self, item: Item, *, at: float, job_uuid: str) -> ChangeLine:
        """Return the line to record before a DELETE."""
        return DeletingLine(item.target.key, at, str(item.target.clone_uuid), job_uuid)

    def is_same(self, item: Item, line: ChangeLine) -> bool:
        """Return whether a recorded DELETE is for the same clone."""
        return line.clone_uuid == item.target.clone_uuid

    def contradicts(self, item: Item, line: ChangeLine) -> bool:  # noqa: ARG002 - two DELETEs never do
        """Return False: a DELETE never contradicts another."""
        return False

    async def send(self, item: Item, job_uuid: str) -> SubmitAnswer:
        """Send the DELETE."""
        return await self._service_changes.delete(str(item.target.clone_uuid), job_uuid)

    def note_done(self, manifest: Manifest, item: Item, line: ChangeLine | None, *, at: float) -> None:  # noqa: ARG002
        """Record that a clone is gone, regardless of who deleted it."""
        manifest.note(undone_record(item.target, at))

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        """Return the objections to deleting clones of the page, by key. Raises CallFailedError."""
        findings = await self._verifier.compare_page(page)
        used = await self._readback.services_in_use([str(item.target.clone_uuid) for item in page])
        found = ((item.target.key, self._objection(item, findings.get(item.target.key), used)) for item in page)
        return {key: objection for key, objection in found if objection is not None}

    def _objection(self, item: Item, finding: Finding | None, used: set[str]) -> Objection | None:
        verdict = Verdict.IN_SYNC if finding is None else finding.verdict
        if verdict is Verdict.MISSING:
            return Objection("gone", is_done=True)
        if finding is not None and verdict is Verdict.UNKNOWN:
            return Objection(f"not seen: {finding.detail}", is_unseen=True)
        if item.target.clone_uuid in used:
            return Objection("in use: an instance group runs on it")
        if item.target.key in self._objections:
            return self._objections[item.target.key]
        changes = () if finding is None else [one for one in finding.differences if not is_as_made(one, item.target)]
        if changes:
            return Objection(f"changed: {', '.join(one.field for one in changes)}")
        inventory = self._verifier.services.get(str(item.target.clone_uuid), {})
        if _was_touched(item, inventory, self._longest_job):
            return Objection("changed: the server's dates say that it was changed after it was made")
        wanted = None if item.clone is None else item.clone.hand_over
        is_shared = item.target.is_shared or (wanted is not None and bool(wanted.share_with))
        return Objection(_SHARED) if is_shared and not self._identity.is_admin else None


def _was_touched(item: Item, inventory: Mapping[str, JsonValue], longest_job: float) -> bool:
    """Return whether a clone was changed after its own job, by its creation and last-operation dates on the server.

    The dates have no time zone and whole seconds. Unreadable dates count as unchanged only if they are equal. A clone
    may have been found long after its job, which took at most ``longest_job`` seconds.
    """
    created, changed = inventory.get("createDate"), inventory.get("lastOpDate")
    if created == changed or changed is None:
        return False
    times = [_read_date(created), _read_date(changed)]
    if times[0] is None or times[1] is None:
        return True
    own = min(max(0.0, item.target.at - item.target.asked_at), longest_job)
    return abs((times[1] - times[0]).total_seconds()) > own + 1


def _read_date(value: JsonValue) -> datetime | None:
    """Parse a date such as ``Nov 25, 2025 11:51:50 AM``, in the formats of all Java versions."""
    words = " ".join(str(value).replace(",", " ").split())
    try:
        # Both dates are in one zone, which is not given; UTC serves for their difference.
        return datetime.strptime(words, "%b %d %Y %I:%M:%S %p").replace(tzinfo=UTC)
    except ValueError:
        return None
