"""Job files: YAML, JSON Lines and CSV parsed into a Job and its Targets; all problems at once, each with its place."""

from batch.jobfile.job import AuthSettings, EndpointSettings, Job, SecretRef
from batch.jobfile.load import load

__all__ = ["AuthSettings", "EndpointSettings", "Job", "SecretRef", "load"]
