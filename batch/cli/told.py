"""The journal and the gate as the engine gets them: the real ones, with the log and the progress listening."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import structlog

from batch.engine import Gate
from batch.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from batch.engine.ports import Clock, Journal
    from batch.model import Intent, Record

_SHORT: Final = 8
"""Digits of a job uuid in a log: the whole one opens the job's result to anybody."""


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
        if record.state is State.SENT:
            api_job = (record.job_uuid or "")[:_SHORT]
            first_sent_at, _ = self._sent.get(record.key, (record.at, ""))
            self._sent[record.key] = first_sent_at, api_job
            self._log.debug("clone.sent", key=record.key, attempt=record.attempt, api_job=api_job)
        elif record.state.is_final or record.state is State.UNCERTAIN:
            self._tell_settled(record)

    def _tell_settled(self, record: Record) -> None:
        sent_at, api_job = self._sent.pop(record.key, (None, ""))
        fields = {
            "key": record.key,
            "state": str(record.state),
            "attempts": record.attempt,
            "api_job": api_job or None,
            "clone_uuid": record.clone_uuid,
            "error_code": record.error_code,
            "error": record.error,
            "seconds": None if sent_at is None else round(record.at - sent_at, 3),
        }
        told = {name: value for name, value in fields.items() if value is not None}
        if record.state is State.CLONED:
            self._log.info("clone.settled", **told)
        else:
            self._log.warning("clone.settled", **told)
            self._failed(record)
        self._settled(record, sent_at=sent_at, api_job=api_job)


class CountedGate(Gate):
    """The gate, and how many calls it let pass."""

    def __init__(self, rate: float, *, clock: Clock) -> None:
        """Start at no calls."""
        super().__init__(rate, clock=clock)
        self.calls = 0

    async def wait(self) -> None:
        """Return when one more call may be made."""
        await super().wait()
        self.calls += 1

    async def wait_to_send(self) -> bool:
        """Like ``wait``, for a POST; False when sending stopped."""
        may_send = await super().wait_to_send()
        self.calls += may_send
        return may_send
