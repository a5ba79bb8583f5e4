"""Resolves the DELETEs that an interrupted rollback recorded, by polls and queries only.

A clone with such a DELETE counts as cloned or undone only once the DELETE's job has ended, or the server can no longer
execute it, and a query after that has shown whether the clone exists.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from batch.app.verifier import Item, Verifier
from batch.errors import RunStoppedError
from batch.manifest.targets import open_targets
from batch.model import Record, State
from batch.report.verification import Verdict, Verification
from batch.zstack.answers import Done, Refused
from batch.zstack.changes import GRACE, LONGEST_JOB, ServiceChanges
from batch.zstack.queries import UUIDS_A_QUERY, QueryApi
from batch.zstack.readback import CloneReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.app.server import Server
    from batch.clock import Clock
    from batch.manifest import Manifest
    from batch.manifest.kinds import DeletingLine
    from batch.manifest.targets import Targets, TargetState

_CONCURRENT_POLLS: Final = 50
"""DELETEs that are asked about together."""
_NAMED: Final = 5


def undone_record(target: TargetState, at: float) -> Record:
    """Return the record that a target's clone is gone; ``at``: seconds since the epoch."""
    uuid = target.clone_uuid
    return Record(State.UNDONE, target.key, at, target.attempts, resource_uuid=uuid, clone_uuid=uuid)


async def find_pending(
    lines: Sequence[DeletingLine], service_changes: ServiceChanges, clock: Clock, *, api_timeout: float | None
) -> set[str]:
    """Return the keys of the clones whose DELETE the server may still execute.

    ``api_timeout``: the server's longest time for a job in seconds, by its answers; None where no answer named it.
    """
    longest = max(LONGEST_JOB, (api_timeout or 0.0) + GRACE)

    async def is_pending(line: DeletingLine) -> bool:
        answer = await service_changes.end(line.job_uuid, seconds=1.0, first=0.2)
        has_ended = isinstance(answer, Done) or (isinstance(answer, Refused) and not answer.error.may_go_on)
        return not has_ended and clock.time() < line.at + longest

    pending: set[str] = set()
    for start in range(0, len(lines), _CONCURRENT_POLLS):
        page = lines[start : start + _CONCURRENT_POLLS]
        answers = await asyncio.gather(*map(is_pending, page))
        pending.update(line.key for line, is_open in zip(page, answers, strict=True) if is_open)
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
        items = list(_items(targets))
        lines = [targets.deleting[item.target.key] for item in items]
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


def _items(targets: Targets) -> Iterator[Item]:
    """Yield the clones with a DELETE on record that are not known to be gone."""
    for key in targets.deleting:
        ordinal = targets.find(key)
        target = None if ordinal is None else targets.read(ordinal)
        if ordinal is not None and target is not None and target.state is State.CLONED:
            yield Item(ordinal, target, None)


def _text(keys: set[str]) -> str:
    named = sorted(keys)[:_NAMED]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return (
        f"a rollback was interrupted, and it is not known yet whether it deleted {', '.join(named)}{more}: continue it "
        "with zclone rollback, or run the same command again later"
    )
