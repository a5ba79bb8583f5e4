"""The runs of a job with manifests in the current folder, and the one that a command resumes.

A command without ``--run`` selects a run by the manifests in the folder: headers give job and start time, last lines
whether the run is finished. It considers only runs whose name is ``run:`` rendered at their start, never runs that
were named with ``--run``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.app.messages import say
from batch.errors import ExitCode, ManifestError, ManifestLockedError, UsageError
from batch.manifest import is_locked
from batch.manifest.reader import last_end, last_started, open_reader
from batch.manifest.summaries import was_at_most_once
from batch.model import State
from batch.report.figures import command_for
from batch.text import iso, shell_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.jobfile import Job
    from batch.manifest import Header

JOB_FILES: Final = frozenset({".yaml", ".yml", ".json"})
"""Suffixes of job files, which distinguish them from manifests."""
_ENDING: Final = ".manifest.jsonl"
_SHARD: Final = re.compile(r"\.shard-(\d+-of-\d+)(?:\.|$)")
_MERGED: Final = b'{"merged":'
"""Prefix of the second line of a merged manifest."""
_DATED: Final = re.compile(r"(?<!\$)(?:\$\$)*\$\{(date|time)\}")
_RESUMED: Final = 12 * 3600.0
_FINISHED: Final = (ExitCode.OK, ExitCode.FAILED)
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run with a manifest."""

    path: Path
    header: Header
    is_merged: bool
    """Whether it is a merge of the shards' manifests."""

    @property
    def name(self) -> str:
        """Id of the run."""
        return self.header.run

    @property
    def is_finished(self) -> bool:
        """Whether its last process exited with 0 or 3."""
        end = last_end(self.path)
        return end is not None and end.exit_code in _FINISHED


def manifest_name(job: Path, run: str, *, simulated: bool, shard: str | None) -> str:
    """Return the default name of a run's manifest."""
    parts = [job.stem, *([run] if run != "default" else []), *(["simulated"] if simulated else [])]
    return ".".join(parts) + _part(shard) + _ENDING


def _part(shard: str | None) -> str:
    return "" if shard is None else f".shard-{shard.replace('/', '-of-')}"


def known_runs(job: Path, *, simulated: bool, shard: str | None) -> list[KnownRun]:
    """Return the runs of the job file with a manifest in the current folder, newest first."""
    every = _without_copies(job, list(_manifests(job)))
    found = [one for one in every if one.header.simulated == simulated and _shard_of(one.path) == shard]
    return sorted(found, key=lambda one: (one.header.created_at, one.name), reverse=True)


def all_runs(job: Path) -> list[KnownRun]:
    """Return all runs of the job file with manifests in the current folder, including shards, rehearsals and copies.

    Newest first. Raises UsageError if ``job`` is not a file.
    """
    return runs_of_file(job, _newest_first(job))


def _newest_first(job: Path) -> list[KnownRun]:
    if not job.is_file():
        raise UsageError(f"{job}: no such file")
    return sorted(_manifests(job), key=lambda one: (one.header.created_at, one.path.name), reverse=True)


def runs_of_file(job: Path, runs: list[KnownRun]) -> list[KnownRun]:
    """Leave out runs that another existing job file of the same name began, if ``job`` itself began any."""
    is_other = {one.path: _is_other_file(one.header, job) for one in runs}
    return [one for one in runs if not is_other[one.path]] if False in is_other.values() else runs


def _is_other_file(header: Header, job: Path) -> bool | None:
    """Return whether another job file than ``job`` began a run; None if that file is not there any more."""
    try:
        return not job.samefile(header.job_file)
    except OSError:
        return None


def other_file_warnings(job: Path, path: Path, header: Header) -> tuple[str, ...]:
    """Return a warning if another existing job file than ``job`` began the run with the manifest ``path``."""
    text = f"{path}: was begun with the job file {header.job_file}, and this is {job}"
    return (text,) if _is_other_file(header, job) else ()


