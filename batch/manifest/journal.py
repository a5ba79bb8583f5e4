"""The manifest as one process writes it: group commits in a thread, one at a time; the first failure is final."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest import records
from batch.manifest.files import FIX, LOST
from batch.manifest.hand_overs import encode_hand_over
from batch.manifest.kinds import AdoptedLine, EndedLine, PlanLine, TakenUpLine
from batch.manifest.line import this_process
from batch.manifest.operations import encode_operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from batch.errors import EndReason
    from batch.manifest.files import Writer
    from batch.manifest.fold import ManifestFold
    from batch.manifest.kinds import Line
    from batch.manifest.line import Header
    from batch.manifest.operations import Operation
    from batch.model import HandOverCounts, HandOverRecord, Pins, Plan, Record, State

    InThread = Callable[[Callable[[], None]], Awaitable[None]]

_LINGER: Final = 0.2
"""Maximum seconds that a note waits for a commit: ``status`` shows it soon, and a crash loses little."""
_PAGES_PER_COMMIT: Final = 4


class Manifest:
    """The journal of one run, locked by this process; ``settle`` uses ``commit`` and ``note``."""

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        past: ManifestFold,
        writer: Writer,
        in_thread: InThread | None,
        clock: Callable[[], float],
    ) -> None:
        """Keep the parts; only ``open_manifest`` calls this. ``clock``: returns seconds since the epoch."""
        self.path = path
        self.header = header
        self.past = past
        """The fold of the file as it was opened, and of everything this process appended since."""
        self.warnings: list[str] = []
        """Warnings about the file for the operator; filled while it is opened."""
        self.admitted: tuple[str, ...] = ()
        """Accepted warnings, such as a certificate that is not verified: the first line of the process records them."""
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None
        self._in_thread = in_thread or self._run_in_thread
        self._clock = clock
        self._pending: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []  # waiters for the pending lines to be durable
        self._flight: list[asyncio.Future[None]] | None = None  # waiters for the write in progress, if any
        self._timer: asyncio.TimerHandle | None = None
        self.failure: str | None = None  # why nothing more can be written
        self._on_failure: list[Callable[[], None]] = []
        self._started = self._closed = self._left = False

    def begin(self) -> None:
        """Record the start of this process, unless it is recorded; appending any other line does so first."""
        if self._started:
            return
        tool, once, remote = self.header.tool, self.past.is_at_most_once, self.past.remote
        line = this_process(self._clock(), tool, self.admitted, at_most_once=once, remote=remote)
        self.past.start(line)
        self._pending.append(records.encode_started(line))
        self._started = True

    def commit(self, record: Record) -> Awaitable[None]:
        """Append durably once awaited. Raises ManifestError after any failure: nothing may be sent then."""
        self._record(record)
        return self._durable()

    def commit_operation(self, line: Operation) -> Awaitable[None]:
        """Append a line, like ``commit``."""
        self._take_in(line, encode_operation(line))
        return self._durable()

    def note(self, record: Record) -> None:
        """Append without waiting: durable with the next commit, shortly after, or at close."""
        self._record(record)
        self._linger()

    async def take_up(self, keys: Sequence[str]) -> None:
        """Record durably that this process continues targets that were in flight when the one before it was killed."""
        for start in range(0, len(keys), records.PAGE):
            line = TakenUpLine(tuple(keys[start : start + records.PAGE]), self._clock())
            await self.commit_operation(line)

    async def adopt(self, user: str) -> None:
        """Record durably that ``user`` continues a run that another user began, or a part of it."""
        line = AdoptedLine(user, self.past.users.begun_by, self._clock())
        await self.commit_operation(line)

    def note_hand_over(self, line: HandOverRecord) -> None:
        """Append without waiting, like ``note``."""
        self._take_in(line, encode_hand_over(line))
        self._linger()

    def note_operation(self, line: Operation) -> None:
        """Append without waiting, like ``note``."""
        self._take_in(line, encode_operation(line))
        self._linger()

    async def flush(self) -> None:
        """Make every note so far durable."""
        while self._pending or self._flight is not None:
            self._flush()
            if self._flight is not None:
                await _join(self._flight)
            if self.failure is not None:
                raise ManifestError(self.failure)

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` immediately when a write fails, so that no POST follows whose own record is durable."""
        self._on_failure.append(hook)

    def check_file(self) -> Path | None:
        """Fail where the file was moved, deleted or cut since the last write; return a path where it can be read."""
        if self.failure is None and not self._closed and not self._writer.is_whole():
            self._fail(LOST)
            self._wake(self._waiting)
        return self._writer.lost_file

    async def write_plan(self, plan: Plan, new: Iterable[tuple[str, str]]) -> None:
        """Record the ``new`` targets, as (key, source uuid), then the plan; nothing where it is already recorded."""
        known = self.past.plan
        is_same = known is not None and known.is_of(plan)
        if known is None or known.digest != plan.digest or self.past.is_repaired:
            self.past.reserve(plan.count)
            await self._write_targets(new)
        if is_same:
            await self.flush()
            return
        line = PlanLine.of(plan, self._clock())
        await self._commit(records.encode_plan(line))
        self.past.plan = line

    async def write_pins(self, pins: Pins) -> None:
        """Record what the plan took from the server beyond ``past.pinned``; durable on return."""
        self.past.pinned.take(pins)
        *bodies, last = records.encode_pinned(pins)
        for body in bodies:
            self._append(body)
        await self._commit(last)

    async def _write_targets(self, new: Iterable[tuple[str, str]]) -> None:
        targets = iter(new)
        for number, page in enumerate(iter(lambda: list(islice(targets, records.PAGE)), []), 1):
            self.past.expect(key for key, _ in page)
            if number % _PAGES_PER_COMMIT:
                self._append(records.encode_planned(page))
            else:
                await self._commit(records.encode_planned(page))

    async def close(
        self,
        exit_code: int,
        reason: str | None = None,
        *,
        code: EndReason | None = None,
        handed: HandOverCounts | None = None,
    ) -> None:
        """Make every note durable, record the end if anything was recorded, and release the lock.

        ``code``: of ``reason``; ``handed``: of the whole plan, where counted. Idempotent. Raises ManifestError.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await self.flush()
            if self._started:
                ended = EndedLine(self._clock(), exit_code, reason, self._final_counts(exit_code, handed), code, handed)
                self._pending.append(records.encode_ended(ended))
                await self.flush()
        finally:
            self._release()

    def _final_counts(self, exit_code: int, handed: HandOverCounts | None) -> Counter[State]:
        plan, is_done = self.past.plan, exit_code == 0 and handed is not None
        return self.past.counts if is_done or plan is None or not plan.hand_overs else Counter()  # a fold must tell

    def _release(self) -> None:
        self._stop_timer()
        self._left = True
        # A write in progress still needs the file: its completion calls this again.
        if self._flight is None:
            self._writer.close()
            if self._thread is not None:
                self._thread.shutdown(wait=False)

    def _record(self, record: Record) -> None:
        self._require_open()
        self._append(records.encode_record(self.past.add_written(record)))

    def _take_in(self, line: Line, body: bytes) -> None:
        self._require_open()
        self.past.add(line)
        self._append(body)

    def _append(self, body: bytes) -> None:
        self._require_open()
        self.begin()
        self._pending.append(body)

    def _require_open(self) -> None:
        if self._closed or self.failure is not None:
            raise ManifestError(self.failure or f"{self.path}: is closed")

    def _commit(self, body: bytes) -> asyncio.Future[None]:
        self._append(body)
        return self._durable()

    def _durable(self) -> asyncio.Future[None]:
        """Return a future that is done when everything appended so far is durable."""
        durable = _join(self._waiting)
        if self._flight is None and len(self._waiting) == 1:
            # Deferred by one loop iteration, so that concurrent records share one fsync.
            asyncio.get_running_loop().call_soon(self._flush)
        return durable

    def _flush(self) -> None:
        """Start writing the pending lines, unless a write is in progress: then its completion starts the next."""
        if self._flight is not None or not self._pending or self.failure is not None:
            return
        self._stop_timer()
        bodies, self._pending = self._pending, []
        self._flight, self._waiting = self._waiting, []
        try:
            write: asyncio.Future[None] = asyncio.ensure_future(self._in_thread(partial(self._writer.write, bodies)))
        except Exception as error:  # noqa: BLE001 - raised to the waiters: no thread may be available
            write = asyncio.get_running_loop().create_future()
            write.set_exception(error)
        write.add_done_callback(self._landed)

    def _fail(self, why: str) -> None:
        self.failure = f"{self.path}: could not be written ({why}); nothing more is sent{'' if why == LOST else FIX}"
        for hook in self._on_failure:
            hook()

    def _landed(self, write: asyncio.Future[None]) -> None:
        error = asyncio.CancelledError() if write.cancelled() else write.exception()
        if error is not None:
            self._fail(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        landed, self._flight = self._flight, None
        self._wake(landed or [])
        if self.failure is not None:
            self._wake(self._waiting)
        elif self._waiting:
            self._flush()
        elif self._pending:
            self._linger()
        if self._left and self._flight is None:
            self._release()

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for waiter in waiting:
            if not waiter.done() and self.failure is None:
                waiter.set_result(None)
            elif not waiter.done():
                waiter.set_exception(ManifestError(str(self.failure)))

    def _linger(self) -> None:
        if self._timer is None and self._flight is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._flush)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _run_in_thread(self, work: Callable[[], None]) -> Awaitable[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "manifest")
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def _join(waiting: list[asyncio.Future[None]]) -> asyncio.Future[None]:
    """Return a future for one caller: its cancellation affects neither the record nor other callers."""
    waiter = asyncio.get_running_loop().create_future()
    waiting.append(waiter)
    return waiter
