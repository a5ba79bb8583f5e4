"""The Protocols of what ``settle`` and the hand-overs depend on: real and simulated parts are interchangeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from batch.engine.poll_schedule import PollWindow
    from batch.model import Clone, HandOverRecord, Record
    from batch.zstack.answers import FindAnswer, NoAnswer, NotSent, PollAnswer, Refused, Running, SubmitAnswer


class Api(Protocol):
    """ZStack, with one method for each call; every call passes the Gate, and none raises for an answer of the server.

    Where the wait for a slot was cut, ``is_cut`` is True for the answer: the call was not made.
    """

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID."""

    async def poll(self, job_uuid: str) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}."""

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid}; renews a dead session itself."""

    async def renew(self) -> None:
        """Replace the dead session, once for all callers. Raises RunStoppedError where that fails."""


class RunApi(Protocol):
    """The Api of a run, as ``settle`` uses it: polls are scheduled among those of all Clones."""

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID."""

    async def poll(self, job_uuid: str, window: PollWindow | None = None) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}; with ``window`` once the job has probably ended, in the schedule's order.

        Raises CallCutError where the wait for a slot was cut.
        """

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid}. Raises CallCutError where the wait for a slot was cut."""

    async def renew(self) -> None:
        """Replace the dead session, once for all callers. Raises RunStoppedError where that fails."""


class Journal(Protocol):
    """The manifest as ``settle`` writes it."""

    def commit(self, record: Record) -> Awaitable[None]:
        """Append a record; awaiting it makes it durable.

        Raises ManifestError after any failure: nothing may be sent then.
        """

    def note(self, record: Record) -> None:
        """Append without waiting; durable with the next commit or at close."""

    async def take_up(self, keys: Sequence[str]) -> None:
        """Append, durably, that this process continues Clones that were in flight when a process was killed."""

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` immediately when anything could not be made durable."""


class OwnershipApi(Protocol):
    """ZStack as hand-overs need it; every call passes the Gate, and none raises for an answer of the server.

    Each raises CallCutError where the wait for a slot was cut.
    """

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Share a resource with accounts; None: done. Idempotent."""

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | Running | None:
        """Make an account the owner of a resource; None: it is the owner now, perhaps from before.

        Running: it is, and the server may still execute a repeated request for it.
        """


class HandOverJournal(Protocol):
    """The manifest as hand-overs write it."""

    def note_hand_over(self, line: HandOverRecord) -> None:
        """Append without waiting; durable shortly after or at close."""

    async def commit_try(self, line: HandOverRecord, *, is_unexecuted: bool = False) -> None:
        """Append, durably, that the clone is about to be given away, or may be after the error of ``line``.

        ``is_unexecuted``: that try was not and will not be executed. Raises ManifestError.
        """
