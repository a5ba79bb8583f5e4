"""The plan: what will be sent, derived from a Job and the run's start; no I/O but reading the job's streams."""

from batch.plan.coverage import coverage
from batch.plan.crosscheck import at_sources, crosscheck
from batch.plan.expand import expand, input_files, inputs_digest, pinned, run_id, trusted
from batch.plan.explain import Setting, explain, explained
from batch.plan.identity import Identities, check_request, resource_uuid
from batch.plan.sources import Sources, Wanted, asked_conditions, assumed, assumed_found

__all__ = [
    "Identities",
    "Setting",
    "Sources",
    "Wanted",
    "asked_conditions",
    "assumed",
    "assumed_found",
    "at_sources",
    "check_request",
    "coverage",
    "crosscheck",
    "expand",
    "explain",
    "explained",
    "input_files",
    "inputs_digest",
    "pinned",
    "resource_uuid",
    "run_id",
    "trusted",
]