def manifest_of(path: Path, run: str | None) -> Path:
    """Return the manifest for ``path`` and ``--run``: the path itself, or a run of the job file, by default the newest.

    Raises UsageError.
    """
    if path.suffix.lower() not in JOB_FILES:
        if run is not None:
            raise UsageError(f"{path} is a manifest, which has only one run: use --run with a job file")
        return path
    found = _without_copies(path, _newest_first(path))
    if run is None:
        found = runs_of_file(path, found)
    if not found:
        raise UsageError(f"{path}: no run of this job has a manifest in this folder; zclone run starts one")
    named = [one for one in found if run in (None, one.name)]
    if not named:
        raise UsageError(
            f"{path}: no run {run!r} has a manifest in this folder; zclone runs {shell_path(path)} lists them"
        )
    chosen = _whole_of(named[0], named).path
    shard = _shard_of(chosen)
    if shard is not None:
        say(f"{chosen}: is of shard {shard} only: zclone merge makes one manifest of all shards")
    return chosen


def find_manifest(job: Path, *, run: str | None, simulated: bool) -> Path:
    """Return the manifest of a run of the job file, the newest if ``run`` is None. Raises UsageError."""
    every = _without_copies(job, list(_manifests(job)))
    if run is None:
        every = runs_of_file(job, every)
    found = [one for one in every if one.header.simulated is simulated and run in (None, one.name)]
    if not found:
        kind = "rehearsal" if simulated else "run"
        which = f"no {kind}" if run is None else f"no {kind} {run}"
        hint = "" if simulated else "; --simulate looks for a rehearsal's"
        raise UsageError(f"{job}: {which} of this job has a manifest in this folder{hint}; --manifest FILE names one")
    chosen = _whole_of(max(found, key=lambda one: one.header.created_at), found)
    for warning in other_file_warnings(job, chosen.path, chosen.header):
        say(f"warning: {warning}")
    return chosen.path


def _whole_of(run: KnownRun, runs: Sequence[KnownRun]) -> KnownRun:
    """Return the manifest of the whole run where ``run`` is of one of its shards and they were merged."""
    if _shard_of(run.path) is None:
        return run
    same = (one for one in runs if (one.name, one.header.simulated) == (run.name, run.header.simulated))
    return next((one for one in same if _shard_of(one.path) is None), run)


def refuse_other_division(job: Path, run: str, *, simulated: bool, shard: str | None, is_at_most_once: bool) -> None:
    """Raise UsageError for a shard whose run was merged, and at most once for a manifest beside those of other shards.

    Either would not know what the others record of the same targets.
    """
    whole = Path(manifest_name(job, run, simulated=simulated, shard=None))
    if shard is not None and whole.exists():
        with open_reader(whole) as manifest:
            first = next(manifest.bodies(), b"")
        if first.startswith(_MERGED):
            raise UsageError(f"--shard: the shards of this run were merged into {whole}: continue it without --shard")
    if Path(manifest_name(job, run, simulated=simulated, shard=shard)).exists():
        return
    of = (shard or "").partition("/")[2]
    for one in _manifests(job):
        is_same = (one.name, one.header.simulated) == (run, simulated)
        is_other = is_same and (_shard_of(one.path) or "").partition("/")[2] != of
        if is_other and (is_at_most_once or one.header.at_most_once or was_at_most_once(one.path)):
            raise UsageError(
                f"{one.path}: the run is at most once: give the --shard of this manifest, or none if it has none"
            )


def _without_copies(job: Path, runs: Sequence[KnownRun]) -> list[KnownRun]:
    """Leave out other manifests of a run, or of its shard, where there is one under the name that ``run`` gives it.

    Only that one is continued by ``run``: what a copy says may be out of date. A merged manifest under another name is
    a copy of its shards, which ``run`` continues.
    """
    jobs = {one.path.name: one.header.job for one in runs}

    def is_copy(one: KnownRun) -> bool:
        own = manifest_name(job, one.name, simulated=one.header.simulated, shard=_shard_of(one.path))
        return one.path.name != own and (jobs.get(own) == one.header.job or one.is_merged)

    return [one for one in runs if not is_copy(one)]


