# ruff: noqa: INP001 - a script, no package
"""Known vulnerabilities of the locked versions, by pip-audit: found ones fail, and what was not looked at is said."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

_PATIENCE: Final = 60
"""Seconds."""


def main(lock: str) -> int:
    """Audit ``lock``; 1 where a vulnerability is known."""
    flags = "--disable-pip --require-hashes --format json --progress-spinner off --timeout 5 --requirement"
    command = ["pip-audit", *flags.split(), lock]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        print(f"NOT AUDITED: the advisory service did not answer within {_PATIENCE} s")  # noqa: T201 - CI's log
        return 0
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        print(f"NOT AUDITED: the advisory service cannot be asked from here: {last[0][:200]}")  # noqa: T201 - CI's log
        return 0
    skipped = [row["name"] for row in found if "skip_reason" in row]
    bad = {f"{row['name']} {row['version']}": [one["id"] for one in row["vulns"]] for row in found if row.get("vulns")}
    print(f"{len(found) - len(skipped)} of {len(found)} versions audited, vulnerable: {bad or 'none'}")  # noqa: T201
    if skipped:
        print(f"NOT AUDITED, the advisory service does not know them: {', '.join(skipped)}")  # noqa: T201
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
