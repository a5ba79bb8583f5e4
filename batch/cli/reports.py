"""The commands ``report`` and ``demo``."""

import time
from pathlib import Path

import typer

from batch.cli import options
from batch.cli.terminal import say


def report(manifest: options.ManifestPath, *, output: options.ReportFile) -> None:
    """Write a report of a manifest, also of a running or killed run: HTML, Markdown, CSV, JUnit XML or JSON.

    The HTML file stands alone: it loads nothing and sends nothing.
    """
    from batch.report.write import write_report

    write_report(manifest, output, at=time.time())
    say(f"wrote {output}")


def demo(folder: options.DemoFolder = Path("zclone-demo")) -> None:
    """See it all in a minute: 300 clones, faults, a SIGKILL halfway, the same command again, and the proof.

    Needs no settings and no server: the embedded node is one, and its ledger says what was made.
    """
    from batch.cli import demo as tour

    raise typer.Exit(tour.demo(tour.new_folder(folder)))
