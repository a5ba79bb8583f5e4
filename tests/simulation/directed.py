"""Schedules directed at one kind of fault, which random ones contain too rarely to detect a single mistake."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from batch.engine.breaker import OUTAGE_DEADLINE
from batch.errors import ExitCode, ManifestError
from batch.model import Limits, State
from batch.simulator.faults import Fault, FaultKind, FaultRule
from batch.simulator.options import NodeOptions
from tests.simulation.command import run_process
from tests.simulation.damage import damage, repair_if_refused
from tests.simulation.hooks import run_hooks
from tests.simulation.jobs import planned
from tests.simulation.manifest_reader import last_states, records
from tests.simulation.open_jobs import run_damaged_end, run_early_rows, run_late_flag, run_taken_back
from tests.simulation.process import MANIFEST, Process
from tests.simulation.promises import misreported
from tests.simulation.schedule import SUBMIT_FAULTS, heal_and_check, rules, run_schedule
from tests.simulation.virtual import EPOCH
from tests.simulation.wider import (
    run_at_most_once,
    run_attempts,
    run_away,
    run_clocks,
    run_edits,
    run_late_proof,
    run_repeated,
    run_retried,
    run_shown_early,
    run_unproven,
    run_wider,
)
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.simulation.schedule import Verdict

_MAX_CRASHES: Final = 5
"""Of one clone: four with others in flight, one alone."""
_TRIED: Final = {State.CLONED, State.UNCERTAIN}


def world_of(
    seed: int,
    count: int,
    *faults: FaultRule,
    rate: float = 50.0,
    concurrency: int = 4,
    latency: float = 0.2,
    patience: float = 20.0,
) -> World:
    """Return a World with these faults; otherwise like the random ones. ``patience``: the server's apiTimeout."""
    options = NodeOptions(
        seed=seed,
        latency=(0.05, latency),
        api_timeout_ms=int(1000 * patience),
        duplicate_window=0.5,
        locale="en_US",
        faults=faults,
    )
    return World(seed, planned(count), options, Limits(rate=rate, concurrency=concurrency, attempts=4, timeout=20.0))


def run_crashes(seed: int) -> Verdict:
    """A calm server, and a machine that loses power soon after each start."""
    random = Random(seed)
    world = world_of(seed, random.randint(1, 2))
    for _ in range(random.randint(2, 5)):
        run_process(world, Process(die_at=random.randint(1, random.choice((12, 30)))))
        if random.random() < 0.7:
            world.disk.power_cut(random)
    return heal_and_check(world)


def run_unsynced(seed: int) -> Verdict:
    """Two processes in a row are killed with lines written and not synced, and then the power fails."""
    random = Random(seed)
    world = world_of(seed, 2)
    run_process(world, Process(die_in=("appended", random.randint(2, 3))))
    run_process(world, Process(die_in=("appended", 1)))
    world.disk.power_cut(random)
    return heal_and_check(world)


def run_bad_disks(seed: int) -> Verdict:
    """A disk that fills up or fails while several clones are in flight."""
    random = Random(seed)
    world = world_of(seed, 6, rate=6.0)
    process = Process()
    if random.random() < 0.5:
        process.bad_write_at = random.randint(3, 12)
    else:
        process.bad_sync_at = random.randint(3, 12)
    run_process(world, process)
    return heal_and_check(world)


def run_expiries(seed: int) -> Verdict:
    """Sessions that die while several clones are in flight."""
    world = world_of(seed, 8, FaultRule(Fault(FaultKind.EXPIRE_SESSIONS), probability=0.3, times=3), latency=1.0)
    run_process(world, Process())
    return heal_and_check(world)


def run_outages(seed: int) -> Verdict:
    """A server that restarts repeatedly under a low rate."""
    world = world_of(seed, 6, FaultRule(Fault(FaultKind.RESTART, seconds=4.0), probability=0.4, times=4), rate=4.0)
    run_process(world, Process())
    return heal_and_check(world)


