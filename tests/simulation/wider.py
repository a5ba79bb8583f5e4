"""Random schedules over a node that gives each attempt its own verdict, and refuses lookups, logins and itself.

Beside kills, power cuts and stops: edits of names and uuids, targets that leave and return, ``--only``, waves, retries,
repairs, ``--at-most-once``, clocks set wrong by a month, servers without resourceUuid. The checks use the node's own
ledger: what was made, and what may still be.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final

from batch.errors import EndReason, ExitCode
from batch.model import Limits, State, Wave
from batch.simulator.options import NodeOptions
from batch.simulator.wire import Drop, Response
from tests.simulation import ownership_checks, promises
from tests.simulation.attempts import OVER_LIMIT, Answer, AttemptNode, Row, Traits, Verdict, failed
from tests.simulation.command import Ended, run_process
from tests.simulation.damage import damage, damage_last_job, repair_if_refused
from tests.simulation.jobs import Spec, plan_as
from tests.simulation.manifest_reader import last_states, records
from tests.simulation.process import MANIFEST, Process
from tests.simulation.schedule import Verdict as Judgement
from tests.simulation.virtual import EPOCH
from tests.simulation.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import Clone, Plan

_HEALING_RUNS: Final = 14
_MONTH: Final = 30 * 86_400.0
_LANGUAGES: Final = ("Duplicate job uuid[{job}]", "Doppelte Auftrags-UUID[{job}]", "任务标识[{job}]重复")
_CAUSES: Final = ((), ("SYS.1009",), ("ID.1001",), ("LICENSE.1003",), ("ID.1002",), ("SYS.1003",), ("PORTAL.1000",))
_NODE_CODES: Final = ("SYS.1008", "SYS.1009", "SYS.1010", "SYS.1011", "SYS.1012", "PORTAL.1002")
_LOOKS: Final = (
    failed("LICENSE.1003"),
    failed("ID.1002"),
    failed("SYS.1006"),
    failed("SYS.1010"),
    failed("SYS.1006", "LICENSE.1003"),
    Response(403, b"wrong accessKey signature"),
    Response(404, b"no api mapping to /v1/ai/model-services"),
    Response(502, b"<html>"),
    Drop(),
)
_LOGINS: Final = (failed("LICENSE.1003"), failed("ID.1006"), failed("LOGIN_CONTROL.1002"), failed("SYS.1010"), Drop())


@dataclass
class WiderWorld(World):
    """A World whose targets may be edited, with a node of attempts."""

    spec_of: dict[str, Spec] = field(default_factory=dict)
    """By digest."""
    at_most_once: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.witness.shown_early = self.attempts.shown_early

    def plan(self) -> Plan:
        return plan_as(self.specs())

    def specs(self) -> tuple[Spec, ...]:
        """The targets of the current job file."""
        return tuple(self.spec_of[clone.digest] for clone in self.clones)

    def write(self, specs: tuple[Spec, ...]) -> None:
        """Write the job file again."""
        clones = clones_of(specs)
        self.spec_of |= {clone.digest: spec for clone, spec in zip(clones, specs, strict=True)}
        self.edit(clones)

    @property
    def attempts(self) -> AttemptNode:
        """The node."""
        assert isinstance(self.node, AttemptNode)
        return self.node


def clones_of(specs: tuple[Spec, ...]) -> list[Clone]:
    return list(plan_as(specs).clones())


def given(number: int, which: int) -> str:
    """Return a uuid that a job file may give."""
    return f"{number:012x}4{which:03x}8{'0' * 15}"


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def _work(random: Random, longest: float) -> float:
    return random.choice((random.uniform(0.05, 2.0), random.uniform(0.05, 0.9) * longest))


def _unheard(random: Random, longest: float) -> float:
    """If the apiTimeout of a POST is not received the default counts."""
    return _work(random, min(longest, 1800.0))


def _lost(random: Random, longest: float) -> Verdict:
    return Verdict(Answer.LOST, takes=random.uniform(0.05, 2.0), row=random.choice((Row.KEPT, Row.MISSING)))


def _queued(random: Random, longest: float) -> Verdict:
    return Verdict(Answer.LOST, starts_in=_unheard(random, longest), takes=0.1)


def _late(random: Random, longest: float) -> Verdict:
    return Verdict(Answer.LATE, takes=_unheard(random, longest))


def _error(random: Random, longest: float) -> Verdict:
    return Verdict(Answer.ERROR, takes=_unheard(random, longest), makes=random.random() < 0.5)


def _long(random: Random, longest: float) -> Verdict:
    return Verdict(takes=random.uniform(0.2, 0.9) * longest)


def _row(random: Random, longest: float) -> Verdict:
    row = random.choice((Row.MISSING, Row.LOST, Row.LOST, Row.COMES_AND_GOES))
    return Verdict(row=row, takes=_work(random, longest))


def _orphan(random: Random, longest: float) -> Verdict:
    return Verdict(never_ends=True, makes=random.random() < 0.5)


def _refused(random: Random, longest: float) -> Verdict:
    return Verdict(codes=(random.choice(("SYS.1003", "ID.1003", "SYS.1007")),), makes=False)


def _failed(random: Random, longest: float) -> Verdict:
    """The end of a catch-all code is an end, whatever its causes are."""
    return Verdict(
        codes=("SYS.1006", *random.choice(_CAUSES)), makes=random.random() < 0.5, takes=_work(random, longest)
    )


def _shown_early(random: Random, longest: float) -> Verdict:
    """Looks show the clone from its job's beginning on, and where the job fails it is taken back."""
    makes = random.random() < 0.5
    codes = () if makes else (random.choice(("SYS.1006", "SYS.1003")),)
    return replace(_long(random, longest), makes=makes, codes=codes, is_shown_early=True)


