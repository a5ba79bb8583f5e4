"""Delete or update the clones of a run page by page: check, record, send the call, check again.

A call is sent only if its check is at most one page and ``_FRESH`` seconds old. Its job uuid is recorded first. A later
process polls recorded job uuids before anything else, and resends a call under the same job uuid if the server does
not know it. Two nodes may then execute it, so that no job's end is definite before the server's time for it is over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from batch.engine.control import NOT_AFTER
from batch.errors import EndReason, RunStoppedError
from batch.manifest.kinds import DeletingLine, UpdatingLine
from batch.zstack.answers import Done, ErrorClass, NotSent, Refused, Unknown
from batch.zstack.calls import LONGEST_JOB, UUIDS_A_QUERY
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from batch.app.verifier import Item
    from batch.clock import Clock
    from batch.engine import Stop
    from batch.manifest import Manifest
    from batch.zstack.answers import PollAnswer, SubmitAnswer
    from batch.zstack.calls import ServiceChanges

ChangeLine: TypeAlias = DeletingLine | UpdatingLine
_FRESH: Final = 10.0
"""Seconds that the result of a check stays valid."""
_RECORD_AFTER: Final = 15.0
"""Seconds after which a resent call is recorded again, because a later process measures its age from the record."""
_MAX_TRIES: Final = 5
"""Limit on calls per clone, and on consecutive checks that led to no call."""
_NOT_EXECUTED: Final = frozenset({ErrorClass.RENEW, ErrorClass.TRANSIENT, ErrorClass.NODE})


class Objection(NamedTuple):
    """Why a clone is not changed."""

    text: str
    is_done: bool = False
    """Whether the clone already is as it would be after the change."""
    is_unseen: bool = False
    """Whether the server does not show the clone, which proves nothing."""


class CloneChange(Protocol):
    """One kind of change: the objections to it, and how it is recorded and sent."""

    api: str
    """Name of the API, such as DeleteModelService."""
    past_tense: str
    """Past participle of the change for messages, such as "deleted"."""
    is_repeatable: bool
    """Whether the call is repeated if it succeeded without effect; otherwise the clone is then unknown."""

    async def objections(self, page: Sequence[Item]) -> dict[str, Objection]:
        """Query the server and return objections to changing clones of the page, by key. Raises CallFailedError."""

    def line(self, item: Item, *, at: float, job_uuid: str) -> ChangeLine:
        """Return the line to record before the call is sent; ``at``: seconds since the epoch."""

    def is_same(self, item: Item, line: ChangeLine) -> bool:
        """Return whether a recorded call is identical to the one that would be sent now."""

    def contradicts(self, item: Item, line: ChangeLine) -> bool:
        """Return whether a recorded call, if executed late, would undo the one that would be sent now."""

    async def send(self, item: Item, job_uuid: str) -> SubmitAnswer:
        """Send the call."""

    def note_done(self, manifest: Manifest, item: Item, line: ChangeLine | None, *, at: float) -> None:
        """Record that a clone has reached the wanted state; ``line``: the last recorded call, if any that is over."""


class ChangeExecutor:
    """One pass over the clones to change; afterwards each is in ``done``, ``left`` or ``unknown``."""

    def __init__(
        self,
        manifest: Manifest,
        change: CloneChange,
        service_changes: ServiceChanges,
        *,
        clock: Clock,
        stop: Stop,
        concurrency: int,
    ) -> None:
        """``concurrency``: maximum number of concurrent calls."""
        self._manifest = manifest
        self._change = change
        self._service_changes = service_changes
        self._clock = clock
        self._stop = stop
        self._slots = asyncio.Semaphore(concurrency)
        self.done: set[str] = set()
        """Keys of the clones in the wanted state."""
        self.left: dict[str, str] = {}
        """Reason why a clone was not changed, by key."""
        self.unknown: dict[str, str] = {}
        """Reason why the outcome of a clone is unknown, by key."""
        self._jobs: dict[str, ChangeLine] = {}
        """Recorded calls without a definite end, by key."""
        self._lines: dict[str, ChangeLine] = {}
        """Last recorded call, by key."""
        self._sent: set[str] = set()
        """Keys whose unfinished call may have reached the server."""
        self._used_up: set[str] = set()
        """Keys whose unfinished call was sent twice, and whose job ended: the next call gets a new job uuid."""
        self._doubts: dict[str, str] = {}
        """Reason why the end of a call is not known, by key."""
        self._ended: dict[str, str] = {}
        """Error of the final call, by key; empty if the server reported success. No other call follows it."""
        self._tries: Counter[str] = Counter()

    async def run(self, items: Sequence[Item], earlier_calls: Mapping[str, ChangeLine]) -> None:
        """Change the clones of ``items`` in order; ``earlier_calls``: calls recorded by an earlier process.

        Raises RunStoppedError if it cannot continue.
        """
        rest = list(items)
        await self._resume([earlier_calls[item.target.key] for item in rest if item.target.key in earlier_calls])
        idle = 0
        while rest:
            self._require_running()
            page = rest[:UUIDS_A_QUERY]
            sent = await self._process_page(page)
            settled = [item for item in page if self._is_settled(item.target.key)]
            rest = [item for item in page if not self._is_settled(item.target.key)] + rest[UUIDS_A_QUERY:]
            idle = 0 if sent or settled else idle + 1
            if idle == _MAX_TRIES:
                raise RunStoppedError(
                    f"no {self._change.api} could be sent within {_FRESH:.0f} s of a check of its clone: raise --rate, "
                    "or wait until the server answers faster",
                    EndReason.OUTAGE,
                )
            await self._stop.sleep(2.0**idle - 1)

    def _is_settled(self, key: str) -> bool:
        return key in self.left or key in self.unknown or key in self.done

    def _require_running(self) -> None:
        if self._stop.requested:
            raise RunStoppedError(f"stopped: {self._stop.reason}", self._stop.code)

    async def _resume(self, earlier_calls: Sequence[ChangeLine]) -> None:
        """Poll the calls that an earlier process recorded, whether sent or not."""
        self._jobs.update((line.key, line) for line in earlier_calls)
        self._lines.update(self._jobs)
        self._sent.update(self._jobs)
        await _run_all(self._poll(line) for line in earlier_calls)

    async def _poll(self, line: ChangeLine) -> bool:
        async with self._slots:
            generation, left = self._service_changes.generation, line.at + LONGEST_JOB - self._clock.time()
            answer = await self._service_changes.end(line.job_uuid, seconds=max(1.0, left), first=0.2)
            is_refused = isinstance(answer, Refused) and not answer.error.may_go_on
            is_over = not isinstance(answer, Done) and self._clock.time() >= line.at + LONGEST_JOB
            if is_refused or is_over or (isinstance(answer, Done) and self._change.is_repeatable):
                # The result belongs to the earlier process; the clone may have changed since.
                self._forget(line.key)
            else:
                await self._process_answer(line.key, answer, generation)
            return True

    async def _process_page(self, page: Sequence[Item]) -> bool:
        """Check a page of clones and change those without objections; return whether any call was sent."""
        latest = self._clock.monotonic() + _FRESH
        objections = await self._change.objections(page)
        wanted = [item for item in page if not self._settle(item, objections.get(item.target.key))]
        return any(await _run_all(self._execute(item, latest) for item in wanted))

    def _settle(self, item: Item, objection: Objection | None) -> bool:
        """Decide on a clone that was just checked; return whether it needs no call."""
        key, may_run = item.target.key, self._may_be_executed(item.target.key)
        is_at_risk = may_run and self._change.contradicts(item, self._jobs[key])
        if objection is not None and objection.is_done and not is_at_risk:
            line = None if may_run else self._lines.get(key)
            self._change.note_done(self._manifest, item, line, at=self._clock.time())
            self.done.add(key)
        elif key in self._doubts:
            self.unknown[key] = self._doubts[key]
        elif key in self._ended and may_run:
            why = self._ended[key] or f"{self._change.api} succeeded, but it is not {self._change.past_tense}"
            self.unknown[key] = f"{why}; one sent before may still be executed"
        elif self._ended.get(key):
            self.left[key] = f"not {self._change.past_tense}: {self._ended[key]}"
        elif objection is not None and objection.is_unseen:
            self.left[key] = objection.text
        elif key in self._ended:
            settled = self.left if self._change.is_repeatable else self.unknown
            settled[key] = f"{self._change.api} succeeded, but it is not {self._change.past_tense}"
        elif is_at_risk or (objection is not None and may_run):
            why = "the job file was edited since" if objection is None else objection.text
            self.unknown[key] = f"{why}; a {self._change.api} sent before may still be executed"
        elif objection is not None:
            self.left[key] = objection.text
        else:
            return False
        return True

    def _may_be_executed(self, key: str) -> bool:
        return key in self._sent and self._clock.time() < self._jobs[key].at + LONGEST_JOB

    async def _execute(self, item: Item, latest: float) -> bool:
        """Record one call, send it and wait for its end; return whether it was sent.

        ``latest``: monotonic time after which it must not be sent.
        """
        key = item.target.key
        async with self._slots:
            if self._clock.monotonic() >= latest or self._stop.requested:
                return False
            await self._record(item)
            job_uuid, generation = self._jobs[key].job_uuid, self._service_changes.generation
            NOT_AFTER.set(latest)
            answer: SubmitAnswer | PollAnswer = await self._change.send(item, job_uuid)
            if isinstance(answer, NotSent):
                return False
            self._sent.add(key)
            self._tries[key] += 1
            if isinstance(answer, Refused) and answer.error.error_class is not ErrorClass.AMBIGUOUS:
                await self._record_refusal(key, answer)
            elif not isinstance(answer, Done):
                answer = await self._service_changes.end(job_uuid, seconds=LONGEST_JOB)
            await self._process_answer(key, answer, generation)
            return True

    async def _record(self, item: Item) -> None:
        """Record the call durably before it is sent; a resent call is recorded again with its new time."""
        key, now = item.target.key, self._clock.time()
        known = self._jobs.get(key)
        was_sent = self._may_be_executed(key)
        is_same = known is not None and key not in self._used_up and self._change.is_same(item, known)
        if known is not None and is_same and now - known.at < _RECORD_AFTER and known.was_sent_before == was_sent:
            return
        job_uuid = known.job_uuid if known is not None and is_same else self._clock.uuid()
        line = replace(self._change.line(item, at=now, job_uuid=job_uuid), was_sent_before=was_sent)
        await self._manifest.commit_operation(line)
        self._jobs[key] = self._lines[key] = line
        self._used_up.discard(key)
        if not was_sent:
            self._sent.discard(key)

    async def _record_refusal(self, key: str, refused: Refused) -> None:
        """Record that a call which was sent once had its definite end at once: it has no job to poll later."""
        error, line = refused.error, self._jobs[key]
        if not (line.was_sent_before or error.may_go_on or error.may_have_run):
            await self._manifest.commit_operation(replace(line, is_refused=True))

    async def _process_answer(self, key: str, answer: SubmitAnswer | PollAnswer, generation: int) -> None:
        """Process the answer to a call. Raises CallFailedError if no call can succeed."""
        if isinstance(answer, Done):
            self._end(key, "")
        elif isinstance(answer, Refused):
            await self._process_refusal(key, answer, generation)
        elif not isinstance(answer, Unknown) or self._tries[key] >= _MAX_TRIES:
            # A job that the server does not know is resent under the same job uuid.
            self._doubts[key] = f"the end of {self._change.api} is not known"

    async def _process_refusal(self, key: str, refused: Refused, generation: int) -> None:
        error = refused.error
        if error.may_go_on:
            self._doubts[key] = f"the end of {self._change.api} is not known: {error}"
        elif error.error_class is ErrorClass.FATAL:
            raise CallFailedError(self._change.api, refused)
        elif error.error_class not in _NOT_EXECUTED or self._tries[key] >= _MAX_TRIES:
            self._end(key, str(error))
        else:
            # The next call gets a new job uuid.
            self._forget(key)
            if error.error_class is ErrorClass.RENEW:
                await self._service_changes.renew(generation)

    def _end(self, key: str, error: str) -> None:
        self._forget(key)
        self._ended[key] = error

    def _forget(self, key: str) -> None:
        """Forget a call whose job ended, unless it was sent twice and may still be executed."""
        line = self._jobs[key]
        if line.was_sent_before and self._may_be_executed(key):
            self._used_up.add(key)
        else:
            del self._jobs[key]
            self._sent.discard(key)


async def _run_all(work: Iterable[Coroutine[None, None, bool]]) -> list[bool]:
    """Run all of ``work`` to completion, then raise the first error, if any."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if result is True]
