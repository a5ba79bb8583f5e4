"""Web hooks over a network that loses, duplicates and delays them, and an attacker who knows the path and forges them.

The forger has seen every POST and every hook; what it cannot send is a success of a job that was sent with this path,
under the requested uuid, before the node has made it: the path and the TLS proxy prevent that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from batch.engine import clone_records, settle, webhooks
from batch.engine.webhooks import HookVerdict, WebHooks
from batch.simulator.node import Node
from batch.zstack import replies
from batch.zstack.answers import Done
from tests.simulation.manifest_reader import records
from tests.simulation.mutants import Mutant
from tests.simulation.process import MANIFEST
from tests.simulation.schedule import heal_and_check, random_world, run_with_faults
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    import pytest

    from batch.engine.poll_schedule import PollSchedule
    from batch.simulator.wire import Request, WebHook
    from batch.zstack.client import Client
    from tests.simulation.process import Process
    from tests.simulation.schedule import Verdict as Judgement
    from tests.simulation.virtual import VirtualLoop
    from tests.simulation.world import World

_BASE: Final = "http://10.0.0.5:9100/"
_NOISE: Final = (b"", b"null", b"[]", b"{}", b"\xff\xfe", b'{"inventory":{}}', b'{"inventory":{"uuid":7}}', b"<html>")
_LONGEST: Final = 1e7
"""Virtual seconds after which no timer is set any more, so that a deadlock is detected."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A POST that the forger saw."""

    url: str
    job: str
    uuid: str


@dataclass
class HookNetwork:
    """Carries the node's web hooks, and the forger's, to the process whose path they name."""

    world: World
    random: Random
    lost: float = 0.0
    """Share of the tries that do not arrive."""
    unheard: float = 0.0
    """Share of arrived ones whose answer is lost, so that the node sends them again."""
    late: float = 0.0
    forged: float = 0.0
    """Share of POSTs, and of hooks, after which the forger sends something."""
    sent: list[Sent] = field(default_factory=list)
    carried: list[WebHook] = field(default_factory=list)
    believed: int = 0

    def __post_init__(self) -> None:
        self._listening: dict[str, tuple[Process, WebHooks]] = {}
        self._loop: VirtualLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opened = 0

    def open(self, process: Process, client: Client, polls: PollSchedule, loop: VirtualLoop) -> WebHooks:
        """Listen for a process."""
        self._opened += 1
        client.web_hook = f"{_BASE}{self._opened:032x}"
        # A timer of an earlier process's loop never comes.
        self._loop, self._timer = loop, None
        hooks = WebHooks(polls)
        self._listening[client.web_hook] = process, hooks
        return hooks

    def saw(self, request: Request) -> None:
        """The forger reads a POST."""
        uuid = json.loads(request.body)["params"].get("resourceUuid", "")
        self.sent.append(Sent(request.headers["x-web-hook"], request.headers["x-job-uuid"], uuid))
        if self.random.random() < self.forged:
            self._after(3.0 * self.random.random(), self._forge)

    def carry(self) -> None:
        """Take what the node sends, decide its fate, and wake up when there is something to do."""
        node = self.world.node
        assert isinstance(node, Node)
        for hook in node.take_hooks():
            self.carried.append(hook)
            seconds = self.random.uniform(1.0, 60.0) if self.random.random() < self.late else 0.05
            self._after(seconds * self.random.random(), partial(self._arrive, hook))
            if self.random.random() < self.forged:
                self._after(self.random.random(), self._forge)
        self._wake(node.next_due)

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self.world.at(self.world.now + seconds, action)

    def _wake(self, node_due: float | None) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        dues = [self.world.next_due] if node_due is None else [self.world.next_due, node_due - EPOCH]
        due = min(dues)
        if self._timer is not None and not self._timer.cancelled() and self._timer.when() <= due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if due < _LONGEST:
            self._timer = self._loop.call_at(max(due, self._loop.time()) + 1e-6, self._tick)

    def _tick(self) -> None:
        assert self._loop is not None
        self._timer = None
        try:
            self.world.advance(self._loop.time())
        except Exception as error:  # noqa: BLE001 - a loop tells its callbacks' errors to nobody
            self.world.witness.broken.append(repr(error))

    def _arrive(self, hook: WebHook) -> None:
        is_lost, is_unheard = (self.random.random() < share for share in (self.lost, self.unheard))
        is_taken = not is_lost and self._deliver(hook.url, dict(hook.headers), hook.body)
        node = self.world.node
        assert isinstance(node, Node)
        node.hook_answered(hook, EPOCH + self.world.now, ok=is_taken and not is_unheard)

    def _deliver(self, url: str, headers: dict[str, str], body: bytes) -> bool:
        """As the listener: only the jobs of a living process, by its path, are delivered; the answer is always 200."""
        living = {url: hooks for url, (process, hooks) in self._listening.items() if process.alive}
        job = headers.get("X-Job-UUID", "")
        if url in living and living[url].knows(job):
            verdict = living[url].receive(job, replies.read_hook(body, headers.get("X-Job-Success", "")))
            self.believed += verdict is HookVerdict.ANSWER
            self.world.say(f"hook {job} {verdict}")
        return bool(living)

    # --- The forger ---------------------------------------------------------------------------------------------------

    def _forge(self) -> None:
        one, other = self.random.choice(self.sent), self.random.choice(self.sent)
        anything = f"{self.random.getrandbits(128):032x}"
        url, job, uuid, success, body = one.url, one.job, one.uuid, "true", None
        match self.random.randrange(9):
            case 0:
                uuid = anything
            case 1:
                job = anything
            case 2:
                url = _BASE + anything
            case 3:
                success = "false"
            case 4:
                success = self.random.choice(("", "TRUE", "1", "yes"))
            case 5:
                body = self.random.choice(_NOISE)
            case 6:
                uuid = other.uuid if other.uuid != one.uuid else anything
            case 7 if self.carried:
                # What the node sent of one job, under another's uuid or its own, to the current listener.
                hook = self.random.choice(self.carried)
                job = dict(hook.headers)["X-Job-UUID"] if self.random.random() < 0.5 else other.job
                body, url = hook.body, self.sent[-1].url
            case _:
                body = json.dumps(
                    {"error": {"code": "SYS.1003", "description": "no such thing", "details": ""}}
                ).encode()
        if body is None:
            body = json.dumps({"inventory": {"uuid": uuid, "name": "forged"}}).encode()
        self._deliver(url, {"X-Job-UUID": job, "X-Job-Success": success}, body)


