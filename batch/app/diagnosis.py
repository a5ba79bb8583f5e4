"""One finding of ``zclone doctor``."""

from __future__ import annotations

from typing import NamedTuple

from batch.errors import ExitCode


class Diagnosis(NamedTuple):
    """One line of the examination."""

    verdict: str
    """``ok``, ``warn`` or ``FAIL``."""
    what: str
    detail: str
    exit_code: ExitCode = ExitCode.OK
    """What the command ends with because of it."""

    def __str__(self) -> str:
        return f"{self.verdict:<5}{self.what}: {self.detail}"