def _goes_on(random: Random, longest: float) -> Verdict:
    """The job ends with a code after which the work may continue."""
    outer = random.choice((("SYS.1001",), ("MODEL.1042",), ("SYS.1006", "SYS.1015"), ("ID.1003", "SYS.1001")))
    makes, takes = random.random() < 0.6, _work(random, longest)
    return Verdict(codes=outer, makes=makes, takes=takes, ends_in=random.uniform(0.01, 1.0) * min(takes, 2.0))


def _of_the_node(random: Random, longest: float) -> Verdict:
    code = random.choice((*_NODE_CODES, "ID.1001"))
    return Verdict(codes=(code,), makes=False, takes=0.05)


def _stopping(random: Random, longest: float) -> Verdict:
    inner = random.choice(((), ("SYS.1001",)))
    makes = bool(inner) and random.random() < 0.5
    takes = _work(random, longest) if inner else random.uniform(0.1, 2.0)
    return Verdict(codes=("LICENSE.1003", *inner), makes=makes, takes=takes, ends_in=0.1)


def _turned_away(random: Random, longest: float) -> Verdict:
    refusal = random.choice(
        (
            Response(403, b"Forbidden by the gateway's rules"),
            Response(400, b"[requestCpu] field is excepted an int or long"),
            failed("SYS.1010"),
            failed("ID.1003"),
            failed("LICENSE.1003"),
            OVER_LIMIT,
        )
    )
    return Verdict(Answer.REFUSED, refusal)


_KINDS: Final = (
    _lost,
    _queued,
    _late,
    _error,
    _long,
    _row,
    _orphan,
    _refused,
    _failed,
    _failed,
    _goes_on,
    _of_the_node,
    _stopping,
    _turned_away,
)


def verdicts_of(
    kinds: tuple[Callable[[Random, float], Verdict], ...], share: float, longest: float
) -> Callable[[Random], Verdict]:
    """Decide on each POST separately; ``share`` of them get one of ``kinds``, the others are simply executed."""

    def decide(random: Random) -> Verdict:
        return random.choice(kinds)(random, longest) if random.random() < share else _calm(random)

    return decide


