"""The log of a Clone: one line when it settles, after its Record, without the job uuid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from batch.app.logs import LoggingJournal
from batch.model import HandOverRecord, Record, State
from batch.zstack.classify import with_hint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batch.manifest.kinds import HandOverTry

UUID = "0123456789abcdef0123456789abcdef"
SENT = Record(State.SENT, "key", 1_700_000_000.25, 1, UUID, UUID, UUID, UUID)


@pytest.fixture(autouse=True)
def _every_level() -> Iterator[None]:
    """Reset the log level that another test may have set."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


class AcceptingJournal:
    """A journal that accepts everything."""

    async def commit(self, record: Record) -> None: ...
    def note(self, record: Record) -> None: ...
    async def take_up(self, keys: Sequence[str]) -> None: ...
    def on_failure(self, hook: Callable[[], None]) -> None: ...
    def note_hand_over(self, line: HandOverRecord) -> None: ...
    async def commit_operation(self, line: HandOverTry) -> None: ...


class Listener:
    """A listener that keeps what it gets."""

    def __init__(self) -> None:
        self.failed: list[Record] = []
        self.settled: list[tuple[Record, float | None, str]] = []

    def settle(self, record: Record, *, sent_at: float | None, api_job: str) -> None:
        self.settled.append((record, sent_at, api_job))


def log_records(*records: Record) -> tuple[list[Any], Listener]:
    listener = Listener()
    with capture_logs() as lines:
        journal = LoggingJournal(
            AcceptingJournal(), failed=listener.failed.append, settled=listener.settle, open_before=()
        )
        for record in records:
            journal.note(record)
    return lines, listener


def test_a_settled_clone_logs_one_line() -> None:
    """The line has key, state, attempts, start of the job uuid, the clone and the seconds since its first POST."""
    again = Record(State.SENT, "key", SENT.at + 2, 2, UUID, UUID, "f" * 32, UUID)
    accepted = Record(State.ACCEPTED, "key", SENT.at + 3, 2)
    cloned = Record(State.CLONED, "key", SENT.at + 4.3336, 2, clone_uuid=UUID)
    (first, second, line), listener = log_records(SENT, again, accepted, cloned)
    assert first == {"event": "clone.sent", "log_level": "debug", "key": "key", "attempt": 1, "api_job": UUID[:8]}
    assert (second["attempt"], second["api_job"]) == (2, "f" * 8)
    about = {"key": "key", "state": "cloned", "attempts": 2, "api_job": "f" * 8, "clone_uuid": UUID, "seconds": 4.334}
    assert line == {"event": "clone.settled", "log_level": "info", **about}
    assert list(line)[: len(about)] == list(about)
    assert listener.settled == [(cloned, SENT.at, "f" * 8)]
    assert listener.failed == []


@pytest.mark.parametrize("state", [State.FAILED, State.CONFLICT, State.UNCERTAIN, State.UNDONE])
def test_a_target_without_a_clone_logs_a_warning(state: State) -> None:
    """The warning has the server's words; a target that was never sent has no seconds."""
    failed = Record(state, "key", 1.0, 1, error_code="SYS.1003", error="no such source")
    (line,), listener = log_records(failed)
    about = {"key": "key", "state": state.value, "attempts": 1, "error_code": "SYS.1003"}
    about["error"] = with_hint("SYS.1003", "no such source") or ""
    assert line == {"event": "clone.settled", "log_level": "warning", **about}
    assert listener.failed == [failed]
    assert listener.settled == [(failed, None, "")]
