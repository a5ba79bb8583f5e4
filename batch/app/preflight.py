"""Preflight check of the resources that a plan refers to: one paged query per kind, before anything is sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.app.sources import MAX_COMPARED
from batch.plan.references import Reference, ReferenceKind, ServerResources, judge, model_centers, references
from batch.zstack.auxiliary import OWNER_MESSAGE
from batch.zstack.lookups import ACCOUNTS, GPU_SPECS, IMAGES, MODEL_CENTERS, TAG_PATTERNS
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from batch.model import JsonValue, Plan
    from batch.zstack.auxiliary import AuxiliaryApi

_LOOKUPS: Final = {
    ReferenceKind.IMAGE: IMAGES,
    ReferenceKind.TAG: TAG_PATTERNS,
    ReferenceKind.SPEC: GPU_SPECS,
    ReferenceKind.ACCOUNT: ACCOUNTS,
    ReferenceKind.CENTER: MODEL_CENTERS,
}


async def read_resources(
    plan: Plan,
    inventories: Mapping[str, Mapping[str, JsonValue]],
    auxiliary: AuxiliaryApi,
    *,
    warn_of: Callable[[str], None] = say,
) -> ServerResources:
    """Query every resource that the clones of ``plan`` refer to; pass warnings about unchecked ones to ``warn_of``.

    ``inventories``: those of the sources, for their model centres.
    """
    centers = model_centers(inventories)
    named = _distinct(plan, centers)
    rows = {}
    for kind, lookup in _LOOKUPS.items():
        uuids = dict.fromkeys(reference.uuid for reference in named if reference.kind is kind)
        if not uuids:
            continue
        if len(uuids) > MAX_COMPARED:
            warn_of(f"warning: the {kind}s that the plan names are not checked: there are more than {MAX_COMPARED:,}")
            continue
        try:
            rows[kind] = await auxiliary.rows(lookup, uuids)
        except CallFailedError as error:
            warn_of(f"warning: the {kind}s that the plan names are not checked: {error}")
    found = ServerResources(rows, centers)
    if not any(judge(reference, found) for reference in named):
        # If nothing is missing, the plan need not be walked for positions.
        return ServerResources({}, centers)
    return replace(found, shows_all=await _shows_all(auxiliary))


def _distinct(plan: Plan, centers: Mapping[str, str]) -> Collection[Reference]:
    """Return the distinct references of the clones without positions, stopping soon after the maximum per query."""
    found: dict[Reference, None] = {}
    counts: Counter[ReferenceKind] = Counter()
    for clone in plan.clones():
        for reference in references(clone, centers):
            one = reference._replace(path="")
            if counts[one.kind] <= MAX_COMPARED and one not in found:
                found[one] = None
                counts[one.kind] += 1
    return found


async def _shows_all(auxiliary: AuxiliaryApi) -> bool:
    """Return whether the account is an admin and so sees every resource; False if the server does not say."""
    try:
        return await auxiliary.check_permission(OWNER_MESSAGE) is True
    except CallFailedError:
        return False
