"""A run on a real Temporal server with a worker in this process, whose calls a scripted server answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from batch.engine import Stop
from batch.engine.survey import survey
from batch.manifest import ManifestFold
from batch.model import Clone, Limits, Plan, Record, State
from batch.temporal import worker
from batch.temporal.command import RemoteRun
from batch.temporal.page import Work
from batch.temporal.worker import open_connection
from batch.zstack.answers import Absent, Accepted, Done, Found, Service, Unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from batch.temporal.command import OpenWorkflow
    from batch.temporal.messages import Ending, PageLine
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.client import Client
    from tests.temporal.stage import Server


def clones(count: int, name: str = "x") -> list[Clone]:
    """Return clones with keys k0, k1 and so on."""
    body = f'{{"params": {{"name": "{name}"}}}}'.encode()
    return [Clone(f"k{n}", "5" * 32, f"{n:012x}4abc8{n:015x}", body, f"{n:032x}", {"name": name}) for n in range(count)]


@dataclass
class ScriptedClient:
    """A ZStack that makes what is requested, at the first poll; tests replace its answers."""

    url: str = field(default_factory=lambda: f"http://{uuid4().hex}/zstack")
    version: tuple[int, int, int] | None = (5, 3, 46)
    name: str = "x"
    """The name of each service."""
    generation: int = 0
    made: dict[str, str] = field(default_factory=dict)
    """By job uuid: the resource uuid."""
    posts: Counter[str] = field(default_factory=Counter)
    """By key."""
    replaced: list[int] = field(default_factory=list)
    on_submit: Callable[[Clone], SubmitAnswer | None] = lambda _: None
    """An answer instead of "accepted"; the clone is then not made."""
    on_poll: Callable[[str], PollAnswer | None] = lambda _: None

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        self.posts[clone.key] += 1
        answer = self.on_submit(clone)
        if answer is None:
            self.made[job_uuid] = clone.resource_uuid
        return answer or Accepted(None)

    async def poll(self, job_uuid: str) -> PollAnswer:
        uuid = self.made.get(job_uuid)
        default: PollAnswer = Unknown() if uuid is None else Done(Service(uuid, self.name, {"name": self.name}))
        return self.on_poll(job_uuid) or default

    async def find(self, resource_uuid: str) -> FindAnswer:
        is_made = resource_uuid in self.made.values()
        return Found(Service(resource_uuid, self.name, {"name": self.name})) if is_made else Absent()

    async def renew(self) -> None:
        """Do nothing, like a client that does not know yet that its session is dead."""

    async def replace_session(self, generation: int) -> None:
        self.replaced.append(generation)
        self.generation += 1


@dataclass
class Sheet:
    """The destination of a run's lines."""

    records: list[Record] = field(default_factory=list)
    past: ManifestFold = field(default_factory=ManifestFold)
    calls: int = 0

    def find_unwritten(self, lines: Sequence[PageLine]) -> list[PageLine]:
        return list(lines)

    def write(self, line: PageLine) -> None:
        assert isinstance(line, Record)
        self.past.add_written(line)
        self.records.append(line)

    async def flush(self) -> None:
        """Do nothing: no line is lost here."""

    def note_calls(self, calls: int) -> None:
        self.calls = calls

    @property
    def states(self) -> Counter[State]:
        return Counter({record.key: record.state for record in self.records}.values())


@asynccontextmanager
async def working(
    server: Server, client: ScriptedClient, *, rate: float = 1000.0, keys: tuple[bytes, ...] = ()
) -> AsyncIterator[None]:
    """Run a worker for ``client`` until the end of the block."""
    temporal = await open_connection({"TEMPORAL_ADDRESS": server.address}, keys)
    stop, ready = Stop(), asyncio.Event()
    working = asyncio.create_task(
        worker.work(
            temporal, cast("Client", client), rate=rate, share=Fraction(1), stop=stop, ready=lambda _: ready.set()
        )
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        stop.request("the end of the test", None)
        await working
        await waiting


@dataclass
class Scene:
    """A run of some clones, once."""

    run: RemoteRun
    work: Work
    sheet: Sheet
    opened: OpenWorkflow | None = None

    async def begin(self) -> None:
        """Start it, with all its pages."""
        self.opened = await self.run.begin(self.work)
        await self.run.load(self.opened, self.work)

    async def follow(self) -> Ending | None:
        """Copy all of it; return why it ended early."""
        assert self.opened is not None
        return await self.run.follow(self.opened, self.sheet, Stop(), silent=lambda _: None)


async def scene(
    server: Server,
    client: ScriptedClient,
    count: int,
    *,
    job: str = "job",
    name: str = "x",
    keys: tuple[bytes, ...] = (),
    at_most_once: bool = False,
    **limits: Any,
) -> Scene:
    """Prepare a run of ``count`` clones."""
    temporal = await open_connection({"TEMPORAL_ADDRESS": server.address}, keys)
    run = RemoteRun(temporal, endpoint=client.url, job=job, run="run")
    all_of_them = clones(count, name)
    plan = Plan(job, "run", "digest", count, lambda: iter(all_of_them))
    past = ManifestFold()
    found = survey(plan, past)
    work = Work(plan, found, past, Limits(**limits), at_most_once=at_most_once, made=lambda: iter(()))
    return Scene(run, work, Sheet())