def verdicts(random: Random, share: float, longest: float) -> Callable[[], Verdict]:
    """Do the same with some kinds of verdicts."""
    decide = verdicts_of(tuple(random.sample(_KINDS, random.randint(1, 5))), share, longest)
    return lambda: decide(random)


# --- A schedule -------------------------------------------------------------------------------------------------------


def wider_world(seed: int, random: Random) -> WiderWorld:
    """Return everything about the server, the job file and the limits that a schedule does not change."""
    count = random.randint(1, 5)
    longest = random.choice((20.0, 1800.0, 1800.0, 36_000.0))
    at_most_once = random.random() < 0.2
    honours = random.random() < (0.5 if at_most_once else 0.93)
    foreign = frozenset({given(0, 1)}) if random.random() < 0.1 else frozenset()
    traits = Traits(
        honours=honours,
        shows=honours or random.random() < 0.5,
        api_timeout=longest,
        language=random.choice(_LANGUAGES),
        foreign=foreign,
        differing=_occupied(seed, 0.1),
    )
    node_random = Random(random.randrange(1 << 30))
    decide = verdicts(node_random, random.choice((0.2, 0.5, 0.9)), longest)
    node = AttemptNode(traits, _some_shown_early(seed, decide, longest), node_random)
    specs = tuple(Spec(number, 0, given(number, 1) if random.random() < 0.15 else None) for number in range(count))
    limits = Limits(
        rate=50.0,
        concurrency=random.choice((1, 2, 4)),
        attempts=random.choice((1, 2, 4)),
        timeout=random.choice((2.0, 20.0, 60.0)),
        waves=(Wave(count=1),) if random.random() < 0.15 else (),
    )
    clones = clones_of(specs)
    return WiderWorld(
        seed,
        clones,
        NodeOptions(),
        limits,
        server=node,
        spec_of={clone.digest: spec for clone, spec in zip(clones, specs, strict=True)},
        at_most_once=at_most_once,
    )


def _some_shown_early(seed: int, decide: Callable[[], Verdict], longest: float) -> Callable[[], Verdict]:
    """In a tenth of the schedules every third POST is shown before it is made. Drawn apart, for the same reason."""
    random = Random(f"{seed} early")
    if random.random() >= 0.1:
        return decide
    return lambda: _shown_early(random, longest) if random.random() < 0.3 else decide()


def _occupied(seed: int, share: float) -> frozenset[str]:
    """In a share of the schedules the first target's derived uuid is taken, as by a job of this name elsewhere.

    It is drawn separately, so that the recorded seeds stay the same.
    """
    is_taken = Random(f"{seed} occupied").random() < share
    return frozenset({clones_of((Spec(0),))[0].resource_uuid}) if is_taken else frozenset()


def run_wider(seed: int) -> Judgement:
    """One random schedule of the wider model from its seed alone."""
    random = Random(seed)
    world = wider_world(seed, random)
    problems: list[str] = []
    for _ in range(random.randint(1, 5)):
        problems += _run_with_faults(world, random)
        if problems or world.witness.broken:
            break
    return heal_and_check_widely(world, problems)


