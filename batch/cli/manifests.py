"""Commands for a manifest, or the newest one of a job. None takes its lock, so all work during a run."""

import os
import time
from itertools import chain, islice

import typer

from batch import __version__, outputs
from batch.app.messages import language, say, terminal_width
from batch.app.options import ListOutput
from batch.cli import options
from batch.cli.terminal import STDOUT, ColouredLine, emit, emit_data
from batch.errors import ExitCode, UsageError
from batch.text import shell_path

SHEET = "; cells that a spreadsheet would evaluate as formulas begin with a ' (zclone list -o csv adds none)"
STATE_COLOURS = {"cloned": "green", "failed": "red", "conflict": "red"}
_INTERVAL = 1.0
"""Seconds between two refreshes of ``status --watch``."""


def status(manifest: options.ManifestPath, *, run: options.RunOfJob = None, watch: options.Watch = False) -> None:
    """Show the state of a run: counts by state, pace, failures by kind, and the next command.

    With --watch, repeat until its process has ended; then exit as the run did, with 4 if it was killed.
    """
    from batch.app.control import read_status
    from batch.app.runs import manifest_of

    manifest = manifest_of(manifest, run)
    is_shown = False
    if watch:
        from batch.app.live_view import watch as watch_run

        is_shown = watch_run(manifest, os.environ, every=_INTERVAL)
    found = read_status(manifest, os.environ)
    emit(found.lines, clear=watch and not is_shown)
    while watch and found.is_running:
        time.sleep(_INTERVAL)
        found = read_status(manifest, os.environ)
        emit(found.lines, clear=True)
    if watch:
        raise typer.Exit(ExitCode.UNFINISHED if found.exit_code is None else found.exit_code)


def control(manifest: options.ManifestPath, changes: options.Changes = None, *, run: options.RunOfJob = None) -> None:
    """Change the limits of a running process: rate=40/s concurrency=32 | pause | resume | drain | reload.

    Without a change, show the limits in force. A pause gives clones in flight 30 s to settle; a drain waits for all.
    """
    from batch.app.control import control_run
    from batch.app.runs import manifest_of

    found = control_run(manifest_of(manifest, run), changes or ())
    phase = next((f", {name}" for name in ("draining", "stopping", "paused") if found.get(name)), "")
    emit([f"{found['rate']:g} calls/s, {found['concurrency']} in flight at most{phase}"])
    if found["note"]:
        say(found["note"])


def list_targets(  # noqa: PLR0913 - one argument for each flag
    manifest: options.ManifestPath,
    *,
    run: options.RunOfJob = None,
    state: options.States = None,
    code: options.Codes = None,
    only: options.OnlyRecorded = None,
    shard: options.Shard = None,
    output: options.ListAs = ListOutput.TABLE,
    columns: options.Columns = None,
    limit: options.Limit = None,
) -> None:
    """List the targets of a manifest: which source became which clone, and what went wrong.

    A table on a terminal shows the main columns and fits its width; elsewhere, and in other formats, all columns are
    shown. They include owner and share_with if the job has them.
    """
    from batch.app.runs import manifest_of
    from batch.app.target_lookup import choose_columns, data_lines, select_rows
    from batch.report import listings

    path, hint_language = manifest_of(manifest, run), language(os.environ)
    found = select_rows(path, only=only or (), shard=shard, states=frozenset(state or ()), codes=frozenset(code or ()))
    size = (terminal_width(STDOUT) or None) if output is ListOutput.TABLE else None
    requested = None if columns is None else listings.read_columns(columns)
    default = listings.COLUMNS if size is None else listings.TERMINAL_COLUMNS
    names, of_job = choose_columns(path, manifest, requested, default, warn=say)
    first = list(islice(found, 1))
    shown = islice(chain(first, found), limit)
    if output is ListOutput.TABLE:
        lines = listings.table_lines(shown, hint_language, columns=names, of_job=of_job, size=size)
        emit(ColouredLine(line.text, line.state, line.at, STATE_COLOURS.get(line.state, "yellow")) for line in lines)
    else:
        emit_data(data_lines(shown, output, hint_language, columns=names, of_job=of_job))
    if not first:
        say(f"{manifest}: no target matches")


