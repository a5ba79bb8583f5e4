"""Services that carry a tag of the run but are not its clones: duplicates and extras."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from batch.keytable import KeyTable
from batch.plan import RunTags
from batch.report.expression import read_shard
from batch.report.verification import Finding, Verdict
from batch.zstack.queries import UUIDS_A_QUERY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batch.manifest.targets import Targets
    from batch.zstack.readback import CloneReader

_UNMADE: Final = frozenset({Verdict.FAILED, Verdict.CONFLICT, Verdict.WITHDRAWN, Verdict.UNDONE})


async def find_extra_services(
    targets: Targets, readback: CloneReader, verdict: Callable[[int], Verdict]
) -> list[Finding]:
    """Query all tags of the run and return the services that should have none; ``verdict``: by target ordinal.

    Raises CallFailedError.
    """
    tags = RunTags(targets.header.job, targets.header.run)
    ordinals = KeyTable()
    for ordinal in range(len(targets)):
        ordinals.put(hash(tags.of(targets.read(ordinal).key)), ordinal)
    suspects: defaultdict[tuple[int, str], list[str]] = defaultdict(list)
    async for uuid, tag in readback.tagged(tags.prefix):
        known = ordinals.get(hash(tag))
        if known is None or uuid != targets.read(known).clone_uuid or verdict(known) in _UNMADE:
            suspects[-1 if known is None else known, tag].append(uuid)
    visible = await _visible(readback, [uuid for uuids in suspects.values() for uuid in uuids])
    findings: list[Finding] = []
    for (ordinal, tag), uuids in suspects.items():
        there = sorted(visible & {*uuids})
        if ordinal < 0:
            findings += _extra(targets, tags, tag, there)
        else:
            findings += _second(targets, ordinal, verdict(ordinal), there)
    return findings


async def _visible(readback: CloneReader, uuids: Sequence[str]) -> set[str]:
    """Return the services that exist, since the tags of a deleted service may outlive it."""
    found: set[str] = set()
    for start in range(0, len(uuids), UUIDS_A_QUERY):
        found.update((await readback.services(uuids[start : start + UUIDS_A_QUERY])).by_uuid)
    return found


def _extra(targets: Targets, tags: RunTags, tag: str, uuids: Sequence[str]) -> Iterator[Finding]:
    """Yield the services whose tag names no target, unless the target may belong to another shard."""
    key, shard = tags.key_of(tag), "" if targets.plan is None else targets.plan.shard
    # A key's hash does not give its shard; only the merged manifest does.
    if not shard or (key is not None and read_shard(shard).matches(key)):
        for uuid in uuids:
            name = tag.removeprefix(tags.prefix)
            yield Finding(Verdict.EXTRA, name, clone_uuid=uuid, detail="its key is not in the manifest")


def _second(targets: Targets, ordinal: int, verdict: Verdict, uuids: Sequence[str]) -> Iterator[Finding]:
    """Yield the services that carry a target's tag but are not its clone."""
    target = targets.read(ordinal)
    if verdict in _UNMADE:
        for uuid in uuids:
            yield Finding(Verdict.EXTRA, target.key, target.source_uuid, uuid, detail=f"its target is {verdict}")
        return
    # An open target may have one service, even if the manifest does not have its uuid yet.
    for uuid in uuids[1:] if verdict is Verdict.OPEN else uuids:
        yield Finding(Verdict.DUPLICATE, target.key, target.source_uuid, uuid, detail=f"beside {target.clone_uuid}")
