"""The command line interface: parses arguments, prints text, returns exit codes."""

from __future__ import annotations


def main() -> None:
    """Run the command ``zclone`` with the arguments of the process, and exit."""
    from batch.cli.app import run_and_exit

    run_and_exit()
