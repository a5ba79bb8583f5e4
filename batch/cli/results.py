"""Commands about a manifest: status, list, show, repair. None takes its lock, all work while a run is going on."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from batch.cli import options
from batch.cli.terminal import emit, say
from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.model import Row, State


def status(manifest: options.ManifestPath) -> None:
    """Show how a run stands: counts by state, pace, and failures by kind."""
    from batch.manifest import summary
    from batch.report import status_lines

    emit(status_lines(summary(manifest), now=time.time()))


def list_targets(
    manifest: options.ManifestPath,
    *,
    state: options.States = None,
    code: options.Codes = None,
    output: options.ListAs = options.ListOutput.TABLE,
) -> None:
    """List the targets of a manifest: which source became which clone, and what went wrong."""
    from batch.manifest import rows
    from batch.report import ListFormat, render_rows

    chosen = _chosen(rows(manifest), frozenset(state or ()), frozenset(code or ()))
    emit(text.removesuffix("\n") for text in render_rows(chosen, ListFormat(output.value)))


def _chosen(found: "Iterator[Row]", states: "frozenset[State]", codes: frozenset[str]) -> "Iterator[Row]":
    return (row for row in found if (not states or row.state in states) and (not codes or row.error_code in codes))


def show(manifest: options.ManifestPath, key: options.Key) -> None:
    """Tell the whole story of one target: every attempt and every answer."""
    from batch.manifest import story
    from batch.report import show_lines

    found = story(manifest, key)
    if found is None:
        raise UsageError(f"{manifest}: knows no target {key!r}; zclone list {manifest} shows all of them")
    emit(show_lines(found))


def repair(manifest: options.ManifestPath, *, output: options.RepairedFile = None) -> None:
    """Write what a damaged manifest still says to a new file; what it cannot say is asked of the server."""
    from batch.manifest.repair import repair as rescue

    found = rescue(manifest, output or _repaired(manifest))
    say(f"{found.path}: {found.kept} lines kept, {found.damaged} damaged, {found.uncertain} targets to ask about")
    say(f"then put it in the place of {manifest} and run the same command again")


def _repaired(manifest: Path) -> Path:
    return manifest.with_name(manifest.name.removesuffix(".manifest.jsonl") + ".repaired.manifest.jsonl")