def _run_with_faults(world: WiderWorld, random: Random) -> list[str]:
    """Run some faults, one process, the check of its end, and the events before the next one."""
    _trouble(world, random)
    is_clock_wrong = random.random() < 0.05
    if is_clock_wrong:
        world.set_clock(_MONTH)
    process = _random_process(world, random)
    problems = judge_end(world, process)
    if is_clock_wrong:
        world.set_clock(-_MONTH)
    if random.random() < 0.3:
        world.disk.power_cut(random)
        # Flipped bits that number a line of the last batch as a later one make the next run refuse the manifest.
        problems += repair_if_refused(world)
    if random.random() < 0.1:
        world.attempts.expire_sessions()
    if random.random() < 0.05:
        world.attempts.restart(EPOCH + world.now, seconds=1.0)
    if random.random() < 0.35:
        world.write(_edited(world, random))
    if random.random() < 0.06:
        damage(world, random, cuts_end=False)
        problems += repair_if_refused(world)
    world.attempts.away = None
    longest = world.attempts.traits.api_timeout
    world.wait(random.choice((0.0, 0.5, 5.0, 100.0, longest / 2, longest + 200.0, 16_000.0)))
    return [*problems, *ownership_checks.unrecorded_clones(world)]


def _trouble(world: WiderWorld, random: Random) -> None:
    """Draw lookups and logins that are refused, and a node that is unavailable for seconds."""
    node, start = world.attempts, world.now
    node.refusals = {}
    if random.random() < 0.4:
        node.refusals["look"] = random.choice((0.3, 1.0)), random.choice(_LOOKS)
    if random.random() < 0.1:
        node.refusals["login"] = random.choice((0.3, 1.0)), random.choice(_LOGINS)
    if random.random() < 0.2:
        answer = random.choice((OVER_LIMIT, *(failed(code) for code in _NODE_CODES)))
        at, seconds = start + random.uniform(0.0, 5.0), random.uniform(0.5, 20.0)
        world.at(at, lambda: setattr(node, "away", answer))
        world.at(at + seconds, lambda: setattr(node, "away", None))


def _random_process(world: WiderWorld, random: Random) -> Process:
    process = Process(die_at=random.choice((None, None, random.randint(1, 40), random.randint(1, 300))))
    process.stop_after = random.choice((None, None, random.uniform(0.1, 10.0)))
    is_recorded = MANIFEST in world.disk.files and b'{"started":' in world.manifest(MANIFEST)
    process.at_most_once = world.at_most_once and (not is_recorded or random.random() < 0.5)
    process.accepts_changes = random.random() < 0.8
    process.retries = random.random() < 0.2
    if random.random() < 0.1:
        chosen = random.sample([clone.key for clone in world.clones], 1)
        process.only = tuple(f"key={key}" for key in chosen)
    return process


def _edited(world: WiderWorld, random: Random) -> tuple[Spec, ...]:
    """Let targets leave, come or return, and get other names or uuids.

    One whose uuid is taken stays as it is: without what was sent nothing could be compared with the service that has
    the uuid.
    """
    specs = {spec.number: spec for spec in world.spec_of.values() if random.random() < 0.7}
    specs |= {spec.number: spec for spec in world.specs() if random.random() < 0.8}
    number = random.randrange(7)
    specs.setdefault(number, Spec(number))
    chosen = random.choice(sorted(specs))
    match random.randrange(4):
        case 0:
            specs[chosen] = specs[chosen]._replace(name=random.randrange(3))
        case 1:
            specs[chosen] = specs[chosen]._replace(uuid=random.choice((None, given(chosen, 1), given(chosen, 2))))
    if world.attempts.traits.differing:
        specs[0] = world.specs()[0]
    return tuple(specs[number] for number in sorted(specs))


def judge_end(world: WiderWorld, process: Process) -> list[str]:
    ended = run_process(world, process)
    keys = {name.removeprefix("key=") for name in process.only}
    misreports = promises.misreported(world, ended, is_part_of=keys.__contains__ if keys else None)
    return [*misreports, *ownership_checks.false_exit(world, ended)]


# --- Schedules directed at one kind of fault
# ----------------------------------------------------------------------------


