"""Random schedules: a phase of faults, kills and power cuts, then a healed phase that must converge; and the checks."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from batch.manifest import Header, open_manifest
from batch.manifest.line import fields
from batch.model import Limits, State
from batch.simulator.faults import Fault, FaultKind, Rule
from batch.simulator.options import NodeOptions
from tests.simulation.disk import ProcessFiles
from tests.simulation.process import Process
from tests.simulation.virtual import EPOCH
from tests.simulation.world import MANIFEST, Ended, World, planned, run_process

if TYPE_CHECKING:
    from collections.abc import Mapping

HEALING_RUNS = 12
"""Incarnations a healed world may need."""

_SUBMIT_FAULTS = (
    Fault(FaultKind.DROP),
    Fault(FaultKind.LOST_REPLY, seconds=0.2),
    Fault(FaultKind.LATE, seconds=40.0),
    Fault(FaultKind.DELAYED, seconds=2.0),
    Fault(FaultKind.TWICE, seconds=0.3),
    Fault(FaultKind.PROXY, status=502),
    Fault(FaultKind.PROXY, status=503, executed=False),
    Fault(FaultKind.RATE_LIMITED, seconds=1.0),
    Fault(FaultKind.TRUNCATED),
    Fault(FaultKind.ERROR_500),
    Fault(FaultKind.ORPHAN),
    Fault(FaultKind.ORPHAN_500),
    Fault(FaultKind.RESULT_LOST),
    Fault(FaultKind.ROW_MISSING),
    Fault(FaultKind.PURGED),
    Fault(FaultKind.FAIL, code="SYS.1011"),
    Fault(FaultKind.FAIL, code="SYS.1000"),
    Fault(FaultKind.FAIL_CREATED, code="SYS.1001"),
    Fault(FaultKind.FAIL_THEN_CREATE, code="SYS.1001", seconds=2.0),
    Fault(FaultKind.TWO_RUNS),
    Fault(FaultKind.EXPIRE_SESSIONS),
    Fault(FaultKind.RESTART, seconds=3.0),
)
_ANY_FAULTS = (
    Fault(FaultKind.DROP),
    Fault(FaultKind.LOST_REPLY, seconds=0.1),
    Fault(FaultKind.PROXY, status=504),
    Fault(FaultKind.TRUNCATED),
    Fault(FaultKind.HTML_500),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a schedule came to."""

    seed: int
    problems: tuple[str, ...]
    trace: tuple[str, ...]
    posts: int


def options_of(random: Random) -> NodeOptions:
    """A node with a random mix of faults."""
    share = random.choice((0.0, 0.1, 0.3, 0.5))
    chosen = random.sample(_SUBMIT_FAULTS, random.randint(1, 6))
    rules = [Rule(fault, on="submit", probability=share / len(chosen)) for fault in chosen]
    if random.random() < 0.5:
        other = random.choice(_ANY_FAULTS)
        rules += [Rule(other, on=kind, probability=0.1) for kind in ("poll", "query")]
    return NodeOptions(
        seed=random.randrange(1 << 30),
        latency=random.choice(((0.05, 0.2), (0.2, 3.0))),
        api_timeout_ms=20_000,
        duplicate_window=random.choice((0.0, 0.5)),
        locale="en_US",
        faults=tuple(rules),
    )


def run_schedule(seed: int) -> Verdict:
    """One random schedule from its seed alone."""
    random = Random(seed)
    options = options_of(random)
    limits = Limits(rate=50.0, concurrency=random.choice((1, 2, 4)), attempts=4, timeout=20.0)
    world = World(seed, planned(random.randint(1, 6)), options, limits)
    for _ in range(random.randint(1, 4)):
        _hurt(world, random)
        if world.broken:
            break
    return conclude(world)


def _hurt(world: World, random: Random) -> None:
    """One incarnation with faults, killed, cut off, told to stop or left alone."""
    process = Process(die_at=random.choice((None, random.randint(1, 30), random.randint(1, 300))))
    if random.random() < 0.1:
        process.bad_write_at = random.randint(2, 12)
    elif random.random() < 0.1:
        process.bad_sync_at = random.randint(2, 12)
    ended = run_process(world, process, stop_after=random.choice((None, None, random.uniform(0.1, 5.0))))
    world.say(ended.status)
    if random.random() < 0.4:
        world.disk.power_cut(random)
    if random.random() < 0.15:
        world.node.expire_sessions()
    if random.random() < 0.1:
        world.node.restart(EPOCH + world.now, seconds=1.0)
    world.advance(world.now + random.choice((0.0, 0.5, 30.0, 4000.0, 16000.0)))


def conclude(world: World) -> Verdict:
    """Heal the world, run until everything is settled, and check the promises."""
    world.node.set_faults(replace(world.options, faults=()))
    ended = Ended("none")
    for _ in range(HEALING_RUNS):
        ended = run_process(world, Process())
        if ended.status == "done" and all(state.is_final for state in ended.counts):
            break
        world.advance(world.now + 8000.0)
    problems = [*world.broken, *_unfinished(world, ended), *ledger_problems(world), *rate_problems(world)]
    return Verdict(world.seed, tuple(problems), tuple(world.trace), world.node.ledger.calls["submit"])


def _unfinished(world: World, ended: Ended) -> list[str]:
    if ended.status == "done" and sum(ended.counts.values()) == len(world.clones):
        return []
    return [f"unfinished: {ended.status} {dict(ended.counts)} {ended.error}"]


def ledger_problems(world: World) -> list[str]:
    """The ledger's five classes: anything but ok, and what the manifest says against what the node made."""
    made = Counter(row.uuid for row in world.node.ledger.clones)
    sources = Counter(row.source for row in world.node.ledger.clones)
    problems = [f"duplicated: {source}" for source, count in sources.items() if count > 1]
    told = manifest_states(world)
    for clone in world.clones:
        state, exists = told.get(clone.key), made[clone.resource_uuid] > 0
        if exists and state != "cloned":
            problems.append(f"lost: {clone.key} was made and is {state}")
        if not exists and state == "cloned":
            problems.append(f"phantom: {clone.key} is cloned and was not made")
    planned_uuids = {clone.resource_uuid for clone in world.clones}
    problems += [f"unexpected: {uuid}" for uuid in made if uuid not in planned_uuids]
    return problems


def manifest_states(world: World) -> Mapping[str, str]:
    """The last state of each key as the file has it."""
    file = world.disk.files.get(MANIFEST)
    states: dict[str, str] = {}
    for line in bytes(file.data).splitlines() if file is not None else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "state" in record:
            states[record["key"]] = record["state"]
    return states


def rate_problems(world: World) -> list[str]:
    """In any second at most the rate, however often the process was killed (each one starts a window of its own)."""
    peak = world.node.ledger.peak()
    starts = sum(1 for line in world.trace if line.endswith(" start"))
    allowed = world.limits.rate + (world.limits.rate if starts > 1 else 2)
    return [f"rate: {peak} calls in a second"] if peak > allowed else []


__all__ = ["Header", "ProcessFiles", "Verdict", "fields", "open_manifest", "run_schedule", "State"]
