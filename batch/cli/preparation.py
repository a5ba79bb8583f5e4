"""What a run needs to know before it touches the manifest: command line, job file and settings put together."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from batch import jobfile, log
from batch.cli import logs
from batch.cli.choice import PLANNED
from batch.cli.node import fault_options
from batch.cli.settings import read_settings
from batch.errors import UsageError
from batch.jobfile.envelope import read_duration, read_rate
from batch.plan import run_id
from batch.report.expression import read_filter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from batch.cli.again import Again
    from batch.cli.options import LogFormat, Progress
    from batch.jobfile import Job
    from batch.model import Limits
    from batch.plan.saved import SavedPlan
    from batch.zstack.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line of ``run``; None is what the job file says."""

    job: Path
    simulate: str | None
    manifest: Path | None
    run: str | None
    rate: str | None
    concurrency: int | None
    deadline: str | None
    accept_changes: bool
    at_most_once: bool
    progress: Progress
    log_format: LogFormat
    log_file: Path | None
    insecure: bool
    context: str | None
    only: tuple[str, ...] = ()
    shard: str | None = None
    again: Again | None = None
    """What ``retry`` opens again; None for ``run``."""
    report: Path | None = None
    metrics_file: Path | None = None
    ping_url: str | None = None
    saved: SavedPlan | None = None
    """The plan of ``--plan``: the run is exactly that."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a run needs that can be known before the manifest is touched."""

    asked: Asked
    job: Job
    limits: Limits
    settings: Settings | None
    """None for a rehearsal: its node is started only when there is something to do."""
    identity: str
    """The run's id."""
    path: Path
    """Of the manifest."""
    console: Console | None


def prepare(asked: Asked, console: Console | None) -> Prepared:
    """Load the job file and resolve the settings. Raises UsageError, JobFileError among them; nothing was sent."""
    read_filter(asked.only, shard=asked.shard, fields=PLANNED)
    job = jobfile.load(asked.job)
    identity = run_id(job, run=asked.run, started_at=time.time())
    log.bind(job=job.name, run=identity)
    return Prepared(
        asked=asked,
        job=job,
        limits=_limits(job.limits, asked),
        settings=_settings(job, asked),
        identity=identity,
        path=asked.manifest or _default_manifest(asked, identity),
        console=console,
    )


def _settings(job: Job, asked: Asked) -> Settings | None:
    if asked.simulate is not None:
        fault_options(asked.simulate)
        return None
    found = read_settings(os.environ, job=job.endpoint, context=asked.context, insecure=asked.insecure)
    logs.keep_secret(found.settings.auth)
    warn(found.warnings)
    return found.settings


def _limits(limits: Limits, asked: Asked) -> Limits:
    try:
        return replace(
            limits,
            rate=limits.rate if asked.rate is None else read_rate(asked.rate),
            concurrency=limits.concurrency if asked.concurrency is None else asked.concurrency,
            deadline=limits.deadline if asked.deadline is None else read_duration(asked.deadline),
        )
    except ValueError as error:
        raise UsageError(f"--rate or --deadline: {error}") from None


def _default_manifest(asked: Asked, run: str) -> Path:
    parts = [asked.job.stem, *([run] if run != "default" else []), *(["simulated"] if asked.simulate else [])]
    if asked.shard is not None:
        number, _, of = asked.shard.partition("/")
        parts.append(f"shard-{number}-of-{of}")
    return Path(".".join(parts) + ".manifest.jsonl")


def warn(warnings: Iterable[str]) -> None:
    """Tell the operator through the log."""
    for warning in warnings:
        structlog.get_logger().warning("operator.warned", text=warning)