def world_of(
    seed: int,
    traits: Traits,
    decide: Callable[[Random], Verdict],
    limits: Limits,
    *,
    count: int = 3,
    first: str | None = None,
) -> WiderWorld:
    """Return a World of some targets; ``first``: the resourceUuid that the job file gives the first of them."""
    random = Random(f"{seed} node")
    specs = tuple(Spec(number, 0, None if number else first) for number in range(count))
    clones = clones_of(specs)
    spec_of = {clone.digest: spec for clone, spec in zip(clones, specs, strict=True)}
    node = AttemptNode(traits, lambda: decide(random), random)
    return WiderWorld(seed, clones, NodeOptions(), limits, server=node, spec_of=spec_of)


def _calm(random: Random) -> Verdict:
    return Verdict(takes=random.uniform(0.05, 1.5))


def run_away(seed: int) -> Judgement:
    """Jobs end for seconds or half an hour because the node is not ready: none fails, none is sent without a limit."""
    random = Random(seed)
    code, since = random.choice(_NODE_CODES), random.uniform(0.0, 1.0)
    is_short = random.random() < 0.5
    until = since + (random.uniform(6.0, 20.0) if is_short else 1800.0)

    def decide(node_random: Random) -> Verdict:
        if since <= world.now < until:
            return Verdict(codes=(code,), makes=False, takes=0.05)
        return _calm(node_random)

    limits = Limits(rate=50.0, concurrency=3, attempts=1, timeout=600.0)
    world = world_of(seed, Traits(), decide, limits, count=random.randint(1, 3))
    problems = judge_end(world, Process(stop_after=None if is_short else 1700.0))
    states = last_states(world.manifest(MANIFEST))
    if is_short and State.FAILED in states.values():
        problems.append(f"I7: {dict(states)} after a node that was not ready for seconds")
    return heal_and_check_widely(world, problems)


def run_repeated(seed: int) -> Judgement:
    """POSTs wait at the server without an answer, and a gateway refuses their repetition."""
    random = Random(seed)
    decide = verdicts_of((_queued, _queued, _turned_away), 0.7, 1800.0)
    world = world_of(seed, Traits(), decide, Limits(rate=50.0, concurrency=3, attempts=3, timeout=60.0))
    problems: list[str] = []
    for _ in range(2):
        problems += judge_end(world, Process(retries=random.random() < 0.5))
        world.wait(random.choice((1.0, 100.0)))
    return heal_and_check_widely(world, problems)


def run_clocks(seed: int) -> Judgement:
    """A process whose clock is a month ahead is killed; the next one, with the right time, polls its jobs."""
    random = Random(seed)
    decide = verdicts_of((_orphan, _long), 0.8, 1800.0)
    world = world_of(seed, Traits(), decide, Limits(rate=50.0, concurrency=3, attempts=2, timeout=20.0))
    world.set_clock(_MONTH)
    run_process(world, Process(die_at=random.randint(12, 60)))
    world.set_clock(-_MONTH)
    began = world.now
    problems = judge_end(world, Process(stop_after=600.0))
    if world.now - began > 300.0:
        problems.append(f"I7: asked for {world.now - began:.0f} s, where a clone's time is 20 s")
    return heal_and_check_widely(world, problems)


def run_retried(seed: int) -> Judgement:
    """A failed target is retried, a process is killed during that, and lines of the second attempt are damaged."""
    random = Random(seed)
    posts = iter(range(1_000_000))
    world = world_of(
        seed,
        Traits(),
        lambda node: Verdict(codes=("SYS.1003",), makes=False) if next(posts) < 3 else _long(node, 1800.0),
        Limits(rate=50.0, concurrency=3, attempts=2, timeout=20.0),
    )
    problems = judge_end(world, Process())
    run_process(world, Process(retries=True, die_at=random.randint(20, 80)))
    run_process(world, Process(die_at=random.randint(8, 20)))
    damage_last_job(world)
    problems += repair_if_refused(world)
    return heal_and_check_widely(world, [*problems, *judge_end(world, Process())])


