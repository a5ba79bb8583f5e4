"""What a visible model service means: the clone, a conflict or a doubt, and whether it confirms resourceUuid.

A service counts as the clone only where an attempt of this run may have made it: one that was not executed, or that
found the uuid in use, did not.

A visible clone under a uuid that this plan derived, with the requested parameters, was made under that uuid: no one
else has it. Looks confirm it while the job of the first clone still runs; they decide nothing about the clone itself,
which is settled like any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from batch.engine.attempts import (
    end_uncertain,
    end_uncertain_uuid,
    has_ended,
    has_lost_jobs,
    may_have_other_uuid,
    may_have_run,
)
from batch.engine.steps import End, LookReason, Poll, Review
from batch.errors import CallCutError, RunStoppedError
from batch.model import UNKNOWN_JOB, State
from batch.zstack.answers import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.clock import Clock
    from batch.engine.attempts import DecisionContext
    from batch.engine.ports import RunApi
    from batch.engine.steps import Look, Step, Ticket
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


def after_found(service: Service, look: Look, clone: Clone, context: DecisionContext) -> Step:
    """Decide on a look that shows a service under the resource uuid."""
    ticket = look.ticket
    if look.reason is LookReason.GIVEN and not ticket.attempt:
        text = f"the resourceUuid {clone.resource_uuid} belongs to a service that existed before this run requested it"
        return End(State.CONFLICT, ticket.attempt, service, code="ZCLONE.CONFLICT", text=text, made_elsewhere=True)
    differing, existed_before = differing_params(clone, service), _existed_before(look)
    if differing and ticket.is_mixed and has_lost_jobs(ticket):
        text = f"the service {clone.resource_uuid} differs in {', '.join(differing)}: this run may have made it"
        return end_uncertain(ticket, context, look.error, text, is_last=True)
    if differing and ticket.is_mixed and not existed_before:
        return _made_with_another_body(_alike(service, look, clone, context), ticket)
    if not differing:
        return _alike(service, look, clone, context)
    text = f"the uuid {clone.resource_uuid} belongs to a service that differs in {', '.join(differing)}"
    if not has_ended(look, context):
        # An attempt of this run may be creating it now; while it is visible nothing is sent again.
        return end_uncertain(ticket, context, look.error, text, is_last=True)
    if may_have_other_uuid(look, context) and not existed_before:
        return end_uncertain_uuid(ticket, context, look.error, text)
    if ticket.open_jobs:
        return Review(look, ticket.open_jobs)
    if existed_before:
        text += "; it existed before this manifest recorded an attempt: another folder or host with this job name?"
    return End(
        State.CONFLICT, ticket.attempt, service, code="ZCLONE.CONFLICT", text=text, made_elsewhere=existed_before
    )


def _made_with_another_body(step: Step, ticket: Ticket) -> Step:
    """Name the earliest open job that may have run where ``step`` ends a Clone: the present body did not make it."""
    if not isinstance(step, End) or step.state is not State.CLONED:
        return step
    return step._replace(job_uuid=next((job for job in ticket.open_jobs if job not in ticket.unexecuted_jobs), None))


def _alike(service: Service, look: Look, clone: Clone, context: DecisionContext) -> Step:
    """Decide on a visible service that differs in nothing that is known."""
    ticket, existed_before = look.ticket, _existed_before(look)
    if _is_one_miss(look) and context.is_in_time(ticket):
        # As for one that is overdue: the job may run, and only several polls show that the server does not know it.
        return Poll(ticket, misses=1, error=look.error, was_visible=True)
    if look.reason in {LookReason.OVERDUE, LookReason.FORGOTTEN} and context.is_in_time(ticket):
        # A server may show the clone while its job runs, and delete it again where the job fails.
        if not look.was_visible:
            # One 404 may come from another node: only several of them show that the server forgot the job.
            is_forgotten = look.reason is LookReason.FORGOTTEN
            return Poll(ticket, misses=int(is_forgotten), at_once=not is_forgotten, was_visible=True)
        text = f"the service {clone.resource_uuid} is visible, but its api job has not ended"
        return end_uncertain(ticket, context, look.error, text, is_last=False)
    is_made = look.reason is LookReason.EMPTY or look.is_reviewed
    if not is_made and context.is_in_time(ticket):
        if ticket.open_jobs:
            return Review(look, ticket.open_jobs, is_visible=True)
        if ticket.job_uuid == UNKNOWN_JOB:
            text = "the service is visible, but a job on lost lines of the manifest may still run"
            return end_uncertain(ticket, context, look.error, text, is_last=False)
    text = f"the resourceUuid {clone.resource_uuid} is in use, and it is not known whether this run made it"
    if existed_before and (clone.is_given or not (clone.body or clone.params)):
        if not clone.is_given:
            text = f"the uuid {clone.resource_uuid} was in use when its job ended: whose service it is is not known"
        end = end_uncertain(ticket, context, look.error, text, is_last=True)
        # The job is recorded as over: the server keeps its row for some hours only.
        open_jobs = (ticket.job_uuid, *ticket.open_jobs)
        return end._replace(attempt=ticket.attempt - 1, job_uuid=None, open_jobs=open_jobs)
    if clone.is_given and (look.reason is LookReason.GIVEN or not ticket.has_sent_line):
        end = end_uncertain(ticket, context, look.error, text, is_last=True)
        # Where no POST is open, only the operator changes it.
        return end._replace(until=context.now) if look.reason is LookReason.GIVEN else end
    # An attempt on lost lines may have made it, or someone else: it is neither handed over nor deleted.
    is_anybodys = existed_before or (_is_collision(look) and has_lost_jobs(ticket))
    return End(State.CLONED, ticket.attempt, service, adopted=True, made_elsewhere=is_anybodys)


def _is_one_miss(look: Look) -> bool:
    """Return whether a single 404 is all that shows that the server does not know the job."""
    return look.reason is LookReason.LOST and not look.was_visible and look.ticket.job_uuid != UNKNOWN_JOB


def _existed_before(look: Look) -> bool:
    """Return whether the uuid was in use before the first attempt that may have run: it collided, or never ran.

    Source: zstack/README.md 4.
    """
    ticket = look.ticket
    if ticket.has_predecessor or any(job not in ticket.unexecuted_jobs for job in ticket.open_jobs):
        return False
    return _is_collision(look)


def _is_collision(look: Look) -> bool:
    """Return whether the last attempt did not make what is visible: it found the uuid in use, or never ran."""
    error = look.error
    if look.reason in {LookReason.ENDED, LookReason.STOPPED}:
        return error is not None and (error.is_in_use or not may_have_run(error))
    # The POST itself was answered so, now or by what is on record, and no job of it is known.
    is_in_use = look.ticket.is_taken or (error is not None and error.is_in_use)
    return look.reason is LookReason.LOST and is_in_use and not look.ticket.is_repeat


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
