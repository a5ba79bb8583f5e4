"""The plan: what will be sent, derived from a Job and the run's start; no I/O except reading the job's streams."""

from batch.plan.identity import Identities, RunTags, check_request, regenerate, resource_uuid, tag_clones
from batch.plan.pins import Questions, placeholder_uuids, placeholder_value
from batch.plan.planning import Draft, Planning, Setting, load_job, run_id

__all__ = [
    "Draft",
    "Identities",
    "Planning",
    "Questions",
    "RunTags",
    "Setting",
    "check_request",
    "load_job",
    "placeholder_uuids",
    "placeholder_value",
    "regenerate",
    "resource_uuid",
    "run_id",
    "tag_clones",
]
