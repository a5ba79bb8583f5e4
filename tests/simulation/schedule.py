"""Random schedules: a phase of faults, kills and power cuts, then a healed phase that must converge; and the checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from batch.errors import ExitCode
from batch.model import Limits, State
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.options import NodeOptions, Source
from tests.simulation import promises
from tests.simulation.command import Ended, run_process, run_processes
from tests.simulation.damage import damage, repair_if_refused
from tests.simulation.disk import SimFile
from tests.simulation.jobs import planned, planned_clone
from tests.simulation.manifest_reader import last_states, records
from tests.simulation.process import MANIFEST, Process
from tests.simulation.virtual import EPOCH
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEALING_RUNS: Final = 12
"""Incarnations a healed world may need."""
SECOND_MANIFEST: Final = Path("/sim/copy.manifest.jsonl")
"""A second manifest of the same run: copied, or started anew after the first was lost."""
_AT_REST: Final = 200.0
"""Seconds after which nothing that was sent is under way any more."""

_JUMPS: Final = (-86400.0, 86400.0, *(-600.0, -5.0, 5.0, 600.0) * 5)
"""Seconds. Rarely a day: a job that never ends is then polled all day long."""

SUBMIT_FAULTS: Final = (
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
    Fault(FaultKind.FAIL, code="SYS.1007"),
    Fault(FaultKind.FAIL_CREATED, code="SYS.1001"),
    Fault(FaultKind.FAIL_THEN_CREATE, code="SYS.1001", seconds=2.0),
    Fault(FaultKind.TWO_RUNS),
    Fault(FaultKind.EXPIRE_SESSIONS),
    Fault(FaultKind.RESTART, seconds=3.0),
)
_ANY_FAULTS: Final = (
    Fault(FaultKind.DROP),
    Fault(FaultKind.LOST_REPLY, seconds=0.1),
    Fault(FaultKind.PROXY, status=504),
    Fault(FaultKind.TRUNCATED),
    Fault(FaultKind.HTML_500),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a schedule."""

    seed: int
    problems: tuple[str, ...]
    trace: tuple[str, ...]
    posts: int
    kills: int


def rules(faults: Sequence[Fault], share: float, *, on: str = "submit") -> tuple[FaultRule, ...]:
    """Give ``share`` of the calls one of the faults."""
    return tuple(FaultRule(fault, on=on, probability=share / len(faults)) for fault in faults)


def options_of(random: Random, *, occupied: bool) -> NodeOptions:
    """Return a node with a random mix of faults; ``occupied``: the first clone's uuid is foreign."""
    chosen = random.sample(SUBMIT_FAULTS, random.randint(1, 6))
    found = rules(chosen, random.choice((0.0, 0.1, 0.3, 0.5)))
    if random.random() < 0.5:
        other = (random.choice(_ANY_FAULTS),)
        found += rules(other, 0.1, on="poll") + rules(other, 0.1, on="query")
    return NodeOptions(
        seed=random.randrange(1 << 30),
        latency=random.choice(((0.05, 0.2), (0.2, 3.0))),
        api_timeout_ms=20_000,
        duplicate_window=random.choice((0.0, 0.5)),
        locale="en_US",
        sources=(Source(planned_clone(0).resource_uuid, "of somebody else"),) if occupied else (),
        faults=found,
    )


def random_world(seed: int, random: Random) -> World:
    """A World of some targets whose node has random faults."""
    options = options_of(random, occupied=random.random() < 0.03)
    limits = Limits(
        rate=random.choice((50.0, 50.0, 4.0)), concurrency=random.choice((1, 2, 4)), attempts=4, timeout=20.0
    )
    return World(seed, planned(random.randint(1, 6)), options, limits)


def run_schedule(seed: int) -> Verdict:
    """One random schedule from its seed alone."""
    random = Random(seed)
    world = random_world(seed, random)
    problems: list[str] = []
    has_second_manifest = random.random() < 0.1
    if random.random() < 0.05:
        world.garbled = random.choice((0.02, 0.3))
    if random.random() < 0.03:
        world.killer_uuid = random.choice(world.clones).resource_uuid
    for _ in range(random.randint(1, 4)):
        problems += run_with_faults(world, random, has_second_manifest=has_second_manifest)
        if problems or world.witness.broken:
            break
    return heal_and_check(
        world, problems, manifests=(MANIFEST, SECOND_MANIFEST) if has_second_manifest else (MANIFEST,)
    )


def random_process(random: Random) -> Process:
    """Return a process that may be killed, stopped, refused by its disk, or have its clock set."""
    process = Process(die_at=random.choice((None, random.randint(1, 30), random.randint(1, 300))))
    if random.random() < 0.1:
        process.bad_write_at = random.randint(2, 12)
    elif random.random() < 0.1:
        process.bad_sync_at = random.randint(2, 12)
    process.stop_after = random.choice((None, None, random.uniform(0.1, 5.0)))
    if random.random() < 0.05:
        process.clock_set = (random.uniform(0.0, 5.0), random.choice(_JUMPS))
    return process


