"""The log of a command: a file, stderr, or the area above the live view; and the engine's journal, which writes it.

The journal writes to the manifest first, then to log, view and traces. A log line follows its record, so everything in
the log is also in the manifest.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from batch import log, outputs
from batch.app.live_view import LiveConsole, printer_above
from batch.app.messages import is_terminal, say, terminal_width
from batch.app.options import LogFormat
from batch.manifest.kinds import HandOverTry
from batch.model import State
from batch.redaction import SECRETS
from batch.sink import Sink, to_descriptor
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from batch.engine.ports import Journal
    from batch.model import HandOverRecord, Intent, Record
    from batch.zstack.classify import Language

    class ManifestJournal(Journal, Protocol):
        """The interface through which the engine writes the manifest."""

        def note_hand_over(self, line: HandOverRecord) -> None:
            """Append without waiting."""

        def commit_operation(self, line: HandOverTry) -> Awaitable[None]:
            """Append; awaiting it makes it durable."""


_STDERR: Final = 2
_SHORT: Final = 8
"""Digits of a job uuid in the log; with the full uuid anyone can read the job's result."""
_SENT: Final = State.SENT
_CLONED: Final = State.CLONED
_OPEN: Final = frozenset({State.PLANNED, State.ACCEPTED})
"""States without a log line. A constant, because an enum attribute lookup costs more than the comparison."""


@contextmanager
def log_to(
    file: Path | None, *, style: LogFormat, above: LiveConsole | None = None, is_quiet: bool = False
) -> Iterator[None]:
    """Write the log to ``file``, else above the live view, else to stderr; report lost lines at the end.

    A file gets all lines; a terminal with a live view, and stderr with ``is_quiet``, only warnings and errors. Raises
    UsageError for a file that cannot be opened.
    """
    descriptor = _STDERR if file is None else outputs.append(file)
    if file is None and above is not None:
        sink, level = Sink(printer_above(above)), log.WARNING
    else:
        sink, level = Sink(to_descriptor(descriptor)), log.DEBUG
        if file is None:
            level = log.WARNING if is_quiet else log.INFO
    columns = partial(terminal_width, descriptor) if is_terminal(descriptor) else None
    log.configure(sink, style=_format(style, descriptor), level=level, columns=columns)
    try:
        yield
    finally:
        lost = sink.close()
        if lost:
            say(f"{lost} log lines were lost: {sink.reason}")


def _format(wanted: LogFormat, descriptor: int) -> log.Format:
    if wanted is LogFormat.AUTO:
        return log.Format.CONSOLE if is_terminal(descriptor) else log.Format.JSON
    return log.Format(wanted.value)


class SettledCallback(Protocol):
    """Callback for each settled clone."""

    def __call__(self, record: Record, *, sent_at: float | None, api_job: str) -> None:
        """``sent_at``: time of its first POST, seconds since the epoch; ``api_job``: prefix of its last job uuid."""


class LoggingJournal:
    """Writes each record to the manifest first, then logs it: one ``clone.settled`` line per settled clone."""

    def __init__(
        self,
        journal: ManifestJournal,
        *,
        failed: Callable[[Record], None],
        settled: SettledCallback,
        open_before: Iterable[Intent],
        keeps_uuids: bool = False,
        language: Language = "en",
    ) -> None:
        """Call ``settled`` with every settled clone, and ``failed`` with those that are not cloned.

        ``open_before``: attempts of an earlier process; ``keeps_uuids``: whether to fill ``made``;
        ``language``: of the hints.
        """
        self._journal = journal
        self._failed = failed
        self._settled = settled
        self._sent = {intent.key: (intent.first_sent_at, (intent.job_uuid or "")[:_SHORT]) for intent in open_before}
        self.made: dict[str, str] = {}
        """Uuids of the clones made during this process, by key."""
        self._keeps_uuids = keeps_uuids
        self._language: Language = language
        self._log = structlog.get_logger().bind()

    async def commit(self, record: Record) -> None:
        """Append, wait until durable, log."""
        record = _redact(record)
        await self._journal.commit(record)
        self._log_record(record)

    def note(self, record: Record) -> None:
        """Append, log."""
        record = _redact(record)
        self._journal.note(record)
        self._log_record(record)

    async def take_up(self, keys: Sequence[str]) -> None:
        """Append, wait until durable."""
        await self._journal.take_up(keys)

    def note_hand_over(self, line: HandOverRecord) -> None:
        """Append, log."""
        self._journal.note_hand_over(line)
        fields = {"key": line.key, "clone_uuid": line.clone_uuid}
        if line.error_code is None:
            self._log.info("clone.handed_over", **fields)
        else:
            self._log.warning("clone.not_handed_over", **fields, error_code=line.error_code, error=line.error)

    async def commit_try(self, line: HandOverRecord, *, is_unexecuted: bool = False) -> None:
        """Append, wait until durable, log an error after which the hand-over stays open."""
        await self._journal.commit_operation(HandOverTry(line, is_unexecuted))
        if line.error_code is not None:
            fields = {"key": line.key, "clone_uuid": line.clone_uuid}
            self._log.warning("clone.hand_over_open", **fields, error_code=line.error_code, error=line.error)

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` as soon as a write or fsync fails."""
        self._journal.on_failure(hook)

    def _log_record(self, record: Record) -> None:
        if record.state is _SENT:
            api_job = (record.job_uuid or "")[:_SHORT]
            first_sent_at, _ = self._sent.get(record.key, (record.at, ""))
            self._sent[record.key] = first_sent_at, api_job
            self._log.debug("clone.sent", key=record.key, attempt=record.attempt, api_job=api_job)
        elif record.state not in _OPEN:
            self._log_settled(record)

    def _log_settled(self, record: Record) -> None:
        sent_at, api_job = self._sent.pop(record.key, (None, ""))
        fields: dict[str, object] = {"key": record.key, "state": str(record.state), "attempts": record.attempt}
        if api_job:
            fields["api_job"] = api_job
        if record.clone_uuid is not None:
            fields["clone_uuid"] = record.clone_uuid
            if self._keeps_uuids:
                self.made[record.key] = record.clone_uuid
        if record.error_code is not None:
            fields["error_code"] = record.error_code
        if record.error is not None:
            fields["error"] = with_hint(record.error_code, record.error, self._language)
        if sent_at is not None:
            fields["seconds"] = round((record.at - sent_at) * 1000) / 1000
        if record.state is _CLONED:
            self._log.info("clone.settled", **fields)
        else:
            self._log.warning("clone.settled", **fields)
            self._failed(record)
        self._settled(record, sent_at=sent_at, api_job=api_job)


def _redact(record: Record) -> Record:
    """Redact the clone's name, since the server may echo what it was sent."""
    name = record.name
    shown = None if name is None else SECRETS.redact(name)
    return record if shown == name else record._replace(name=shown)