def run_stuck(seed: int) -> Verdict:
    """Jobs that never end, and a process that is stopped before it abandons them."""
    random = Random(seed)
    stuck = (Fault(FaultKind.ORPHAN), Fault(FaultKind.RESULT_LOST), Fault(FaultKind.LATE, seconds=40.0))
    world = world_of(seed, 3, *rules(stuck, 0.6))
    for _ in range(3):
        run_process(world, Process(die_at=random.randint(20, 120)))
        world.wait(random.choice((1.0, 10.0, 30.0)))
    return heal_and_check(world)


def run_quarantine(seed: int) -> Verdict:
    """A clone whose answers kill every process that reads them: the others are made, it is quarantined, then fixed."""
    random = Random(seed)
    world = world_of(seed, random.randint(2, 5))
    chosen = random.choice(world.clones)
    world.killer_uuid = chosen.resource_uuid
    problems = _survived(world, chosen.key)
    world.killer_uuid = None
    run_process(world, Process(reopens=True))
    return heal_and_check(world, problems)


def _survived(world: World, killer: str) -> list[str]:
    """After five crashes, one of them alone, a process ends cleanly and says why; the next one touches nothing."""
    crashes = 0
    while (ended := run_process(world, Process())).code is None:
        crashes += 1
        if crashes > _MAX_CRASHES:
            return [f"quarantine: {crashes} processes were killed by {killer}"]
    states = last_states(world.manifest(MANIFEST))
    wanted = {clone.key: State.UNCERTAIN if clone.key == killer else State.CLONED for clone in world.clones}
    found = [] if states == wanted and ended.code == ExitCode.FAILED else [f"quarantine: exit {ended.code} {states}"]
    before, calls = world.manifest(MANIFEST), world.witness.posts
    run_process(world, Process())
    is_left = world.manifest(MANIFEST) == before and world.witness.posts == calls
    return found if is_left else [*found, "quarantine: what was set aside was touched"]


def run_blackouts(seed: int) -> Verdict:
    """The server is unavailable under load: retries are few, the run waits and resumes by itself, or exits with 4."""
    random = Random(seed)
    seconds = random.choice((90.0, 600.0, 2400.0))
    world = world_of(seed, 80, concurrency=40, patience=1800.0)
    world.limits = replace(world.limits, timeout=None)
    away: tuple[FaultRule, ...] = ()
    if random.random() < 0.5:
        world.at(1.0, lambda: world.node.restart(EPOCH + world.now, seconds=seconds))
    else:
        away = tuple(FaultRule(Fault(FaultKind.DROP), on=on, probability=1.0) for on in ("submit", "poll", "query"))
        world.at(1.0, lambda: world.node.set_faults(replace(world.options, faults=away)))
        world.at(1.0 + seconds, lambda: world.node.set_faults(world.options))
    ended = run_process(world, Process())
    is_too_long = seconds > OUTAGE_DEADLINE
    # A restart leaves jobs that never end: those clones are uncertain, and everything else is made.
    is_right = ended.code == ExitCode.UNFINISHED if is_too_long else not set(ended.counts) - _TRIED
    is_told = "has not answered" in (ended.reason or "") if is_too_long else ended.reason is None
    problems = [] if is_right and is_told else [f"I9: exit {ended.code} after {seconds:.0f} s: {ended.reason}"]
    world.wait(seconds)
    return heal_and_check(world, problems)


def run_deaf(seed: int) -> Verdict:
    """A server that answers every query and accepts no POST for a quarter of an hour, from the second clone on."""
    world = world_of(seed, 100, concurrency=60, patience=1800.0)
    world.limits = replace(world.limits, timeout=None)
    deaf = (FaultRule(Fault(FaultKind.DROP), on="submit", probability=1.0),)
    world.at(1.0, lambda: world.node.set_faults(replace(world.options, faults=deaf)))
    world.at(900.0, lambda: world.node.set_faults(world.options))
    ended = run_process(world, Process())
    problems = [] if not set(ended.counts) - _TRIED else [f"I9: exit {ended.code} {dict(ended.counts)} {ended.reason}"]
    return heal_and_check(world, problems)


