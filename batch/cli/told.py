"""The journal and the gate as the engine gets them: the real ones, with the log and the progress listening."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batch.engine.ports import Journal
    from batch.model import Intent, Record

_SHORT: Final = 8
"""Digits of a job uuid in a log: the whole one opens the job's result to anybody."""
_SENT: Final = State.SENT
_CLONED: Final = State.CLONED
_OPEN: Final = frozenset({State.PLANNED, State.ACCEPTED})
"""Not worth a line. Looked up once: to find a member in its enum takes longer than to compare it."""


class Settled(Protocol):
    """Who wants to know of every settled clone."""

    def __call__(self, record: Record, *, sent_at: float | None, api_job: str) -> None:
        """Hear of it; ``sent_at``: its first POST in seconds since the epoch, ``api_job``: the start of its last J."""


class ToldJournal:
    """Writes each record to the manifest first, then tells of it: one ``clone.settled`` line per settled clone."""

    def __init__(
        self, journal: Journal, *, failed: Callable[[Record], None], settled: Settled, open_before: Iterable[Intent]
    ) -> None:
        """Tell ``settled`` of every settled clone, and ``failed`` of those that are anything but cloned.

        ``open_before``: what an earlier process sent.
        """
        self._journal = journal
        self._failed = failed
        self._settled = settled
        self._sent = {intent.key: (intent.first_sent_at, (intent.job_uuid or "")[:_SHORT]) for intent in open_before}
        self._log = structlog.get_logger().bind()

    async def commit(self, record: Record) -> None:
        """Append, wait until durable, tell."""
        await self._journal.commit(record)
        self._tell(record)

    def note(self, record: Record) -> None:
        """Append, tell."""
        self._journal.note(record)
        self._tell(record)

    async def take_up(self, keys: Sequence[str]) -> None:
        """Append, wait until durable."""
        await self._journal.take_up(keys)

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at once when anything could not be made durable."""
        self._journal.on_failure(hook)

    def _tell(self, record: Record) -> None:
        if record.state is _SENT:
            api_job = (record.job_uuid or "")[:_SHORT]
            first_sent_at, _ = self._sent.get(record.key, (record.at, ""))
            self._sent[record.key] = first_sent_at, api_job
            self._log.debug("clone.sent", key=record.key, attempt=record.attempt, api_job=api_job)
        elif record.state not in _OPEN:
            self._tell_settled(record)

    def _tell_settled(self, record: Record) -> None:
        sent_at, api_job = self._sent.pop(record.key, (None, ""))
        told: dict[str, object] = {"key": record.key, "state": str(record.state), "attempts": record.attempt}
        if api_job:
            told["api_job"] = api_job
        if record.clone_uuid is not None:
            told["clone_uuid"] = record.clone_uuid
        if record.error_code is not None:
            told["error_code"] = record.error_code
        if record.error is not None:
            told["error"] = record.error
        if sent_at is not None:
            told["seconds"] = round((record.at - sent_at) * 1000) / 1000
        if record.state is _CLONED:
            self._log.info("clone.settled", **told)
        else:
            self._log.warning("clone.settled", **told)
            self._failed(record)
        self._settled(record, sent_at=sent_at, api_job=api_job)
