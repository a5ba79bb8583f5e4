"""Commands about a manifest: status, list, show, repair. None takes its lock, all work while a run is going on."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batch.cli import options
from batch.cli.terminal import emit, is_terminal, say
from batch.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import Row, State


_GLANCE = 1.0
"""Seconds between two looks of ``status --watch``."""
_STDOUT = 1


def status(manifest: options.ManifestPath, *, watch: options.Watch = False) -> None:
    """Show how a run stands: counts by state, pace, failures by kind, and the command that goes on.

    With --watch until its process has ended, also by a kill: then with the run's exit code, 4 where it was killed.
    """
    is_running = _status(manifest, clear=watch)
    while watch and is_running:
        time.sleep(_GLANCE)
        is_running = _status(manifest, clear=True)
    if watch:
        from batch.manifest import summary

        ended = summary(manifest).ended
        raise typer.Exit(ExitCode.UNFINISHED if ended is None else ended.exit_code)


def _status(manifest: Path, *, clear: bool) -> bool:
    """Show one look; return whether the process is running."""
    from batch.manifest import is_held, summary
    from batch.report import status_lines

    # Asked before the look: a process that ends in between has written its end by then.
    held = is_held(manifest)
    found = summary(manifest)
    _show_again(status_lines(found, manifest=manifest, is_held=held, now=time.time()), clear=clear)
    return held and found.ended is None


def _show_again(lines: list[str], *, clear: bool) -> None:
    """Print in the place of what stood there before, or below it where stdout is no terminal."""
    if clear and is_terminal(_STDOUT):
        lines = ["\x1b[H\x1b[2J" + lines[0], *lines[1:]]
    emit(lines)


def list_targets(
    manifest: options.ManifestPath,
    *,
    state: options.States = None,
    code: options.Codes = None,
    only: options.OnlyRecorded = None,
    shard: options.Shard = None,
    output: options.ListAs = options.ListOutput.TABLE,
) -> None:
    """List the targets of a manifest: which source became which clone, and what went wrong."""
    from batch.cli.choice import RECORDED, is_chosen
    from batch.manifest import rows
    from batch.report import ListFormat, render_rows
    from batch.report.expression import read_filter

    wanted = read_filter(only or (), shard=shard, fields=RECORDED)
    found = (row for row in rows(manifest) if is_chosen(row, wanted))
    chosen = _chosen(found, frozenset(state or ()), frozenset(code or ()))
    emit(text.removesuffix("\n") for text in render_rows(chosen, ListFormat(output.value)))


def _chosen(found: "Iterator[Row]", states: "frozenset[State]", codes: frozenset[str]) -> "Iterator[Row]":
    return (row for row in found if (not states or row.state in states) and (not codes or row.error_code in codes))


def show(manifest: options.ManifestPath, key: options.Key) -> None:
    """Tell the whole story of one target: every attempt and every answer, and which layer set each parameter."""
    from batch.cli.origins import origin_lines
    from batch.manifest import story
    from batch.report import show_lines
    from batch.report.text import clean

    found = story(manifest, key)
    if found is None:
        raise UsageError(f"{manifest}: knows no target {key!r}; zclone list {manifest} shows all of them")
    emit([*show_lines(found), *map(clean, origin_lines(manifest, found))])


def repair(manifest: options.ManifestPath, *, output: options.RepairedFile = None) -> None:
    """Write what a damaged manifest still says to a new file; what it cannot say is asked of the server."""
    from batch.manifest.repair import repair as rescue

    found = rescue(manifest, output or _repaired(manifest))
    say(f"{found.path}: {found.kept} lines kept, {found.damaged} damaged, {found.uncertain} targets to ask about")
    say(f"then put it in the place of {manifest} and run the same command again")


def _repaired(manifest: Path) -> Path:
    return manifest.with_name(manifest.name.removesuffix(".manifest.jsonl") + ".repaired.manifest.jsonl")
