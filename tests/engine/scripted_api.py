"""Dependencies with scripted answers on a virtual clock: one answer of the Api per call."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from batch.engine.control import Stop
from batch.engine.policy import Policy, Readiness, RetryBudget
from batch.engine.settle import Dependencies, settle
from batch.model import CallKind, Clone, Intent, Record, State
from batch.zstack.answers import NotSent, Service
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batch.engine import Gate
    from batch.engine.poll_schedule import PollWindow
    from batch.engine.ports import Api, Journal, RunApi
    from batch.engine.steps import Step
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer

RESOURCE_UUID = "90d425a802ff44eeb530f21587633700"
CLONE = Clone("a", "d76744cb53f9378abf42b907df3efb6e", RESOURCE_UUID, b"{}", "0" * 32, {"name": "x", "requestCpu": 4})


def service(uuid: str = RESOURCE_UUID, **fields: str | int) -> Service:
    """Return what the server shows of the clone."""
    shown = {"name": "x", "requestCpu": 4, **fields}
    return Service(uuid, str(shown["name"]), dict(shown))


class ScriptedApi:
    """Answers each call with the next line of the script and checks that it is a call of that kind."""

    def __init__(self, script: list[tuple[str, object]]) -> None:
        self.script = script
        self.calls: list[tuple[str, str]] = []
        self._polls = 0

    @staticmethod
    def _time() -> float:
        return asyncio.get_running_loop().time()

    def _next(self, kind: str, argument: str) -> object:
        self.calls.append((kind, argument))
        assert self.script, f"unexpected {kind}"
        expected, answer = self.script.pop(0)
        assert kind == expected, f"{kind} instead of {expected} after {self.calls}"
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        assert clone.resource_uuid == RESOURCE_UUID
        return self._next("submit", job_uuid)  # type: ignore[return-value]

    async def poll(self, job_uuid: str, window: PollWindow | None = None) -> PollAnswer:
        if window is not None:
            await asyncio.sleep(
                min(0.25 * 1.5 ** min(self._polls, 10), max(0.0, window.deadline - EPOCH - self._time()))
            )
            self._polls += 1
        return self._next("poll", job_uuid)  # type: ignore[return-value]

    async def find(self, resource_uuid: str) -> FindAnswer:
        return self._next("find", resource_uuid)  # type: ignore[return-value]

    async def renew(self) -> None:
        self._next("renew", "")


CUT = NotSent("the run is stopping", is_held_back=True)


class GatedApi:
    """An Api behind the Gate."""

    def __init__(self, api: Api, gate: Gate) -> None:
        self._api = api
        self._gate = gate

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        return await self._api.submit(clone, job_uuid) if await self._gate.wait(CallKind.CLONE) else CUT

    async def poll(self, job_uuid: str) -> PollAnswer:
        return await self._api.poll(job_uuid) if await self._gate.wait(CallKind.POLL, job_uuid) else CUT

    async def find(self, resource_uuid: str) -> FindAnswer:
        return await self._api.find(resource_uuid) if await self._gate.wait(CallKind.QUESTION) else CUT

    async def renew(self) -> None:
        await self._api.renew()


@dataclass
class MemoryJournal:
    """Keeps records in order; committed ones are those waited for."""

    records: list[Record] = field(default_factory=list)
    committed: int = 0
    taken_up: list[tuple[str, ...]] = field(default_factory=list)
    before_commit: Callable[[Record], None] = lambda record: None

    async def commit(self, record: Record) -> None:
        self.before_commit(record)
        self.records.append(record)
        self.committed += 1

    def note(self, record: Record) -> None:
        self.records.append(record)

    async def take_up(self, keys: Sequence[str]) -> None:
        self.taken_up.append(tuple(keys))

    def on_failure(self, hook: Callable[[], None]) -> None:
        """Nothing fails by itself here."""


@dataclass
class MemoryPast:
    """The Past of a MemoryJournal, folded again at each access."""

    journal: MemoryJournal
    intents: Mapping[str, Intent] = field(default_factory=dict)
    is_cut_off: bool = False
    uuids_without_sent: Mapping[str, str] = field(default_factory=dict)
    was_uuid_ignored: bool = False

    def _last(self) -> dict[str, Record]:
        return {record.key: record for record in self.journal.records}

    @property
    def counts(self) -> Mapping[State, int]:
        return Counter(record.state for record in self._last().values())

    @property
    def settled_counts(self) -> Mapping[State, int]:
        return {state: count for state, count in self.counts.items() if state.is_final}

    @property
    def canary_passed(self) -> bool:
        return any(record.state is State.CLONED for record in self._last().values())

    @property
    def was_sent(self) -> bool:
        return any(record.state is State.SENT for record in self.journal.records)

    @property
    def api_timeout(self) -> float:
        return max((record.api_timeout or 0.0 for record in self.journal.records), default=0.0)

    is_repaired = False
    repeated: frozenset[str] = frozenset()

    def was_made_elsewhere(self, key: str) -> bool:
        return False

    def has_predecessor(self, key: str, resource_uuid: str) -> bool:
        return False

    def final(self, key: str) -> tuple[State, int] | None:
        record = self._last().get(key)
        return (record.state, 0) if record is not None and record.state.is_final else None


@dataclass
class Settlement:
    """The result of one settle."""

    step: Step
    calls: list[tuple[str, str]]
    records: list[Record]
    seconds: float

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.calls]

    @property
    def jobs(self) -> list[str]:
        return [argument for kind, argument in self.calls if kind == "submit"]


def new_dependencies(
    api: RunApi,
    journal: Journal,
    clock: VirtualClock,
    *,
    policy: Policy | None = None,
    stop: Stop | None = None,
    is_honoured: bool = True,
) -> Dependencies:
    """Return what settle needs, on a virtual clock."""
    policy = policy or Policy()
    return Dependencies(
        api,
        journal,
        clock,
        policy,
        stop or Stop(),
        RetryBudget(clock),
        Readiness(clock),
        is_honoured=lambda: is_honoured,
        api_timeout=lambda: 0.0,
    )


def settle_scripted(
    script: list[tuple[str, object]],
    start: Step,
    *,
    policy: Policy | None = None,
    is_honoured: bool = True,
    clone: Clone = CLONE,
) -> Settlement:
    """Settle ``clone`` from ``start`` with the script's answers; the script must be used up."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    api, journal = ScriptedApi(list(script)), MemoryJournal()
    world = new_dependencies(api, journal, clock, policy=policy, is_honoured=is_honoured)
    step = run_virtual(loop, settle(clone, start, world))
    assert not api.script, f"never asked for: {api.script}"
    return Settlement(step, api.calls, journal.records, loop.now)
