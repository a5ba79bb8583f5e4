"""The manifest as one process writes it: group commits in a thread, one at a time; the first failure ends it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.errors import ManifestError
from batch.manifest.handovers import encode_handed_over
from batch.manifest.kinds import EndedLine, PlanLine, StartedLine, TakenUpLine
from batch.manifest.records import (
    PAGE,
    encode_ended,
    encode_pinned,
    encode_plan,
    encode_planned,
    encode_record,
    encode_started,
    encode_taken_up,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from batch.manifest.fold import Past
    from batch.manifest.header import Header
    from batch.manifest.writer import Writer
    from batch.model import HandedOver, Pins, Plan, Record, State

    InThread = Callable[[Callable[[], None]], Awaitable[None]]

_LINGER: Final = 0.2
"""Seconds a note may wait for a commit to go with, so that ``status`` and a crash see it soon."""
_PAGES_PER_COMMIT: Final = 4


class Manifest:
    """The journal of one run, locked by this process. ``commit`` and ``note`` are what ``settle`` needs of it."""

    def __init__(
        self,
        path: Path,
        header: Header,
        *,
        past: Past,
        writer: Writer,
        in_thread: InThread | None,
        clock: Callable[[], float],
    ) -> None:
        """Made by ``open_manifest``. ``clock``: seconds since the epoch."""
        self.path = path
        self.header = header
        self.past = past
        """What the file said when it was opened, and since then whatever this process appended."""
        self.warnings: list[str] = []
        """What the operator should know of the file; filled while it is opened."""
        self.admitted: tuple[str, ...] = ()
        """Warnings this process goes on with, such as a certificate that is not checked: its first line has them."""
        self._writer = writer
        self._thread: ThreadPoolExecutor | None = None
        self._in_thread = in_thread or self._run_in_thread
        self._clock = clock
        self._pending: list[bytes] = []
        self._waiting: list[asyncio.Future[None]] = []
        """Who waits for what is pending to be durable."""
        self._flight: list[asyncio.Future[None]] | None = None
        """Who waits for the write under way; None: there is none."""
        self._timer: asyncio.TimerHandle | None = None
        self._failure: str | None = None
        self._on_failure: list[Callable[[], None]] = []
        self._started = False
        self._closed = False
        self._left = False

    def commit(self, record: Record) -> Awaitable[None]:
        """Append; done when durable. Raises ManifestError once anything failed: nothing may be sent then."""
        self._record(record)
        return self._durable()

    def note(self, record: Record) -> None:
        """Append without waiting: durable with the next commit, a moment later, or at close."""
        self._record(record)
        self._linger()

    async def take_up(self, keys: Sequence[str]) -> None:
        """Record durably that this process goes on with targets that were in flight when the one before it died."""
        for start in range(0, len(keys), PAGE):
            body = encode_taken_up(TakenUpLine(tuple(keys[start : start + PAGE]), self._clock()))
            self._take_in(body)
            await self._durable()

    def note_hand_over(self, line: HandedOver) -> None:
        """Append without waiting, like ``note``."""
        self._take_in(encode_handed_over(line))
        self._linger()

    async def flush(self) -> None:
        """Return when every note so far is durable."""
        await self._drain()

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at once when a write fails, so that POSTs whose own record is durable are held back too."""
        self._on_failure.append(hook)

    async def write_plan(self, plan: Plan, new: Iterable[tuple[str, str]]) -> None:
        """Record the plan's targets that ``past`` does not know, as (key, source uuid), then the plan itself.

        Nothing is written, nor ``new`` looked at, where the last plan on record is the same.
        """
        known = self.past.plan
        if known is not None and (known.digest, known.inputs) == (plan.digest, plan.inputs):
            return
        if known is None or known.digest != plan.digest:
            self.past.reserve(plan.count)
            await self._write_targets(new)
        line = PlanLine(plan.digest, plan.inputs, plan.count, self._clock(), plan.hand_overs)
        await self._commit(encode_plan(line))
        self.past.plan = line

    async def write_pins(self, pins: Pins) -> None:
        """Record what the plan took from the server beyond ``past.pinned``; durable on return."""
        self.past.pinned.take(pins)
        *bodies, last = encode_pinned(pins)
        for body in bodies:
            self._append(body)
        await self._commit(last)

    async def _write_targets(self, new: Iterable[tuple[str, str]]) -> None:
        targets = iter(new)
        pages = 0
        while page := list(islice(targets, PAGE)):
            self.past.expect(key for key, _ in page)
            pages += 1
            if pages % _PAGES_PER_COMMIT:
                self._append(encode_planned(page))
            else:
                await self._commit(encode_planned(page))

    async def close(self, exit_code: int, reason: str | None = None) -> None:
        """Make every note durable, record the end if anything was recorded, and give the lock back.

        Raises ManifestError where the journal failed, now or before. Closing again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        try:
            await self._drain()
            if self._started:
                self._pending.append(
                    encode_ended(EndedLine(self._clock(), exit_code, reason, self._final_counts(exit_code)))
                )
                await self._drain()
        finally:
            self._release()

    def _final_counts(self, exit_code: int) -> Counter[State]:
        """Return none where the targets may be settled and their hand-overs not: then a fold must tell."""
        plan = self.past.plan
        return self.past.counts if exit_code == 0 or plan is None or not plan.hand_overs else Counter()

    async def _drain(self) -> None:
        while self._pending or self._flight is not None:
            self._flush()
            if self._flight is not None:
                await _join(self._flight)
            self._require_whole()

    def _release(self) -> None:
        self._stop_timer()
        self._left = True
        # A write under way still needs the file: its landing comes here again.
        if self._flight is None:
            self._writer.close()
            if self._thread is not None:
                self._thread.shutdown(wait=False)

    def _record(self, record: Record) -> None:
        self._require_open()
        body = encode_record(record)
        self.past.take_in(record, body)
        self._append(body)

    def _take_in(self, body: bytes) -> None:
        self._require_open()
        self.past.add_all((body,))
        self._append(body)

    def _append(self, body: bytes) -> None:
        self._require_open()
        if not self._started:
            self._begin()
        self._pending.append(body)

    def _begin(self) -> None:
        """Say who writes, before the first line."""
        line = StartedLine(self._clock(), os.getpid(), socket.gethostname(), self.header.tool, self.admitted)
        self._pending.append(encode_started(line))
        self._started = True

    def _require_open(self) -> None:
        if self._closed or self._failure is not None:
            raise ManifestError(self._failure or f"{self.path}: is closed")

    def _commit(self, body: bytes) -> asyncio.Future[None]:
        self._append(body)
        return self._durable()

    def _durable(self) -> asyncio.Future[None]:
        """Return what is done when all that was appended so far is durable."""
        durable = _join(self._waiting)
        if self._flight is None and len(self._waiting) == 1:
            # Not at once: whoever else has something to record in this turn of the loop goes along.
            asyncio.get_running_loop().call_soon(self._flush)
        return durable

    def _flush(self) -> None:
        """Start writing what is pending, unless a write is under way: then its landing starts the next."""
        if self._flight is not None or not self._pending or self._failure is not None:
            return
        self._stop_timer()
        bodies, self._pending = self._pending, []
        self._flight, self._waiting = self._waiting, []
        try:
            write: asyncio.Future[None] = asyncio.ensure_future(self._in_thread(partial(self._writer.write, bodies)))
        except Exception as error:  # noqa: BLE001 - whoever waits is told: there may be no thread to be had
            write = asyncio.get_running_loop().create_future()
            write.set_exception(error)
        write.add_done_callback(self._landed)

    def _landed(self, write: asyncio.Future[None]) -> None:
        error = asyncio.CancelledError() if write.cancelled() else write.exception()
        if error is not None:
            self._failure = (
                f"{self.path}: could not be written ({str(error) or type(error).__name__}); nothing more is sent"
            )
            for hook in self._on_failure:
                hook()
        landed, self._flight = self._flight, None
        self._wake(landed or [])
        if self._failure is not None:
            self._wake(self._waiting)
        elif self._waiting:
            self._flush()
        elif self._pending:
            self._linger()
        if self._left and self._flight is None:
            self._release()

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for joined in waiting:
            if not joined.done() and self._failure is None:
                joined.set_result(None)
            elif not joined.done():
                joined.set_exception(ManifestError(self._failure))

    def _linger(self) -> None:
        if self._timer is None and self._flight is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._flush)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _require_whole(self) -> None:
        if self._failure is not None:
            raise ManifestError(self._failure)

    def _run_in_thread(self, work: Callable[[], None]) -> Awaitable[None]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "manifest")
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def _join(waiting: list[asyncio.Future[None]]) -> asyncio.Future[None]:
    """Return a future of the caller's own: one who is cancelled takes neither the record nor the others along."""
    joined = asyncio.get_running_loop().create_future()
    waiting.append(joined)
    return joined
