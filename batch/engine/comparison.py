"""Compares a visible model service with a Clone: whether it is that clone, and whether that confirms resourceUuid.

A visible clone under a uuid that this plan derived, with the requested parameters, was made under that uuid: no one
else has it. Looks confirm it while the job of the first clone still runs; they decide nothing about the clone itself,
which is settled like any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from batch.errors import CallCutError, RunStoppedError
from batch.model import State
from batch.zstack.answers import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock
    from batch.engine.ports import RunApi
    from batch.engine.steps import End
    from batch.model import Clone, JsonValue
    from batch.zstack.answers import Service

_COMPARED = (
    "name",
    "description",
    "type",
    "framework",
    "source",
    "gpuComputeCapability",
    "pythonVersion",
    "condaVersion",
    "startCommand",
    "requestCpu",
    "requestMemory",
)
"""Parameters that every server version returns as requested; others may be dropped, defaulted or normalised."""

_IMAGES = "architectureImages"
_ARCHITECTURE = "cpuArchitecture"
_SHOWN_IMAGES = "modelServiceImages"


def differing_params(clone: Clone, service: Service) -> list[str]:
    """Return the names of the parameters that differ; a field that the server does not show is no evidence."""
    if service.uuid != clone.resource_uuid:
        return ["uuid"]
    differing = [
        name
        for name in _COMPARED
        if name in clone.params
        and (shown := service.fields.get(name)) is not None
        and _plain(shown) != _plain(clone.params[name])
    ]
    requested, shown = clone.params.get(_IMAGES), service.fields.get(_SHOWN_IMAGES)
    if isinstance(requested, list) and isinstance(shown, list) and not all(_is_among(row, shown) for row in requested):
        differing.append(_IMAGES)
    return differing


def _is_among(image: JsonValue, shown: list[JsonValue]) -> bool:
    """Return whether some shown row has all values of ``image``."""
    assert isinstance(image, dict)
    return any(
        isinstance(row, dict) and all(_is_same(name, value, row.get(name)) for name, value in image.items())
        for row in shown
    )


def _is_same(name: str, requested: JsonValue, shown: JsonValue) -> bool:
    if name == _ARCHITECTURE:
        # X86_64 is requested, x86_64 shown.
        return str(requested).lower() == str(shown).lower()
    return _plain(requested) == _plain(shown)


def _plain(value: JsonValue) -> JsonValue:
    """Return the value as the server stores it: strings are trimmed (zstack/README.md 4)."""
    return value.strip() if isinstance(value, str) else value


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
