"""Every error zclone raises on purpose: one root, few children, each with the exit code it ends the command with.

The exit codes are a contract with users' scripts; ``ExitCode`` is the one place that spells them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.model import Problem


class ExitCode(IntEnum):
    """What the process says when it ends; new codes may be added, unknown means failure."""

    OK = 0
    """Every target cloned, or nothing to do."""
    BROKEN = 1
    """Could not go on: unexpected, or the journal failed."""
    USAGE = 2
    """Usage, settings or job file; nothing was sent."""
    FAILED = 3
    """Finished, some targets failed for good."""
    UNFINISHED = 4
    """Run the same command again."""
    UNREACHABLE = 5
    """Cannot reach or log in to ZStack; nothing was sent."""
    LOCKED = 75
    """Another process holds this manifest; nothing was sent."""
    INTERRUPTED = 130
    """Second SIGINT."""
    TERMINATED = 143
    """Second SIGTERM."""


class ZcloneError(Exception):
    """Root of the errors raised on purpose; the message says what the operator can do."""

    exit_code: ExitCode = ExitCode.BROKEN


class UsageError(ZcloneError):
    """Arguments, settings or files that cannot be used; nothing was sent."""

    exit_code = ExitCode.USAGE


class JobFileError(UsageError):
    """Everything wrong with a job file and the files it names, in order of place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """``problems`` has at least one entry."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class ManifestError(ZcloneError):
    """The manifest is damaged, of another run, or could not be written; no POST follows."""


class ManifestMismatchError(ManifestError):
    """The manifest belongs to another job, run or endpoint, or a sent target was changed."""

    exit_code = ExitCode.USAGE


class ManifestLockedError(ManifestError):
    """Another process holds this manifest; nothing was sent."""

    exit_code = ExitCode.LOCKED


class UnreachableError(ZcloneError):
    """ZStack cannot be reached or refuses the login; nothing was sent."""

    exit_code = ExitCode.UNREACHABLE


class RunStoppedError(ZcloneError):
    """The run cannot go on but can be resumed: the same command, later or after mending what the message names."""

    exit_code = ExitCode.UNFINISHED
