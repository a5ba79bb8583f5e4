"""Schedules in which a later attempt ends, and the jobs of earlier ones are still open with all that holds for each."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from batch.model import Limits
from tests.simulation import wider
from tests.simulation.attempts import Answer, Row, Traits, Verdict, failed
from tests.simulation.damage import damage_last_batch, repair_if_refused
from tests.simulation.jobs import Spec
from tests.simulation.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.schedule import Verdict as Judgement
    from tests.simulation.wider import WiderWorld

_LONGEST: Final = 1800.0


def _open(random: Random) -> Verdict:
    """Return a verdict that leaves the job open for a while: queued, without a row, or running."""
    starts_in, takes = random.uniform(0.1, 0.9) * _LONGEST, random.uniform(0.05, 0.9) * _LONGEST
    return random.choice(
        (
            Verdict(Answer.LOST, starts_in=starts_in, takes=0.1, row=Row.MISSING),
            Verdict(Answer.LOST, starts_in=starts_in, takes=0.1),
            Verdict(row=Row.MISSING, takes=takes),
            Verdict(row=Row.LOST, takes=takes),
            Verdict(takes=takes),
        )
    )


def _ended(random: Random) -> Verdict:
    """Return a verdict after which nothing of the POST is open: refused at once, or its job fails."""
    code = random.choice(("ID.1003", "SYS.1003", "SYS.1009", "SYS.1006", "LICENSE.1003"))
    if random.random() < 0.4:
        return Verdict(Answer.REFUSED, failed(random.choice(("LICENSE.1003", "ID.1003", "SYS.1010"))))
    return Verdict(codes=(code,), makes=False, takes=0.1)


def _shown_early(random: Random) -> Verdict:
    """Return a verdict that after a while shows the clone while it runs, and takes it back or makes it."""
    makes = random.random() < 0.3
    codes = () if makes else ("SYS.1006",)
    takes, shown_in = random.uniform(0.2, 0.8) * _LONGEST, random.uniform(0.0, 60.0)
    return Verdict(takes=takes, makes=makes, codes=codes, is_shown_early=True, shown_in=shown_in)


def _ended_later(random: Random) -> Verdict:
    """Return a verdict whose job fails after some seconds, while an earlier one may begin."""
    return Verdict(
        codes=(random.choice(("ID.1003", "SYS.1003", "SYS.1006")),), makes=False, takes=random.uniform(1, 15)
    )


def _world(seed: int, kinds: tuple[Callable[[Random], Verdict], ...], limits: Limits) -> WiderWorld:
    """Return two targets: the first is cloned at once, each POST of the other has one of the kinds of verdicts."""
    posts = iter(range(1_000_000))

    def decide(random: Random) -> Verdict:
        return Verdict(takes=0.1) if next(posts) == 0 else random.choice(kinds)(random)

    return wider.world_of(seed, Traits(api_timeout=_LONGEST), decide, limits, count=2)


def _limits(random: Random) -> Limits:
    return Limits(rate=50.0, concurrency=1, attempts=random.choice((2, 4)), timeout=random.choice((2.0, 20.0)))


def _edited(world: WiderWorld, random: Random) -> tuple[Spec, ...]:
    """Rename the second target, give it another uuid, remove it, or let it return."""
    first, *others = world.specs()
    second = others[0] if others else Spec(1)
    match random.randrange(4):
        case 0:
            return first, second._replace(name=random.randrange(3))
        case 1:
            return first, second._replace(uuid=random.choice((None, wider.given(1, 1), wider.given(1, 2))))
        case 2:
            return (first,)
    return first, second


def run_taken_back(seed: int) -> Judgement:
    """Attempts end while earlier ones are open; their target is edited, leaves and returns, and is retried."""
    random = Random(seed)
    world = _world(seed, (_open, _open, _ended), _limits(random))
    problems: list[str] = []
    for _ in range(random.randint(2, 5)):
        process = Process(accepts_changes=True, retries=random.random() < 0.3)
        problems += wider.judge_end(world, process)
        if random.random() < 0.4:
            world.write(_edited(world, random))
        world.wait(random.choice((1.0, 100.0, 1000.0, 2000.0)))
    return wider.heal_and_check_widely(world, problems)


def run_late_flag(seed: int) -> Judgement:
    """--at-most-once is first given when attempts are open or have ended: no second POST from then on."""
    random = Random(seed)
    world = _world(seed, (_open, _ended, _ended), _limits(random))
    world.at_most_once = True
    problems: list[str] = []
    for number in range(4):
        problems += wider.judge_end(world, Process(accepts_changes=True, at_most_once=number > 1))
        if random.random() < 0.4:
            world.write(_edited(world, random))
        world.wait(random.choice((1.0, 100.0, 2000.0)))
    return wider.heal_and_check_widely(world, problems)


def run_early_rows(seed: int) -> Judgement:
    """An earlier job shows its clone while it runs, later ones end: cloned is what stays once it has ended."""
    random = Random(seed)
    world = _world(seed, (_shown_early, _ended_later), _limits(random))
    problems: list[str] = []
    for _ in range(3):
        problems += wider.judge_end(world, Process())
        world.wait(random.choice((0.5, 5.0, 15.0, 400.0)))
    return wider.heal_and_check_widely(world, problems)


def run_damaged_end(seed: int) -> Judgement:
    """The last batch was durable and is damaged so that it still ends like one; what it sent is looked for."""
    random = Random(seed)
    world = _world(seed, (_open, _ended), _limits(random))
    world.at_most_once = random.random() < 0.5
    problems: list[str] = []
    for _ in range(2):
        process = Process(
            at_most_once=world.at_most_once,
            die_at=random.choice((None, random.randint(40, 120))),
            retries=random.random() < 0.3,
        )
        problems += wider.judge_end(world, process)
        damage_last_batch(world, random)
        problems += repair_if_refused(world)
        world.wait(random.choice((1.0, 100.0, 2000.0)))
    return wider.heal_and_check_widely(world, problems)
