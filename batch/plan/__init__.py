"""The plan: what will be sent, derived from a Job and the run's start; no I/O but reading the job's streams."""

from batch.plan.expand import expand, input_files, inputs_digest, run_id, trusted
from batch.plan.explain import Setting, explain
from batch.plan.identity import resource_uuid
from batch.plan.sources import Sources, assumed, source_uuids

__all__ = [
    "Setting",
    "Sources",
    "assumed",
    "expand",
    "explain",
    "input_files",
    "inputs_digest",
    "resource_uuid",
    "run_id",
    "source_uuids",
    "trusted",
]