def _manifests(job: Path) -> Iterator[KnownRun]:
    for path in sorted(Path().glob("*" + _ENDING)):
        if not path.name.startswith(job.stem + "."):
            continue
        try:
            with open_reader(path) as manifest:
                first = next(manifest.bodies(), b"")
        except (UsageError, ManifestError):
            # Skip unreadable files; opening one for a command reports the error.
            continue
        if Path(manifest.header.job_file).name == job.name:
            yield KnownRun(path, manifest.header, first.startswith(_MERGED))


def read_header(path: Path) -> Header | None:
    """Return the header of a manifest; None if there is none."""
    try:
        with open_reader(path) as manifest:
            next(manifest.bodies(), None)
            return manifest.header
    except (UsageError, ManifestError):
        # Opening it for the run reports the error.
        return None


def _shard_of(path: Path) -> str | None:
    found = _SHARD.search(path.name.removesuffix(_ENDING))
    return None if found is None else found[1].replace("-of-", "/")


def is_dated(job: Job) -> bool:
    """Return whether ``run:`` contains ``${date}`` or ``${time}``."""
    return _DATED.search(job.run) is not None


def run_to_resume(job: Job, *, simulated: bool, shard: str | None, at: float, is_new: bool) -> KnownRun | None:
    """Return the unfinished run that a command without ``--run`` resumes; None to start the one ``run:`` names now.

    ``at``: now, seconds since the epoch; ``is_new``: ``--new-run``. Raises UsageError if the new run already has a
    manifest, ManifestLockedError if a process holds another run.
    """
    if not is_dated(job):
        if is_new:
            raise UsageError("--new-run: `run:` contains neither ${date} nor ${time}, so it always names the same run")
        return None
    from batch.plan import run_id

    now = run_id(job, run=None, started_at=at)
    # Runs named with --run are neither started nor resumed without it.
    found = [
        one
        for one in known_runs(job.path, simulated=simulated, shard=shard)
        if one.header.job == job.name and one.name == run_id(job, run=None, started_at=one.header.created_at)
    ]
    _refuse_overlap(found, now)
    open_runs = [one for one in found if not one.is_finished]
    recent = [one for one in open_runs if at - one.header.created_at < _resume_window(job)]
    if is_new:
        if any(one.name == now for one in found):
            raise UsageError(f"--new-run: the run {now} already has a manifest")
        recent = []
    chosen = recent[0] if recent else None
    _report_choice(job, chosen, [one for one in open_runs if one is not chosen and one.name != now], now=now)
    return chosen if chosen is not None and chosen.name != now else None


def _refuse_overlap(runs: list[KnownRun], now: str) -> None:
    for one in runs:
        if one.name != now and is_locked(one.path):
            raise ManifestLockedError(
                f"{one.path}: another process is running the run {one.name} of this job{holder_text(one.path)}",
                one.path,
            )


def holder_text(path: Path) -> str:
    """Return which process holds the manifest and since when, as far as recorded."""
    try:
        started = last_started(path)
    except (UsageError, ManifestError):
        return ""
    return "" if started is None else f" (process {started.pid} on {started.host}, since {iso(started.at)})"


def _resume_window(job: Job) -> float:
    if job.resume_within is not None:
        return job.resume_within
    return 0.0 if "time" in _DATED.findall(job.run) else _RESUMED


def _report_choice(job: Job, run: KnownRun | None, unfinished: list[KnownRun], *, now: str) -> None:
    if run is not None and run.name != now:
        say(f"resuming the unfinished run {run.name}; --new-run starts {now}", level="info")
    for one in unfinished[:_NAMED]:
        resume = command_for(replace(one.header, job_file=str(job.path)), one.path, State.PLANNED)
        say(f"warning: the run {one.name} is unfinished; {resume} resumes it")
    if len(unfinished) > _NAMED:
        say(f"warning: {len(unfinished) - _NAMED} more runs are unfinished")
