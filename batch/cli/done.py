"""A rerun of what is finished: the manifest's last line and the digest of the inputs say so, and nothing is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.errors import ManifestMismatchError
from batch.manifest import finished
from batch.manifest.header import require_same
from batch.plan import inputs_digest

if TYPE_CHECKING:
    from collections import Counter

    from batch.cli.preparation import Prepared
    from batch.manifest import Header
    from batch.model import State


def settled_before(prepared: Prepared, header: Header) -> Counter[State] | None:
    """Return the targets by state where an earlier process settled every one and no input changed since, else None."""
    asked = prepared.asked
    if asked.only or asked.shard or asked.again or asked.saved:
        return None
    found = finished(prepared.path)
    if found is None or not found.plan.inputs:
        return None
    try:
        require_same(found.header, header)
    except ManifestMismatchError:
        # The one who opens the manifest tells that it is of another run.
        return None
    inputs = inputs_digest(prepared.job, run=asked.run, started_at=found.header.created_at, pins=found.pins)
    return found.counts if inputs == found.plan.inputs else None