def show(manifest: options.ManifestPath, key: options.Key, *, run: options.RunOfJob = None) -> None:
    """Show the history of one target: every attempt and answer, and which layer set each parameter."""
    from batch.app.runs import manifest_of
    from batch.app.target_lookup import origin_lines
    from batch.manifest import story
    from batch.report.listings import show_lines

    manifest = manifest_of(manifest, run)
    found = story(manifest, key)
    if found is None:
        raise UsageError(f"{manifest}: has no target {key!r}; zclone list {shell_path(manifest)} lists all")
    emit([*show_lines(found, language(os.environ)), *origin_lines(manifest, found)])


def runs(job: options.Job, *, prune: options.Prune = False, keep: options.Keep = None) -> None:
    """List the runs of JOB that have a manifest in this folder, newest first.

    If TEMPORAL_ADDRESS or TEMPORAL_PROFILE is set, open runs on Temporal are listed too.

    With --prune, remove the manifests of all settled runs except the N newest. A run is settled if all its targets are
    settled, no hand-over is pending and no process is running. Other manifests are never removed, nor are those of runs
    with undone clones, as only they know which uuids are used up.
    """
    from batch.app.run_list import describe_runs, list_open_runs, prune_runs
    from batch.report.listings import run_lines

    if prune is not (keep is not None):
        raise UsageError("runs: --prune and --keep N go together")
    found = describe_runs(job)
    if keep is None:
        emit(run_lines(found, list_open_runs(job, os.environ)))
        return
    for path in prune_runs(found, keep=keep):
        say(f"removed {path}")


def repair(
    manifest: options.ManifestPath,
    *,
    out: options.RepairedFile = None,
    output: options.NoFormat = None,  # noqa: ARG001 - refused where it is read
) -> None:
    """Save the readable part of a damaged manifest to a new file; the next run queries the server about the rest."""
    from batch.manifest.repair import repair_manifest

    found = repair_manifest(manifest, out or outputs.beside(manifest, ".repaired.manifest.jsonl"))
    say(f"{found.path}: {found.kept} lines kept, {found.damaged} damaged, {found.uncertain} targets uncertain")
    say(f"next: replace {manifest} with it and run the same command again")


def merge_manifests(
    manifests: options.ShardManifests,
    *,
    out: options.MergedFile,
    output: options.NoFormat = None,  # noqa: ARG001 - refused where it is read
) -> None:
    """Merge the manifests of all shards of one run into one that every command reads.

    Overlaps, gaps and manifests of another job, run, endpoint or plan are refused. The shards are not changed.
    """
    from batch.manifest.merge import merge

    found = merge(manifests, out, tool=f"zclone {__version__}")
    say(f"{found.path}: {found.shards} shards, {found.counts.total()} targets; next: zclone status {shell_path(out)}")


def report(
    manifest: options.ManifestPath,
    *,
    run: options.RunOfJob = None,
    output: options.ReportAs = None,
    out: options.ReportFile = None,
    verified: options.VerifiedFile = None,
) -> None:
    """Write a report of a finished, running or killed run: HTML, Markdown, CSV, JUnit XML or JSON.

    The HTML file is self-contained and makes no network requests.
    """
    from batch.app.runs import manifest_of
    from batch.report.write import report_lines, write_report

    if out is not None:
        outputs.require_distinct(
            [outputs.NamedFile("the report", out)], [outputs.NamedFile("the job file or manifest", manifest)]
        )
    manifest = manifest_of(manifest, run)
    ending = None if output is None else f".{output.value}"
    if out is not None:
        write_report(manifest, out, at=time.time(), ending=ending, language=language(os.environ), verified=verified)
        is_sheet = ".csv" in {ending, ending or out.suffix.lower()}
        say(f"wrote {out}{SHEET if is_sheet else ''}")
    elif ending is not None:
        emit_data(report_lines(manifest, ending, at=time.time(), language=language(os.environ), verified=verified))
    else:
        raise UsageError("report: add --out FILE, such as --out report.html, or -o FORMAT to write it to stdout")
