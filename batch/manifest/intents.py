"""What is known of a Clone that is not settled, from its records one after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest.line import fields
from batch.manifest.records import parse_record
from batch.model import Intent, Record, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RESTARTS: Final = frozenset({State.PLANNED, State.UNCERTAIN})
_SURVIVED: Final = b'{"state":"uncertain"'


def intent_of(lines: bytes, *, deaths: int) -> Intent:
    """Return what an open Clone's ``lines`` come to."""
    intent: Intent | None = None
    for body in lines.split(b"\n"):
        intent = follow(intent, parse_record(body))
    assert intent is not None
    return replace(intent, deaths=deaths) if deaths else intent


def follow(before: Intent | None, record: Record) -> Intent:
    """Return what is known of an open Clone after ``record``."""
    is_new = record.state is State.SENT
    restarts = before is None or (is_new and before.state in _RESTARTS)
    known = before or Intent(record.key, record.state, "", "", "", 0, None, record.at, record.at)
    return Intent(
        key=record.key,
        state=record.state,
        source_uuid=record.source_uuid or known.source_uuid,
        resource_uuid=record.resource_uuid or known.resource_uuid,
        digest=record.digest or known.digest,
        attempt=record.attempt,
        job_uuid=record.job_uuid or known.job_uuid,
        sent_at=record.at if is_new else known.sent_at,
        first_sent_at=record.at if restarts else known.first_sent_at,
        deadline=record.deadline if is_new else record.deadline or known.deadline,
        error_code=record.error_code,
        error=record.error,
    )


class Deaths:
    """How many processes died with a Clone in flight; only those taken up after a death cost memory."""

    def __init__(self) -> None:
        """Nobody died."""
        self.is_cut_off = False
        """Whether the last process on record has no end."""
        self._taken_up: dict[bytes, tuple[int, int]] = {}

    def add(self, body: bytes, lines: Mapping[bytes, bytes]) -> None:
        """Take in a line that is no clone record; ``lines`` are those of the open Clones.

        Raises ManifestError for a record of another writer that does not begin with its state: passed over, it would
        be sent again.
        """
        if body.startswith(b'{"taken_up":'):
            self._take_up((key.encode("utf-8", "surrogatepass") for key in fields(body)["taken_up"]), lines)
        elif body.startswith(b'{"started":'):
            self.is_cut_off = True
        elif body.startswith(b'{"ended":'):
            self.is_cut_off = False
        elif b'"state"' in body and "state" in fields(body):
            raise ManifestError("a clone's record that does not begin with its state was not written by zclone")

    def _take_up(self, keys: Iterable[bytes], lines: Mapping[bytes, bytes]) -> None:
        for key in keys:
            known = lines.get(key, b"")
            self._taken_up[key] = self.of(key, known) + 1, len(known)

    def of(self, key: bytes, lines: bytes) -> int:
        """Count since the Clone was last left uncertain: a process survived that."""
        count, seen = self._taken_up.get(key, (0, 0))
        return 0 if _SURVIVED in lines[seen:] or len(lines) < seen else count
