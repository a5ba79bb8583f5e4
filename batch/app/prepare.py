"""The setup of a run from command line, job file and settings, before the manifest is opened."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.app.embedded_node import node_state, require_faults
from batch.app.live_view import live_console
from batch.app.messages import language
from batch.app.options import PRESETS, LogFormat, ProgressMode
from batch.app.reports import name_outputs, require_usable_outputs
from batch.app.runs import (
    is_dated,
    known_runs,
    manifest_name,
    other_file_warnings,
    read_header,
    refuse_other_division,
    run_to_resume,
    runs_of_file,
)
from batch.app.selection import PLANNED
from batch.errors import UsageError
from batch.jobfile.values import read_duration, read_rate
from batch.outputs import NamedFile, require_distinct
from batch.plan import load_job, run_id
from batch.settings.files import config_path
from batch.settings.sources import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.app.live_view import LiveConsole
    from batch.app.options import RunOptions
    from batch.app.webhook import HookAddress
    from batch.jobfile import Job
    from batch.model import Limits
    from batch.zstack.classify import Language
    from batch.zstack.settings import Settings


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that a run needs and that is known before the manifest is opened."""

    options: RunOptions
    job: Job
    limits: Limits
    settings: Settings | None
    """None for a rehearsal, whose node starts only if there is work."""
    identity: str
    """Id of the run."""
    path: Path
    """Path of the manifest."""
    warnings: tuple[str, ...]
    """Warnings about the settings."""
    console: LiveConsole | None
    """Console of the live view; None for other kinds of progress."""
    began: float
    """Start of the command, seconds since the epoch; a new run is named and planned for this time."""
    run_flag: tuple[str, ...]
    """The ``--run`` option that a later command needs to name the same run; empty if none."""
    is_rate_set: bool
    """Whether command line or job file set the rate."""
    web_hook: HookAddress | None
    """Address for web hooks; None for no web hooks."""

    @property
    def language(self) -> Language:
        """The language of hints."""
        return language(self.options.endpoint.environ)


def _require_filter(options: RunOptions) -> None:
    if options.only or options.shard is not None:
        from batch.report.filters import read_filter

        read_filter(options.only, shard=options.shard, fields=PLANNED)


def prepare(options: RunOptions) -> Setup:
    """Load the job file and resolve the settings, without opening a file for writing or sending anything.

    Raises UsageError, including JobFileError, also for outputs that would overwrite an input or each other.
    """
    _require_filter(options)
    web_hook = _read_web_hook(options)
    job = load_job(options.job)
    began = time.time()
    identity, path, run_flag = _identify(options, job, began)
    if options.manifest is None:
        refuse_other_division(
            job.path,
            identity,
            simulated=options.simulate is not None,
            shard=options.shard,
            is_at_most_once=options.at_most_once,
        )
    beginning = began if options.saved is None else options.saved.started_at
    header = read_header(path)
    options = name_outputs(options, job, run=identity, began=beginning if header is None else header.created_at)
    require_usable_outputs(options)
    require_distinct(_outputs(options, path), [*_inputs(options, job), *_settings_files(options, job)])
    settings, warnings = _settings(job, options)
    if header is not None:
        warnings += other_file_warnings(options.job, path, header)
    return Setup(
        # An unfinished run keeps its name, even if `run:` now yields another.
        options=replace(options, run=identity),
        job=job,
        limits=limits_of(job.limits, options),
        settings=settings,
        warnings=warnings,
        identity=identity,
        path=path,
        console=_console(options),
        began=began,
        run_flag=run_flag,
        is_rate_set=options.rate is not None or job.is_rate_set,
        web_hook=web_hook,
    )


def _read_web_hook(options: RunOptions) -> HookAddress | None:
    if options.webhook_listen is None and options.webhook_url is None:
        return None
    from batch.app.webhook import read_hook_address

    return read_hook_address(options)


