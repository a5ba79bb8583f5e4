"""The values of command-line options, and the shell completion of files, contexts, keys and error codes.

Every command imports this module, so it imports nothing heavy. On any error there are no candidates to complete.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from batch.errors import UsageError, ZcloneError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batch.app.selection import RetryFilter
    from batch.plan.pins import SavedPlan
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


class ProblemFormat(StrEnum):
    """The formats of job-file problems."""

    TEXT = "text"
    GITHUB = "github"


class PlanOutput(StrEnum):
    """The formats of ``plan``."""

    TABLE = "table"
    JSON = "json"
    CURL = "curl"


class ListOutput(StrEnum):
    """The formats of ``list``."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


class VerifyOutput(StrEnum):
    """The formats of ``verify``."""

    TABLE = "table"
    JSON = "json"


class DiscoverOutput(StrEnum):
    """The formats of ``discover``."""

    YAML = "yaml"
    JSON = "json"


class ReportOutput(StrEnum):
    """The formats of ``report``."""

    HTML = "html"
    MARKDOWN = "md"
    CSV = "csv"
    JUNIT = "xml"
    JSON = "json"


class Overlap(NamedTuple):
    """What a run does if another process holds its manifest, or that of another run of the same job."""

    is_skipped: bool = False
    """Whether to exit 0 without doing anything."""
    max_wait: float = 0.0
    """Seconds to wait for the lock."""

    @classmethod
    def read(cls, text: str) -> Self:
        """Parse ``--on-overlap``. Raises UsageError."""
        from batch.jobfile.values import read_duration

        if text in {"fail", "skip"}:
            return cls(is_skipped=text == "skip")
        word, _, max_wait = text.partition(":")
        if word != "wait":
            raise UsageError(f"--on-overlap: must be fail, skip or wait:TIME such as wait:10m, not {text!r:.60}")
        try:
            return cls(max_wait=read_duration(max_wait))
        except ValueError as error:
            raise UsageError(f"--on-overlap: wait: {error}") from None


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


_MANIFESTS: Final = (".manifest.jsonl",)
_JOBS: Final = (".yaml", ".yml", ".json")
_SCHEMA: Final = ".schema.json"
_MAX_CANDIDATES: Final = 200
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._:@%+,=\[\]/-]+")
"""Characters that the shell never interprets, in any position of a word.

Completion scripts evaluate the candidates, and not all of them quote. Candidates with other characters are left out;
otherwise the author of a manifest or a file name could run code when TAB is pressed.
"""


def _files(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Return the files with one of ``endings``, and the folders, whose paths begin with ``incomplete``."""
    folder, slash, start = incomplete.rpartition("/")
    found: list[str] = []
    with suppress(OSError), os.scandir(folder or slash or ".") as entries:
        for entry in entries:
            is_folder = entry.is_dir()
            is_wanted = is_folder or (entry.name.endswith(endings) and not entry.name.endswith(_SCHEMA))
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if is_wanted and not is_hidden and _is_offered(entry.name, start):
                found.append(f"{folder}{slash}{entry.name}{'/' if is_folder else ''}")
    return sorted(found)[:_MAX_CANDIDATES]


def complete_jobs(incomplete: str) -> list[str]:
    """Return the job files that begin with ``incomplete``."""
    return _files(incomplete, _JOBS)


def complete_runs(incomplete: str) -> list[str]:
    """Return the manifests and job files that begin with ``incomplete``."""
    return _files(incomplete, (*_MANIFESTS, *_JOBS))


def complete_manifests(incomplete: str) -> list[str]:
    """Return the manifests that begin with ``incomplete``."""
    return _files(incomplete, _MANIFESTS)


def complete_contexts(incomplete: str, environ: Mapping[str, str]) -> list[str]:
    """Return the contexts of zstack-cli's config that begin with ``incomplete``."""
    from batch.settings.files import context_names

    with suppress(ZcloneError):
        return [name for name in context_names(environ) if _is_offered(name, incomplete)]
    return []


def complete_keys(ctx: Any, incomplete: str) -> list[str]:
    """Return the keys that begin with ``incomplete``, from the given manifest or those of the job file."""
    from batch.manifest import rows

    found: list[str] = []
    for path in _manifests(ctx):
        with suppress(ZcloneError):
            found += islice((row.key for row in rows(path) if _is_offered(row.key, incomplete)), _MAX_CANDIDATES)
    return found


def complete_codes(ctx: Any, incomplete: str) -> list[str]:
    """Return the error codes that begin with ``incomplete``, from the given manifest or those of the job file."""
    from batch.manifest import summary

    found: set[str] = set()
    for path in _manifests(ctx):
        with suppress(ZcloneError):
            found |= {cluster.code for cluster in summary(path).clusters if _is_offered(cluster.code, incomplete)}
    return sorted(found)


def _manifests(ctx: Any) -> Iterator[Path]:
    """Yield the manifests of a command line; ``ctx``: its parsed words, as ``args`` and ``params``."""
    # Words before an incomplete option are not parsed yet; the first is the command's only argument.
    first = next(iter(ctx.args), None)
    given = ctx.params.get("manifest") or ctx.params.get("job") or first
    if given is not None and Path(given).suffix in _JOBS:
        yield from sorted(Path().glob(f"{Path(given).stem}.*manifest.jsonl"))
    elif given is not None:
        yield Path(given)


def _is_offered(candidate: str, incomplete: str) -> bool:
    return candidate.startswith(incomplete) and _HARMLESS.fullmatch(candidate) is not None
