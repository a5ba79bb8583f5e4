"""A rerun of what is finished: the manifest's last line and the digest of the inputs say so, and nothing is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.cli.outcome import Outcome
from batch.errors import ManifestMismatchError
from batch.manifest import finished
from batch.manifest.header import require_same
from batch.model import Handed
from batch.plan import inputs_digest

if TYPE_CHECKING:
    from batch.cli.preparation import Prepared
    from batch.manifest import Header


def settled_before(prepared: Prepared, header: Header) -> Outcome | None:
    """Return the outcome where an earlier process left nothing to do and no input changed since, else None.

    A process that left a hand-over open, or had one refused, did not write the counts that this needs.
    """
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
    if inputs != found.plan.inputs:
        return None
    return Outcome(found.counts, Handed(done=found.plan.hand_overs))
