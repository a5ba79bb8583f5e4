"""The command line interface: parses arguments, prints text, returns exit codes."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command ``zclone`` with the arguments of the process, and exit."""
    # During imports Ctrl-C ends the process, which has nothing to clean up, without a traceback.
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from batch.cli.app import run_and_exit

    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run_and_exit()
