"""The two things ``settle`` needs from the world, as Protocols: real parts and simulated ones are interchangeable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from batch.engine.polls import Hold
    from batch.model import Clone, HandedOver, Record
    from batch.zstack.answers import FindAnswer, NoAnswer, NotSent, PollAnswer, Refused, SubmitAnswer


class Api(Protocol):
    """ZStack, one call each; every call passes the Gate, and none raises for what the server may answer.

    Where the wait for its turn was cut ``is_cut`` holds for the answer: the call was not made.
    """

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID."""

    async def poll(self, job_uuid: str) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}."""

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid}; a dead session is renewed inside."""

    async def renew(self) -> None:
        """Replace the dead session, once for all callers. Raises RunStoppedError where it cannot."""


class RunApi(Protocol):
    """The Api of a run, as ``settle`` uses it: its polls are put in order with those of all other Clones."""

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        """POST /v1/ai/model-services/{source} with ``job_uuid`` as X-Job-UUID."""

    async def poll(self, job_uuid: str, hold: Hold | None = None) -> PollAnswer:
        """GET /v1/api-jobs/{job_uuid}; with ``hold`` once the job has probably ended, and not before others' turn.

        Raises CallCutError where the wait for its turn was cut.
        """

    async def find(self, resource_uuid: str) -> FindAnswer:
        """GET /v1/ai/model-services/{resource_uuid}. Raises CallCutError where the wait for its turn was cut."""

    async def renew(self) -> None:
        """Replace the dead session, once for all callers. Raises RunStoppedError where it cannot."""


class Journal(Protocol):
    """The manifest as ``settle`` writes it."""

    def commit(self, record: Record) -> Awaitable[None]:
        """Append; done when durable. Raises ManifestError once anything failed: nothing may be sent then."""

    def note(self, record: Record) -> None:
        """Append without waiting; durable with the next commit or at close."""

    async def take_up(self, keys: Sequence[str]) -> None:
        """Append, durably, that Clones which were in flight when a process died are gone on with by this one."""

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Call ``hook`` at once when anything could not be made durable."""


class Registrar(Protocol):
    """ZStack as hand-overs need it; every call passes the Gate, and none raises for what the server may answer.

    Each raises CallCutError where the wait for its turn was cut.
    """

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        """Let accounts use a resource; None: done. Doing it again changes nothing."""

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | None:
        """Make an account the owner of a resource; None: it is, whoever made it so."""


class HandOverJournal(Protocol):
    """The manifest as hand-overs write it."""

    def note_hand_over(self, line: HandedOver) -> None:
        """Append without waiting; durable a moment later or at close."""
