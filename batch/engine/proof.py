"""The proof that the server honours resourceUuid, looked for while the first clone's job still runs.

A clone that is visible under a uuid that this plan derived, and shows what was asked for, was made under that uuid:
nobody else has it. The look decides nothing about the clone itself, which goes on to its end as any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from batch.engine.match import differences
from batch.errors import CallCutError, RunStoppedError
from batch.model import State
from batch.zstack.answers import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock
    from batch.engine.ports import RunApi
    from batch.engine.steps import End
    from batch.model import Clone

_FIRST: Final = 0.15
"""Seconds from the job's beginning to the first look, and between two looks at least."""
_PART: Final = 0.2
"""Of the job's age: the time to the next look."""


class Proof:
    """Whether it is known that the server honours resourceUuid: by a record, or by a look of this process."""

    def __init__(self, api: RunApi, clock: Clock, *, is_recorded: Callable[[], bool]) -> None:
        """``is_recorded``: whether the manifest shows it."""
        self._api = api
        self._clock = clock
        self._is_recorded = is_recorded
        self._is_seen = False

    def is_given(self) -> bool:
        """Whether it is known by now."""
        return self._is_seen or self._is_recorded()

    def note_end(self, clone: Clone, end: End) -> None:
        """Take in how a Clone settled: one that shows it is proof, also where the record of its attempt was lost.

        What its own job showed was made by that, whatever the job file asks for now.
        """
        if end.state is State.CLONED and end.service is not None and not clone.is_given and clone.body:
            is_own = not end.adopted and end.service.uuid == clone.resource_uuid
            self._is_seen = self._is_seen or is_own or not differences(clone, end.service)

    async def watch(self, clone: Clone, work: asyncio.Task[None], *, is_sent: Callable[[], bool]) -> None:
        """Look for the clone now and then while ``work`` brings it to its end; return once it is proof, or settled.

        ``is_sent``: whether a job may be at work on it.
        """
        began: float | None = None
        while not work.done() and not self._is_seen:
            now = self._clock.monotonic()
            began = now if began is None and is_sent() else began
            age = 0.0 if began is None else now - began
            await asyncio.wait({work}, timeout=max(_FIRST, _PART * age))
            if began is not None and not work.done() and not clone.is_given and clone.body:
                await self._look(clone)

    async def _look(self, clone: Clone) -> None:
        try:
            answer = await self._api.find(clone.resource_uuid)
        except (CallCutError, RunStoppedError):
            # The work itself meets what stops the run.
            return
        self._is_seen = isinstance(answer, Found) and not differences(clone, answer.service)
