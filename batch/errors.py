"""Every error zclone raises on purpose: one root, few children, each with the exit code it ends the command with.

The exit codes are a contract with users' scripts; ``ExitCode`` is the one place that spells them.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    """Needs the operator: no rerun settles the rest by itself."""
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


class EndReason(StrEnum):
    """Why a process ended before everything was tried; scripts read it, and the exit code follows from it."""

    SIGNAL = "signal"
    DEADLINE = "deadline"
    OUTAGE = "outage"
    """ZStack did not answer for too long."""
    CHANGED_INPUT = "changed_input"
    """An input file was edited under the run and cannot be used any more."""
    LOGIN = "login"
    """The server does not take the credentials, or it is no server that this tool is for."""
    DENIED = "denied"
    """The whole API is denied to this account, or by the licence."""
    RESOURCE_UUID = "resource_uuid"
    """The server does not honour ``resourceUuid``."""
    JOURNAL = "journal"
    """The manifest could not be written."""
    WAVE = "wave"
    """What did not go well in the waves before held the next one back."""
    MAX_FAILURES = "max_failures"
    """More failed than the limit allows."""


HELD_BACK: Final = frozenset({EndReason.WAVE, EndReason.MAX_FAILURES})
"""Reasons for which a rerun sends nothing new either, until what failed is mended."""


class ZcloneError(Exception):
    """Root of the errors raised on purpose; the message says what the operator can do."""

    exit_code: ExitCode = ExitCode.BROKEN
    reason: EndReason | None = None
    """What the manifest names as the reason where a run ends with it; None: no reason that has a name."""

    def __init__(self, message: str, reason: EndReason | None = None) -> None:
        """``reason``: where it is not the class's own."""
        super().__init__(message)
        if reason is not None:
            self.reason = reason


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

    reason: EndReason | None = EndReason.JOURNAL


class ManifestMismatchError(ManifestError):
    """The manifest belongs to another job, run or endpoint, or a sent target was changed."""

    exit_code = ExitCode.USAGE
    reason = None


class ManifestLockedError(ManifestError):
    """Another process holds this manifest; nothing was sent."""

    exit_code = ExitCode.LOCKED
    reason = None

    def __init__(self, message: str, held: Path | None = None) -> None:
        """``held``: the manifest whose lock another process has; None where something else is in the way."""
        super().__init__(message)
        self.held = held


class ManifestLostError(ManifestError):
    """The manifest was moved, deleted or cut while this process wrote to it."""


class ProofError(ZcloneError):
    """A proof does not hold: the message names the manifest's line, or the proof file itself."""

    exit_code = ExitCode.FAILED


class UnreachableError(ZcloneError):
    """ZStack cannot be reached or refuses the login; nothing was sent."""

    exit_code = ExitCode.UNREACHABLE


class RunStoppedError(ZcloneError):
    """The run cannot go on but can be resumed: the same command, later or after mending what the message names."""

    exit_code = ExitCode.UNFINISHED


class LoginLostError(RunStoppedError):
    """The session ended and there is no way to a new one."""

    reason = EndReason.LOGIN


class CallCutError(RunStoppedError):
    """A call was not made: it waited for its turn when the run was asked to end."""