def _console(options: RunOptions) -> LiveConsole | None:
    """Return the console of the live view; None if stderr is JSON or only for warnings."""
    if not options.is_quiet and options.log_format is not LogFormat.JSON:
        return live_console(options.progress, options.endpoint.environ)
    if options.progress is ProgressMode.LIVE:
        raise UsageError("--progress live: leave out --quiet and --log-format json, which allow no view")
    return None


def _identify(options: RunOptions, job: Job, at: float) -> tuple[str, Path, tuple[str, ...]]:
    """Return identity and manifest of the run that the options select, and its ``run_flag``.

    Raises UsageError, ManifestLockedError.
    """
    simulated, known = options.simulate is not None, None
    if options.run is None and options.manifest is None and options.saved is None:
        if options.retry is not None:
            known_here = known_runs(job.path, simulated=simulated, shard=options.shard)
            known = next(iter(runs_of_file(job.path, known_here)), None)
        else:
            known = run_to_resume(job, simulated=simulated, shard=options.shard, at=at, is_new=options.new_run)
    elif options.new_run:
        raise UsageError("--new-run: starts the run that `run:` names: leave out --run, --manifest and --plan")
    if known is not None:
        # A retry without --run means the run chosen here, as the other commands in a summary are spelled.
        is_default = options.retry is not None and known.name == "default"
        return known.name, known.path, () if is_default else ("--run", known.name)
    identity = run_id(job, run=options.run, started_at=at)
    name = manifest_name(options.job, identity, simulated=simulated, shard=options.shard)
    is_open = options.run is None and options.saved is None and is_dated(job)
    return identity, options.manifest or Path(name), ("--run", identity) if is_open else ()


def _settings(job: Job, options: RunOptions) -> tuple[Settings | None, tuple[str, ...]]:
    if options.simulate is not None:
        require_faults(options.simulate)
        return None, ()
    from batch.settings.reader import read_settings

    found = read_settings(options.endpoint, job.endpoint)
    return found.settings, found.warnings


def limits_of(limits: Limits, options: RunOptions) -> Limits:
    """Return the job file's ``limits`` overridden by flags. Raises UsageError."""
    try:
        return replace(
            limits,
            rate=limits.rate if options.rate is None else read_rate(options.rate),
            concurrency=limits.concurrency if options.concurrency is None else options.concurrency,
            deadline=limits.deadline if options.deadline is None else read_duration(options.deadline),
        )
    except ValueError as error:
        raise UsageError(f"--rate or --deadline: {error}") from None


def _outputs(options: RunOptions, manifest: Path) -> Iterator[NamedFile]:
    yield NamedFile("the manifest" if options.manifest is None else "--manifest", manifest)
    if options.simulate is not None:
        yield NamedFile("the embedded node's state", node_state(manifest))
    for name, path in (
        ("--log-file", options.log_file),
        ("--metrics-file", options.metrics_file),
        ("--report", options.report),
    ):
        if path is not None:
            yield NamedFile(name, path)


def _inputs(options: RunOptions, job: Job) -> Iterator[NamedFile]:
    yield NamedFile("the job file", options.job)
    for path in job.targets.files():
        yield NamedFile("the targets' file", path)
    if options.simulate is not None and options.simulate not in PRESETS:
        yield NamedFile("the faults' file", Path(options.simulate))
    if options.plan_file is not None:
        yield NamedFile("--plan", options.plan_file)


def _settings_files(options: RunOptions, job: Job) -> Iterator[NamedFile]:
    environ = options.endpoint.environ
    for name, value in environ.items():
        if value and name.startswith("ZSTACK_") and name.endswith("_FILE"):
            yield NamedFile(name, Path(value))
    config = config_path(environ)
    if config is not None:
        yield NamedFile(CONFIG, config)
    endpoint = job.endpoint
    if endpoint is None:
        return
    if endpoint.ca_file is not None:
        yield NamedFile("endpoint.ca_file", endpoint.ca_file)
    auth = endpoint.auth
    for secret in () if auth is None else (auth.session, auth.password, auth.access_key_secret):
        if secret is not None and secret.file is not None:
            yield NamedFile("the secret's file", secret.file)