def run_noise(seed: int) -> Verdict:
    """Soon after the login a proxy replaces every third answer by noise, and some clones are looked up."""
    missing = (Fault(FaultKind.LOST_REPLY, seconds=0.1), Fault(FaultKind.ROW_MISSING), Fault(FaultKind.DROP))
    world = world_of(seed, 8, *rules(missing, 0.8))
    world.at(0.2, lambda: setattr(world, "garbled", 0.3))
    return heal_and_check(world, misreported(world, run_process(world, Process(stop_after=60.0))))


def run_repaired(seed: int) -> Verdict:
    """A manifest is damaged anywhere, repaired, and the run resumes with what could be trusted."""
    random = Random(seed)
    world = world_of(seed, random.randint(1, 4), *rules(SUBMIT_FAULTS[:6], 0.2))
    run_process(world, Process(die_at=random.choice((None, random.randint(20, 120)))))
    damage(world, random)
    return heal_and_check(world, repair_if_refused(world))


def run_corrupted(seed: int) -> Verdict:
    """A bit of what was synced flips: refused, cut as a torn tail or harmless, and never read as another history."""
    random = Random(seed)
    world = world_of(seed, 3)
    run_process(world, Process(die_at=random.randint(20, 90)))
    before = world.manifest(MANIFEST)
    if not before:
        return heal_and_check(world)
    data = world.disk.files[MANIFEST].data
    for _ in range(random.choice((1, 1, 3))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    world.disk.files[MANIFEST].synced = bytes(data)
    # The next process cannot be judged by what was reported of the lost records.
    world.witness.stories.pop(MANIFEST, None)
    problems = _judge_damage(before, bytes(data))
    ended = run_process(world, Process())
    if ended.code in {ExitCode.BROKEN, ExitCode.USAGE}:
        # As the message says: move the file away and start over. The uuids are derived, so nothing is made twice.
        world.disk.files.pop(MANIFEST)
        problems += _rerun_without_manifest(world)
        return heal_and_check(world, problems)
    return heal_and_check(world, problems)


def _rerun_without_manifest(world: World) -> list[str]:
    ended = run_process(world, Process())
    return [] if ended.code == ExitCode.OK else [f"I7: exit {ended.code} without a manifest"]


def _judge_damage(before: bytes, after: bytes) -> list[str]:
    """Check that a reader of the damaged file gets a prefix of what was written, if it accepts the file at all."""
    try:
        read = list(records(after))
    except ManifestError:
        return []
    written = list(records(before))
    return [] if read == written[: len(read)] else ["I5: a damaged manifest tells another story"]


KINDS: Final[Mapping[str, Callable[[int], Verdict]]] = {
    "random": run_schedule,
    "crashes": run_crashes,
    "unsynced": run_unsynced,
    "bad disks": run_bad_disks,
    "expiries": run_expiries,
    "outages": run_outages,
    "stuck": run_stuck,
    "corrupted": run_corrupted,
    "quarantine": run_quarantine,
    "blackouts": run_blackouts,
    "deaf": run_deaf,
    "repaired": run_repaired,
    "noise": run_noise,
    "hooks": run_hooks,
    "wider": run_wider,
    "attempts": run_attempts,
    "at most once": run_at_most_once,
    "edits": run_edits,
    "away": run_away,
    "clocks": run_clocks,
    "repeated": run_repeated,
    "retried": run_retried,
    "unproven": run_unproven,
    "late proof": run_late_proof,
    "shown early": run_shown_early,
    "taken back": run_taken_back,
    "late flag": run_late_flag,
    "early rows": run_early_rows,
    "damaged end": run_damaged_end,
}
