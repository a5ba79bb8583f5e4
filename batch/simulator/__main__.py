"""The embedded node of a rehearsal: ``python -m batch.simulator FAULTS STATE``, until its stdin is closed.

It writes one line to stdout: the ready line of ``run_forever``, or ``{"error": TEXT}`` if it cannot start. It is not a
command of ``zclone`` and imports none of their dependencies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from batch.errors import UsageError
from batch.outputs import NamedFile, require_distinct
from batch.simulator.daemon import announce, run_forever
from batch.simulator.options import PRESETS
from batch.simulator.script import ScriptError, load_faults
from batch.simulator.state import StateError


def main(faults: str, state: str) -> int:
    """Serve the node of a preset or fault script; return the exit code."""
    try:
        if faults not in PRESETS:
            require_distinct([NamedFile("--state", Path(state))], [NamedFile("--faults", Path(faults))])
        asyncio.run(run_forever(load_faults(faults), state=Path(state), parent_pipe=True))
    except (ScriptError, StateError, UsageError, OSError) as error:
        announce(json.dumps({"error": str(error)}))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
