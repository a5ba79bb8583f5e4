"""Command-line options of a run; every command imports this module, so it imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from batch.app.selection import RetryFilter
    from batch.plan.planfile import SavedPlan
    from batch.settings.sources import EndpointOptions

PRESETS: Final = ("calm", "flaky", "chaos")
"""Names of the fault presets for ``--simulate`` and ``simulate --faults``."""


class ProgressMode(StrEnum):
    """How a run shows its progress."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    NONE = "none"


class LogFormat(StrEnum):
    """Format of log lines; auto is console on a terminal and json elsewhere."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class Engine(StrEnum):
    """Where a run is executed."""

    LOCAL = "local"
    TEMPORAL = "temporal"


class Example(StrEnum):
    """The job files of ``init --example``."""

    MIGRATE = "migrate"
    NIGHTLY = "nightly"
    TENANTS = "tenants"


class Overlap(NamedTuple):
    """What a run does if another process holds its manifest, or that of another run of the same job."""

    is_skipped: bool = False
    """Whether to exit 0 without doing anything."""
    max_wait: float = 0.0
    """Seconds to wait for the lock."""


_FAIL: Final = Overlap()


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of ``run`` and ``retry``; None means the job file decides."""

    job: Path
    simulate: str | None
    manifest: Path | None
    run: str | None
    rate: str | None
    concurrency: int | None
    deadline: str | None
    accept_changes: bool
    new_run: bool
    """Whether to start the run that ``run:`` names now, even if an earlier one is unfinished."""
    strict: bool
    """Whether to refuse a job file in which cloned targets were edited."""
    at_most_once: bool
    progress: ProgressMode
    log_format: LogFormat
    log_file: Path | None
    is_quiet: bool
    """Whether stderr gets only warnings and errors."""
    endpoint: EndpointOptions
    only: tuple[str, ...] = ()
    shard: str | None = None
    retry: RetryFilter | None = None
    """Targets that ``retry`` selects; None for ``run``."""
    report: Path | None = None
    metrics_file: Path | None = None
    ping_url: str | None = None
    adopt_manifest: bool = False
    tag: bool = False
    """Whether clones of a new run get its user tag, regardless of the job file."""
    saved: SavedPlan | None = None
    """The plan of ``--plan``, which the run must match."""
    plan_file: Path | None = None
    """The file that ``saved`` was read from."""
    engine: Engine | None = None
    """None for the engine of the last start."""
    cancel: bool = False
    """Whether to end the run on Temporal."""
    on_overlap: Overlap = _FAIL
    webhook_listen: str | None = None
    """HOST:PORT to listen on; None for no web hooks."""
    webhook_url: str | None = None