def run_unproven(seed: int) -> Judgement:
    """A server that ignores resourceUuid, with lost answers and jobs that show nothing: still one clone a target.

    In half of them a foreign service is under the first target's uuid: it is no proof.
    """
    random = Random(seed)
    traits = Traits(honours=False, shows=random.random() < 0.3, differing=_occupied(seed, 0.5))
    decide = verdicts_of((_lost, _row, _failed, _goes_on), 0.8, 20.0)
    world = world_of(seed, traits, decide, Limits(rate=50.0, concurrency=3, attempts=3, timeout=20.0))
    problems = []
    for _ in range(3):
        problems += judge_end(world, Process(die_at=random.choice((None, random.randint(20, 100)))))
        world.wait(random.choice((1.0, 100.0)))
    return heal_and_check_widely(world, problems)


def run_late_proof(seed: int) -> Judgement:
    """The first targets are in doubt before the proof comes, and their process outlives their time: 3 is final."""
    random, posts = Random(seed), iter(range(1_000_000))
    doubtful = random.randint(1, 3)
    decide = verdicts_of((_orphan, _orphan, _queued, _goes_on), 1.0, 20.0)

    def verdict(node: Random) -> Verdict:
        return decide(node) if next(posts) < doubtful else Verdict(takes=node.uniform(20.0, 190.0))

    limits = Limits(rate=50.0, concurrency=random.choice((1, 2)), attempts=3, timeout=200.0)
    world = world_of(seed, Traits(api_timeout=20.0), verdict, limits, count=random.randint(3, 6))
    ended, before = run_process(world, Process()), world.witness.posts
    problems = promises.misreported(world, ended)
    if ended.code in {ExitCode.OK, ExitCode.FAILED}:
        run_process(world, Process())
        problems += [] if world.witness.posts == before else [f"I18: something was sent after exit {ended.code}"]
    return heal_and_check_widely(world, problems)


def run_shown_early(seed: int) -> Judgement:
    """Clones are visible while their jobs run for longer than the user waits, and some are taken back."""
    random = Random(seed)
    longest = random.choice((20.0, 1800.0))
    decide = verdicts_of((_shown_early,), 0.8, longest)
    limits = Limits(rate=50.0, concurrency=3, attempts=3, timeout=random.choice((2.0, 20.0)))
    world = world_of(seed, Traits(api_timeout=longest), decide, limits)
    problems: list[str] = []
    for _ in range(2):
        problems += judge_end(world, Process(die_at=random.choice((None, None, random.randint(15, 80)))))
        world.wait(random.choice((1.0, 100.0)))
    return heal_and_check_widely(world, problems)


def run_attempts(seed: int) -> Judgement:
    """Attempts that run long, lose their rows or end differently from earlier ones, over several processes."""
    random = Random(seed)
    longest = random.choice((1800.0, 36_000.0))
    decide = verdicts_of((_long, _row, _queued, _goes_on, _refused, _failed), 0.8, longest)
    limits = Limits(rate=50.0, concurrency=3, attempts=4, timeout=random.choice((2.0, 20.0)))
    world = world_of(seed, Traits(api_timeout=longest), decide, limits)
    problems: list[str] = []
    for _ in range(3):
        problems += judge_end(world, Process(retries=random.random() < 0.2))
        world.wait(random.choice((1.0, 100.0, 2000.0)))
    return heal_and_check_widely(world, problems)


def run_at_most_once(seed: int) -> Judgement:
    """The first process has --at-most-once, and none of the later ones does."""
    random = Random(seed)
    traits = Traits(honours=random.random() < 0.3)
    decide = verdicts_of((_lost, _row, _failed, _failed, _goes_on, _refused, _turned_away), 0.8, 20.0)
    world = world_of(seed, traits, decide, Limits(rate=50.0, concurrency=3, attempts=3, timeout=20.0))
    world.at_most_once = True
    problems = judge_end(world, Process(at_most_once=True))
    for _ in range(2):
        world.wait(random.choice((1.0, 100.0)))
        problems += judge_end(world, Process(retries=random.random() < 0.5))
    return heal_and_check_widely(world, problems)


