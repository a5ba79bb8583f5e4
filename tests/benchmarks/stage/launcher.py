"""Run one command and print its cost: ``python -S launcher.py FILE CORE COMMAND...``; stderr goes to FILE.

It is a process of its own because Linux counts the peak memory of the parent as that of the child, and this one is
small.
"""

import json
import os
import sys
import time


def main(file: str, core: str, *command: str) -> None:
    """Print seconds, processor seconds, peak MiB and exit code as a JSON list."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    began = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.monotonic() - began
    code = os.waitstatus_to_exitcode(status)
    print(json.dumps([seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, code]))


if __name__ == "__main__":
    main(*sys.argv[1:])
