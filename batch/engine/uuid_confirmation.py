"""Confirms that the server honours resourceUuid, by looks while the first clone's job still runs.

A visible clone under a uuid that this plan derived, with the requested parameters, was made under that uuid: no one
else has it. The look decides nothing about the clone itself, which is settled like any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from batch.engine.comparison import differing_params
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
"""Seconds from the start of the job to the first look, and the shortest time between two looks."""
_PART: Final = 0.2
"""Share of the job's age until the next look."""


class UuidConfirmation:
    """Whether the server is known to honour resourceUuid: by a record, or by a look of this process."""

    def __init__(self, api: RunApi, clock: Clock, *, is_recorded: Callable[[], bool]) -> None:
        """Start unconfirmed; ``is_recorded`` returns whether the manifest shows it."""
        self._api = api
        self._clock = clock
        self._is_recorded = is_recorded
        self._is_seen = False

    def is_confirmed(self) -> bool:
        """Return whether it is known by now."""
        return self._is_seen or self._is_recorded()

    def note_end(self, clone: Clone, end: End) -> None:
        """Check a settled Clone: one under its own uuid is confirmation, also where the record of its attempt was lost.

        The result of its own job counts, whatever the job file requests now.
        """
        if end.state is State.CLONED and end.service is not None and not clone.is_given and clone.body:
            is_own = not end.adopted and end.service.uuid == clone.resource_uuid
            self._is_seen = self._is_seen or is_own or not differing_params(clone, end.service)

    async def watch(self, clone: Clone, work: asyncio.Task[None], *, is_sent: Callable[[], bool]) -> None:
        """Look for the clone while ``work`` settles it; return once it is visible under its uuid, or settled.

        ``is_sent``: returns whether a job may be executing.
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
            # ``work`` raises the error that stops the run.
            return
        self._is_seen = isinstance(answer, Found) and not differing_params(clone, answer.service)
