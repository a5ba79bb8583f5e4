"""What a command line asks of a run; imported by every command, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from batch.app.retry import RetryFilter
    from batch.plan.planfile import SavedPlan
    from batch.settings.endpoints import EndpointOptions

PRESETS: Final = ("calm", "flaky", "chaos")
"""The faults ``--simulate`` and ``simulate --faults`` know by name."""


class Progress(StrEnum):
    """How a run shows its progress."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    NONE = "none"


class LogFormat(StrEnum):
    """How log lines look; auto is console on a terminal and json elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class Engine(StrEnum):
    """What executes a run."""

    LOCAL = "local"
    TEMPORAL = "temporal"


class Example(StrEnum):
    """The job files of ``init --example``."""

    MIGRATE = "migrate"
    NIGHTLY = "nightly"
    TENANTS = "tenants"


class Overlap(NamedTuple):
    """What a run does where another process holds its manifest, or that of another run of the same job."""

    is_skipped: bool = False
    """Whether it ends well without having done anything."""
    patience: float = 0.0
    """Seconds that it waits for the lock."""


_FAIL: Final = Overlap()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``run`` or ``retry``; None: as the job file says."""

    job: Path
    simulate: str | None
    manifest: Path | None
    run: str | None
    rate: str | None
    concurrency: int | None
    deadline: str | None
    accept_changes: bool
    new_run: bool
    """Whether to begin the run that ``run:`` names now, even if an earlier one is unfinished."""
    strict: bool
    """Whether a job file that changed targets which are already cloned is refused."""
    at_most_once: bool
    progress: Progress
    log_format: LogFormat
    log_file: Path | None
    is_quiet: bool
    """Whether stderr gets only warnings and worse."""
    endpoint: EndpointOptions
    only: tuple[str, ...] = ()
    shard: str | None = None
    retry: RetryFilter | None = None
    """What ``retry`` retries; None for ``run``."""
    report: Path | None = None
    metrics_file: Path | None = None
    ping_url: str | None = None
    adopt_manifest: bool = False
    tag: bool = False
    """Whether the clones of a run that begins now get its user tag, whatever the job file says."""
    saved: SavedPlan | None = None
    """The plan of ``--plan``, which the run must agree with."""
    plan_file: Path | None = None
    """The file that ``saved`` was read from."""
    engine: Engine | None = None
    """None: that of the last start."""
    cancel: bool = False
    """Whether the run on Temporal is told to end."""
    on_overlap: Overlap = _FAIL
    webhook_listen: str | None = None
    """HOST:PORT; None: the server is not asked to tell the ends of jobs."""
    webhook_url: str | None = None