def run_with_faults(world: World, random: Random, *, has_second_manifest: bool = False) -> list[str]:
    """Run one process with faults, and then disturb its machine and server."""
    error = world.clock_error
    problems = _run_one_or_two(world, random, has_second_manifest=has_second_manifest)
    if random.random() < 0.4:
        world.disk.power_cut(random)
    if random.random() < 0.15:
        world.node.expire_sessions()
    if random.random() < 0.1:
        world.node.restart(EPOCH + world.now, seconds=1.0)
    if random.random() < 0.15:
        edit(world, random)
    if random.random() < 0.02 and not has_second_manifest:
        damage(world, random)
        problems += repair_if_refused(world)
    # If a clock jumps ahead by hours during a POST and the next process comes within seconds, the end is unknowable.
    least = _AT_REST if world.clock_error > error + 3600.0 else 0.0
    world.wait(max(least, random.choice((0.0, 0.5, 30.0, 4000.0, 16000.0))))
    return problems


def edit(world: World, random: Random) -> None:
    """Add and remove targets. One whose uuid is foreign stays: without its row nothing could be compared."""
    numbers = set(random.sample(range(8), random.randint(1, 6))) | ({0} if world.options.sources else set())
    world.edit([planned_clone(number) for number in sorted(numbers)])


def _run_one_or_two(world: World, random: Random, *, has_second_manifest: bool) -> list[str]:
    process = random_process(random)
    if has_second_manifest:
        second = random_process(random)
        second.manifest = SECOND_MANIFEST
        second.starts_after = random.uniform(0.0, 3.0)
        if MANIFEST in world.disk.files and SECOND_MANIFEST not in world.disk.files and random.random() < 0.5:
            data = world.disk.files[MANIFEST].data
            world.disk.files[SECOND_MANIFEST] = SimFile(bytearray(data), bytes(data), is_named=True)
        ended, other = run_processes(world, process, second)
        return promises.misreported(world, ended) + promises.misreported(world, other, SECOND_MANIFEST)
    if random.random() < 0.1:
        return _run_two_on_one_manifest(world, random, process)
    return promises.misreported(world, run_process(world, process))


def _run_two_on_one_manifest(world: World, random: Random, process: Process) -> list[str]:
    """I13: a second process on the same manifest is refused while the first one lives."""
    second = Process(starts_after=random.uniform(0.0, 2.0))
    ended, other = run_processes(world, process, second)
    if other.code != ExitCode.LOCKED:
        return promises.misreported(world, other)
    is_quiet = not world.witness.life(second).calls
    return promises.misreported(world, ended) + ([] if is_quiet else ["I13: a locked out process called the server"])


def heal_and_check(world: World, problems: Sequence[str] = (), *, manifests: Sequence[Path] = (MANIFEST,)) -> Verdict:
    """Heal the world, run until everything is settled, and check the promises."""
    found = [*problems]
    world.node.set_faults(replace(world.options, faults=()))
    world.garbled, world.killer_uuid = 0.0, None
    for path in manifests:
        found += _converged(world, path)
    world.wait(_AT_REST)
    for path in manifests:
        found += _at_rest(world, path)
    found += promises.broken(world)
    if len(manifests) == 1:
        found += promises.lost_or_phantom(world)
    kills = sum(1 for process, life in world.witness.lives if life.code is None and process.steps)
    return Verdict(world.seed, tuple(dict.fromkeys(found)), tuple(world.trace), world.witness.posts, kills)


def _converged(world: World, path: Path) -> list[str]:
    """I7: once the faults stop every target of the job file reaches its end in a few runs, also quarantined ones."""
    ended = Ended(None)
    for _ in range(HEALING_RUNS):
        ended = run_process(world, Process(manifest=path, reopens=True))
        if ended.code in {ExitCode.OK, ExitCode.FAILED}:
            return promises.misreported(world, ended, path)
        world.wait(8000.0)
    return [f"I7: unfinished: exit {ended.code} {dict(ended.counts)} {ended.reason}"]


def _at_rest(world: World, path: Path) -> list[str]:
    """I18: the same command once more sends nothing; if nothing is open it changes no byte."""
    posts, bytes_ = world.witness.posts, world.manifest(path)
    run_process(world, Process(manifest=path))
    found = ["I18: a finished run sent something"] if world.witness.posts != posts else []
    if bytes_ != world.manifest(path) and not _left_open(last_states(world.manifest(path)).values()):
        found += [] if _had_open(bytes_) else ["I18: a finished run wrote something"]
    return found


def _left_open(states: Iterable[State]) -> bool:
    return any(not state.is_final for state in states)


def _had_open(data: bytes) -> bool:
    last = {record.key: record.state for record in records(data)}
    return any(not state.is_final and state is not State.PLANNED for state in last.values())
