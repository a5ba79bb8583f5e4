"""A World with scripted answers on a virtual clock: what an Api may answer, one answer per call."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from batch.engine.budget import RetryBudget
from batch.engine.pace import PollPace
from batch.engine.policy import Policy
from batch.engine.settle import World, settle
from batch.engine.stop import Stop
from batch.model import Clone, Intent, Record, State
from batch.zstack.answers import Service
from tests.simulation.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batch.engine.steps import Step
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer

R = "90d425a802ff44eeb530f21587633700"
CLONE = Clone("a", "d76744cb53f9378abf42b907df3efb6e", R, b"{}", "0" * 32, {"name": "x", "requestCpu": 4})


def service(uuid: str = R, **fields: str | int) -> Service:
    """What the server shows of the clone."""
    shown = {"name": "x", "requestCpu": 4, **fields}
    return Service(uuid, str(shown["name"]), dict(shown))


class ScriptedApi:
    """Answers each call with the next line of the script and insists that it is a call of that kind."""

    def __init__(self, script: list[tuple[str, object]]) -> None:
        self.script = script
        self.calls: list[tuple[str, str]] = []

    def _next(self, kind: str, argument: str) -> object:
        self.calls.append((kind, argument))
        assert self.script, f"unexpected {kind}"
        expected, answer = self.script.pop(0)
        assert kind == expected, f"{kind} instead of {expected} after {self.calls}"
        return answer

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        assert clone.resource_uuid == R
        return self._next("submit", job_uuid)  # type: ignore[return-value]

    async def poll(self, job_uuid: str) -> PollAnswer:
        return self._next("poll", job_uuid)  # type: ignore[return-value]

    async def find(self, resource_uuid: str) -> FindAnswer:
        return self._next("find", resource_uuid)  # type: ignore[return-value]

    async def renew(self) -> None:
        self._next("renew", "")


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
    """The Past of a MemoryJournal, folded anew at each look."""

    journal: MemoryJournal
    intents: Mapping[str, Intent] = field(default_factory=dict)
    is_cut_off: bool = False

    def _last(self) -> dict[str, Record]:
        return {record.key: record for record in self.journal.records}

    @property
    def counts(self) -> Mapping[State, int]:
        return Counter(record.state for record in self._last().values())

    @property
    def settled(self) -> Mapping[State, int]:
        return {state: count for state, count in self.counts.items() if state.is_final}

    @property
    def canary_passed(self) -> bool:
        return any(record.state is State.CLONED for record in self._last().values())

    def final(self, key: str) -> tuple[State, int] | None:
        record = self._last().get(key)
        return (record.state, 0) if record is not None and record.state.is_final else None


@dataclass
class Told:
    """What one settle came to."""

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


def tell(script: list[tuple[str, object]], start: Step, *, policy: Policy | None = None) -> Told:
    """Settle CLONE from ``start`` with the script's answers; the script must be used up."""
    loop = VirtualLoop()
    clock = VirtualClock(loop, Random(7))
    api, journal = ScriptedApi(list(script)), MemoryJournal()
    policy = policy or Policy()
    world = World(api, journal, clock, policy, Stop(), PollPace(policy, clock), RetryBudget(clock))
    step = run_virtual(loop, settle(CLONE, start, world))
    assert not api.script, f"never asked for: {api.script}"
    return Told(step, api.calls, journal.records, loop.now)
