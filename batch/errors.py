"""The errors that zclone raises on purpose: one root and few children, each with its exit code.

The exit codes are a contract with users' scripts; ``ExitCode`` is the one place that defines them.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batch.model import Problem


REPAIRED: Final = "ZCLONE.REPAIRED"
"""Error code of the targets that a repair left uncertain."""
UNANSWERED: Final = "ZCLONE.UNANSWERED"
"""Error code of a target that failed because the time of its last attempt was over."""
IN_USE: Final = "SYS.1000"
"""ZStack's error code of a job whose uuid another resource has."""
NOT_SENT_AGAIN: Final = "not sent again: the run is at most once"
"""Start of the text of a target that stays uncertain because of ``--at-most-once``."""
NOT_OURS: Final = "ZCLONE.NOT_OURS"
"""Error code of a hand-over that is not tried, as only the manifest says that this run made the clone."""


class ExitCode(IntEnum):
    """Exit codes of the process; new ones may be added, and an unknown one means failure."""

    OK = 0
    """Every target cloned, or nothing to do."""
    BROKEN = 1
    """Could not continue: an unexpected error, or the journal failed."""
    USAGE = 2
    """Usage, settings or job file; nothing was sent."""
    FAILED = 3
    """Needs the operator: no rerun settles the rest by itself."""
    UNFINISHED = 4
    """Run the same command again."""
    UNREACHABLE = 5
    """Cannot reach or log in to ZStack; nothing was sent."""
    LOCKED = 75
    """Another process has locked this manifest; nothing was sent."""
    INTERRUPTED = 130
    """Second SIGINT."""
    TERMINATED = 143
    """Second SIGTERM."""


class EndReason(StrEnum):
    """Why a process ended before everything was tried; scripts read it, and it determines the exit code."""

    SIGNAL = "signal"
    DEADLINE = "deadline"
    OUTAGE = "outage"
    """ZStack did not answer for too long."""
    CHANGED_INPUT = "changed_input"
    """An input file was edited during the run and can no longer be used."""
    LOGIN = "login"
    """The server rejects the credentials, or it is not a ZStack server."""
    DENIED = "denied"
    """The whole API is denied to this account, or by the licence."""
    RESOURCE_UUID = "resource_uuid"
    """The server does not honour ``resourceUuid``."""
    JOURNAL = "journal"
    """The manifest could not be written."""
    WAVE = "wave"
    """Failures in the earlier waves held back the next one."""
    MAX_FAILURES = "max_failures"
    """More failed than the limit allows."""


HELD_BACK: Final = frozenset({EndReason.WAVE, EndReason.MAX_FAILURES})
"""Reasons for which a rerun sends nothing new either, until the failures are fixed."""


class ZcloneError(Exception):
    """Root of the errors raised on purpose; the message says what the operator can do."""

    exit_code: ExitCode = ExitCode.BROKEN
    reason: EndReason | None = None
    """Reason that the manifest records where a run ends with this error; None: it has no name."""

    def __init__(self, message: str, reason: EndReason | None = None) -> None:
        """Set the message; ``reason`` overrides the reason of the class."""
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class UsageError(ZcloneError):
    """Arguments, settings or files that cannot be used; nothing was sent."""

    exit_code = ExitCode.USAGE


class JobFileError(UsageError):
    """All problems of a job file and of the files it names, in order of their places."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep ``problems``, which has at least one entry."""
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
    """Another process has locked this manifest; nothing was sent."""

    exit_code = ExitCode.LOCKED
    reason = None

    def __init__(self, message: str, manifest: Path | None = None) -> None:
        """Set the message; ``manifest``: the one another process has locked, None where there is none to wait for."""
        super().__init__(message)
        self.manifest = manifest


class ManifestLostError(ManifestError):
    """The manifest was moved, deleted or cut while this process wrote to it."""


class ProofError(ZcloneError):
    """A proof does not hold: the message names the manifest's line, or the proof file itself."""

    exit_code = ExitCode.FAILED


class UnreachableError(ZcloneError):
    """ZStack cannot be reached or refuses the login; nothing was sent."""

    exit_code = ExitCode.UNREACHABLE


class RunStoppedError(ZcloneError):
    """The run cannot continue, but the same command resumes it, later or after fixing what the message names."""

    exit_code = ExitCode.UNFINISHED


class LoginLostError(RunStoppedError):
    """The session ended and no new one can be opened."""

    reason = EndReason.LOGIN


class CallCutError(RunStoppedError):
    """A call was not made: it was waiting at the gate when the run was stopped."""
