# ruff: noqa: INP001 - a script, no package
"""Known vulnerabilities of the locked versions, by pip-audit: found ones fail, and what was not looked at is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

UNAVAILABLE: Final = 75
"""Exit code: about at least one version nothing is known."""
_PATIENCE: Final = 60
"""Seconds."""


def main(lock: str) -> int:
    """Audit ``lock``: 0 where each version was answered for, 75 where not each, 1 where one is vulnerable."""
    flags = "--disable-pip --require-hashes --format json --progress-spinner off --timeout 5 --requirement"
    command = ["pip-audit", *flags.split(), lock]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)  # noqa: S603 - ours
    except subprocess.TimeoutExpired:
        print(f"NOT AUDITED: the advisory service did not answer within {_PATIENCE} s")  # noqa: T201 - CI's log
        return UNAVAILABLE
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = done.stderr.strip().splitlines()[-1:] or ["no answer"]
        print(f"NOT AUDITED: the advisory service cannot be asked from here: {last[0][:200]}")  # noqa: T201 - CI's log
        return UNAVAILABLE
    return judged(found, wanted(Path(lock).read_text(encoding="utf-8")))


def wanted(lock: str) -> set[str]:
    """Return the names of all packages in a lock."""
    return {line.partition("==")[0].strip().lower() for line in lock.splitlines() if re.match(r"[A-Za-z0-9]", line)}


def judged(found: list[dict[str, Any]], names: set[str]) -> int:
    """Return 1 where a version is vulnerable, 75 where there is no answer about one of ``names``, or else 0."""
    skipped = [row["name"] for row in found if "skip_reason" in row]
    missing = sorted(names - {str(row["name"]).lower().replace("_", "-") for row in found})
    bad = {f"{row['name']} {row['version']}": [one["id"] for one in row["vulns"]] for row in found if row.get("vulns")}
    print(f"{len(found) - len(skipped)} of {len(names)} versions audited, vulnerable: {bad or 'none'}")  # noqa: T201
    if skipped:
        print(f"NOT AUDITED, the advisory service does not know them: {', '.join(skipped)}")  # noqa: T201
    if missing:
        print(f"NOT AUDITED, the answer says nothing of them: {', '.join(missing)}")  # noqa: T201
    if bad:
        return 1
    return UNAVAILABLE if missing or skipped else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