def run_edits(seed: int) -> Judgement:
    """Names and uuids are edited while attempts are in doubt; one of the uuids that the job file gives is foreign."""
    random = Random(seed)
    decide = verdicts_of((_lost, _queued, _row, _long), 0.7, 1800.0)
    traits = Traits(foreign=frozenset({given(0, 1), given(1, 2)}))
    limits = Limits(rate=50.0, concurrency=3, attempts=3, timeout=20.0)
    world = world_of(seed, traits, decide, limits, first=random.choice((None, given(0, 1), given(0, 2))))
    problems: list[str] = []
    for _ in range(3):
        process = Process(accepts_changes=True, die_at=random.choice((None, random.randint(15, 80))))
        problems += judge_end(world, process)
        world.write(_edited(world, random))
        world.wait(random.choice((1.0, 100.0, 2000.0)))
    return heal_and_check_widely(world, problems)


def heal_and_check_widely(world: WiderWorld, problems: list[str]) -> Judgement:
    """Heal the world, run until nothing is left for a rerun, let everything that was sent end, and check."""
    found = [*problems]
    world.node.set_faults(world.options)
    found += _converged(world)
    world.wait(world.attempts.traits.api_timeout + 200.0)
    found += ownership_checks.broken(world)
    kills = sum(1 for process, life in world.witness.lives if life.code is None and process.steps)
    return Judgement(world.seed, tuple(dict.fromkeys(found)), tuple(world.trace), world.witness.posts, kills)


def _query_doubts(world: WiderWorld) -> None:
    """Run once more when the time of everything that is in doubt is over."""
    world.wait(max(8000.0, world.attempts.traits.api_timeout + 200.0))
    run_process(world, Process(accepts_changes=True))


def _converged(world: WiderWorld) -> list[str]:
    """I7: once the faults stop, the same command ends with 0 or 3 in a few runs."""
    ended = Ended(None)
    for _ in range(_HEALING_RUNS):
        # The next step that a wave held back requires.
        process = Process(reopens=True, accepts_changes=True, retries=ended.code_of_reason is EndReason.WAVE)
        ended = run_process(world, process)
        misreports = promises.misreported(world, ended) + ownership_checks.false_exit(world, ended)
        if misreports:
            return misreports
        is_held_back = ended.code_of_reason is EndReason.WAVE and not process.retries
        if ended.code in {ExitCode.OK, ExitCode.FAILED} and not is_held_back:
            posts = world.witness.posts
            _query_doubts(world)
            is_sent = ended.code_of_reason is None and world.witness.posts != posts and not _is_time_lost(world)
            sent = ["I18: a finished run sent something"] if is_sent else []
            # The proof that the server honours resourceUuid may have come last: it settles what was in doubt before.
            _query_doubts(world)
            return [*sent, *ownership_checks.endless_doubt(world)]
        world.wait(max(8000.0, world.attempts.traits.api_timeout + 200.0))
    if ended.code_of_reason is EndReason.WAVE and _waits_for_a_clock_ahead(world):
        return []
    return [f"I7: unfinished: exit {ended.code} {dict(ended.counts)} {ended.reason}"]


def _is_time_lost(world: WiderWorld) -> bool:
    """Return whether the lines that say how long the server may work were lost: half an hour is assumed."""
    return world.attempts.traits.api_timeout > 1800.0 and ownership_checks.has_lost_lines(world)


def _waits_for_a_clock_ahead(world: WiderWorld) -> bool:
    """Return whether an uncertain target waits for a time that a clock ahead recorded, behind another's wave."""
    lines = {line.key: line for line in records(world.manifest(MANIFEST))}
    later = EPOCH + world.now + 86_400.0
    return any(line.state is State.UNCERTAIN and (line.until or 0.0) > later for line in lines.values())
