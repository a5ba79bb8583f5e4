"""The command line: arguments, wiring, signals, exit codes; the only composition root."""

from __future__ import annotations


def main() -> None:
    """Run the command ``zclone`` with the process's arguments and leave with its exit code."""
    from batch.cli.app import run_and_exit

    run_and_exit()