def misplaced_clones(world: World) -> list[str]:
    """I19: a cloned target has the requested uuid, whoever reported it."""
    wanted = {clone.key: clone.resource_uuid for clone in world.ever.values()}
    return [
        f"I19: {record.key} is called cloned as {record.clone_uuid}"
        for record in records(world.manifest(MANIFEST))
        if record.clone_uuid is not None and record.clone_uuid != wanted[record.key]
    ]


def run_hooks(seed: int) -> Judgement:
    """A random schedule whose processes request web hooks: lost, duplicated, late, forged and replayed."""
    random = Random(seed)
    world = random_world(seed, random)
    network = HookNetwork(
        world,
        Random(f"{seed} hooks"),
        lost=random.choice((0.0, 0.2, 0.9, 1.0)),
        unheard=random.choice((0.0, 0.3)),
        late=random.choice((0.0, 0.3)),
        forged=random.choice((0.0, 0.5, 1.0)),
    )
    world.hooks = network
    problems: list[str] = []
    for _ in range(random.randint(1, 3)):
        problems += run_with_faults(world, random)
        if problems or world.witness.broken:
            break
    verdict = heal_and_check(world, problems)
    return replace(verdict, problems=(*verdict.problems, *misplaced_clones(world)))


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def hook_of_another_job_believed(patch: pytest.MonkeyPatch) -> None:
    """A success under the uuid of a job in flight is its answer, whatever it shows."""

    def judge_hook(hook: Any, resource_uuid: str) -> HookVerdict:
        is_made = isinstance(hook, Done) and hook.service is not None
        return HookVerdict.ANSWER if is_made else HookVerdict.IGNORED

    patch.setattr(webhooks, "judge_hook", judge_hook)


def hook_without_record_believed(patch: pytest.MonkeyPatch) -> None:
    """A clone whose end a web hook brought is settled without a record."""
    receive, record_end = WebHooks.receive, clone_records.record_end
    brought: set[int] = set()

    def remembered(self: WebHooks, job_uuid: str, hook: Any) -> HookVerdict:
        verdict = receive(self, job_uuid, hook)
        if verdict is HookVerdict.ANSWER:
            brought.add(id(hook.service))
        return verdict

    def recorded(clone: Any, end: Any, deps: Any) -> None:
        if end.service is None or id(end.service) not in brought:
            record_end(clone, end, deps)

    patch.setattr(WebHooks, "receive", remembered)
    patch.setattr(settle, "record_end", recorded)


def failed_hook_believed(patch: pytest.MonkeyPatch) -> None:
    """Whatever a web hook says of success, what it shows is believed."""
    read = replies.read_hook
    patch.setattr(replies, "read_hook", lambda body, _success: read(body, "true"))


HOOK_MISTAKES = (
    Mutant("hook of another job believed", hook_of_another_job_believed, 60, "hooks"),
    Mutant("hook without record believed", hook_without_record_believed, 10, "hooks"),
    Mutant("failed hook believed", failed_hook_believed, 60, "hooks"),
)
