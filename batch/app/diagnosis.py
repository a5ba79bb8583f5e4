"""One finding of ``zclone doctor``."""

from __future__ import annotations

from typing import NamedTuple

from batch.errors import ExitCode


class Diagnosis(NamedTuple):
    """One line of ``zclone doctor``'s output."""

    verdict: str
    """``ok``, ``warn`` or ``FAIL``."""
    what: str
    detail: str
    exit_code: ExitCode = ExitCode.OK
    """The exit code that this finding causes."""

    def __str__(self) -> str:
        return f"{self.verdict:<5}{self.what}: {self.detail}"
