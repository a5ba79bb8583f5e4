"""The engine's Api and Journal, observed by the Witness."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch.engine.ports import Api, Journal
    from batch.model import Clone, Record
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from tests.simulation.process import Process
    from tests.simulation.witness import Witness


class WatchedApi:
    """The engine's Api, observed by the Witness."""

    def __init__(self, api: Api, witness: Witness, process: Process) -> None:
        self._api = api
        self._witness = witness
        self._process = process

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        answer = await self._api.submit(clone, job_uuid)
        self._witness.submitted(self._process, job_uuid, answer)
        return answer

    async def poll(self, job_uuid: str) -> PollAnswer:
        at = self._process.wall()
        answer = await self._api.poll(job_uuid)
        self._witness.polled(self._process, job_uuid, answer, at)
        return answer

    async def find(self, resource_uuid: str) -> FindAnswer:
        answer = await self._api.find(resource_uuid)
        self._witness.found(self._process, resource_uuid, answer)
        return answer

    async def renew(self) -> None:
        await self._api.renew()


class WatchedJournal:
    """The engine's Journal, observed by the Witness."""

    def __init__(self, journal: Journal, witness: Witness, process: Process) -> None:
        self._journal = journal
        self._witness = witness
        self._process = process

    async def commit(self, record: Record) -> None:
        self._process.require_alive()
        self._witness.recorded(self._process, record)
        await self._journal.commit(record)

    def note(self, record: Record) -> None:
        self._process.require_alive()
        self._witness.recorded(self._process, record)
        self._journal.note(record)

    async def take_up(self, keys: Sequence[str]) -> None:
        self._process.require_alive()
        await self._journal.take_up(keys)

    def on_failure(self, hook: Callable[[], None]) -> None:
        self._journal.on_failure(hook)
