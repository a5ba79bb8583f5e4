"""Hand-overs: existing clones are shared and given away, once each, despite obstacles."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine import Stop
from batch.engine.handover import hand_over_all
from batch.engine.survey import count_hand_overs
from batch.errors import NOT_OURS, CallCutError, EndReason, RunStoppedError
from batch.model import HandOver, HandOverCounts, HandOverRecord, Plan, Record, State
from batch.zstack.answers import ApiError, ErrorClass, NoAnswer, NotSent, Refused
from tests.engine.scripted_api import MemoryJournal, MemoryPast
from tests.engine.test_run import clones
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batch.model import Clone

ACCOUNT, PARTNER = "a" * 32, "b" * 32
BOTH = HandOver(ACCOUNT, (PARTNER,))


def refused(error_class: ErrorClass = ErrorClass.PERMANENT) -> Refused:
    return Refused(ApiError(error_class, "ID.1003", "quota", hint="ask admin"))


@dataclass
class Accounts:
    """A server's ownership: every call takes a moment; ``refusal`` says what it refuses."""

    refusal: Callable[[str, str], Refused | NotSent | NoAnswer | None] = lambda kind, uuid: None
    calls: list[tuple[str, str]] = field(default_factory=list)

    async def _answer(self, kind: str, uuid: str) -> Refused | NotSent | NoAnswer | None:
        self.calls.append((kind, uuid))
        await asyncio.sleep(0.5)
        return self.refusal(kind, uuid)

    async def share(self, uuid: str, accounts: Sequence[str]) -> Refused | NotSent | NoAnswer | None:
        assert accounts
        return await self._answer("share", uuid)

    async def give(self, uuid: str, account: str) -> Refused | NotSent | NoAnswer | None:
        assert account == ACCOUNT
        return await self._answer("give", uuid)


@dataclass
class Lines:
    """The manifest's lines of hand-overs."""

    lines: list[HandOverRecord] = field(default_factory=list)
    tried: list[tuple[HandOverRecord, bool]] = field(default_factory=list)

    async def commit_try(self, line: HandOverRecord, *, is_unexecuted: bool = False) -> None:
        self.tried.append((line, is_unexecuted))

    def tries(self, key: str) -> dict[str, tuple[float, float]]:
        return {}

    def note_hand_over(self, line: HandOverRecord) -> None:
        self.lines.append(line)

    def _last(self, key: str, wanted: HandOver) -> HandOverRecord | None:
        found = [line for line in self.lines if line.key == key]
        return found[-1] if found and found[-1].wanted == wanted else None

    def is_done(self, key: str, wanted: HandOver) -> bool:
        last = self._last(key, wanted)
        return last is not None and last.error_code is None

    def is_refused(self, key: str, wanted: HandOver) -> bool:
        last = self._last(key, wanted)
        return last is not None and last.error_code is not None


@dataclass
class HandedPast(MemoryPast):
    """A fold that knows hand-overs too."""

    hand_overs: Lines = field(default_factory=Lines)


@dataclass
class Stage:
    """Some existing clones, and the phase after the pool."""

    wanted: list[HandOver | None] = field(default_factory=lambda: [BOTH] * 6)
    states: list[State] = field(default_factory=lambda: [State.CLONED] * 6)
    server: Accounts = field(default_factory=Accounts)
    uuid_of: Callable[[Clone], str | None] = lambda clone: clone.resource_uuid

    def __post_init__(self) -> None:
        journal = MemoryJournal([Record(state, f"k{n}", EPOCH, 1) for n, state in enumerate(self.states)])
        self.past = HandedPast(journal)

    def plan(self) -> Plan:
        planned = [
            clone._replace(hand_over=wanted)
            for clone, wanted in zip(clones(len(self.wanted)), self.wanted, strict=True)
        ]
        count = sum(wanted is not None for wanted in self.wanted)
        return Plan("job", "default", "0" * 32, len(planned), lambda: iter(planned), hand_overs=count)

    def run(self, *, at: tuple[float, Callable[[], None]] | None = None) -> HandOverCounts:
        loop, plan = VirtualLoop(), self.plan()
        self.stop = Stop()

        async def main() -> None:
            if at is not None:
                loop.call_later(*at)
            await hand_over_all(
                plan,
                self.past,
                registrar=self.server,
                journal=self.past.hand_overs,
                clock=VirtualClock(loop, Random(3)),
                workers=2,
                stop=self.stop,
                uuid_of=self.uuid_of,
                grace=0.2,
            )

        run_virtual(loop, main())
        return count_hand_overs(plan, self.past)

    def count(self) -> Counter[str]:
        return Counter(kind for kind, _ in self.server.calls)


def test_every_clone_is_shared_and_then_given_away() -> None:
    """Each clone is shared before it is given away, and both are recorded once they are done."""
    stage = Stage()
    assert stage.run() == HandOverCounts(done=6)
    for clone in stage.plan().clones():
        assert [kind for kind, uuid in stage.server.calls if uuid == clone.resource_uuid] == ["share", "give"]
    assert {line.clone_uuid for line in stage.past.hand_overs.lines} == {clone.resource_uuid for clone in clones(6)}


def test_only_requested_hand_overs_are_done() -> None:
    """Without share_with nothing is shared, without owner nothing given away, without either nothing done."""
    stage = Stage(wanted=[HandOver(ACCOUNT), HandOver(None, (PARTNER,)), None], states=[State.CLONED] * 3)
    assert stage.run() == HandOverCounts(done=2)
    assert stage.server.calls == [("give", clones(2)[0].resource_uuid), ("share", clones(2)[1].resource_uuid)]


def test_a_clone_not_proven_to_be_ours_is_not_handed_over() -> None:
    """It is refused in the record without a call, and the others are done."""
    foreign = clones(6)[2].key
    stage = Stage(uuid_of=lambda clone: None if clone.key == foreign else clone.resource_uuid)
    assert stage.run() == HandOverCounts(done=5, refused=1)
    assert [line.key for line in stage.past.hand_overs.lines if line.error_code == NOT_OURS] == [foreign]
    assert stage.count() == {"share": 5, "give": 5}


def test_an_error_after_which_the_server_may_continue_leaves_it_open() -> None:
    """It is no refusal: the try is recorded before the call, and again with the error."""
    goes_on = Refused(ApiError(ErrorClass.AMBIGUOUS, "SYS.1001", "timeout", may_go_on=True))
    stage = Stage(server=Accounts(lambda kind, _uuid: goes_on if kind == "give" else None))
    assert stage.run() == HandOverCounts(open=6)
    assert stage.past.hand_overs.lines == []
    assert Counter(line.error_code for line, _ in stage.past.hand_overs.tried) == {None: 6, "SYS.1001": 6}


def test_a_change_of_owner_without_an_answer_ends_the_run() -> None:
    """The tries on record say what the server may still execute."""
    stage = Stage(server=Accounts(lambda kind, _uuid: NoAnswer("reset") if kind == "give" else None))
    with pytest.raises(RunStoppedError, match="reset"):
        stage.run()
    assert stage.past.hand_overs.lines == []
    assert {is_unexecuted for _, is_unexecuted in stage.past.hand_overs.tried} == {False}


def test_only_existing_clones_are_handed_over() -> None:
    """Conflicts, failed and undone targets, and unsettled ones, have nothing to hand over."""
    stage = Stage(
        states=[State.CLONED, State.CONFLICT, State.FAILED, State.UNDONE, State.UNCERTAIN, State.SENT],
    )
    assert stage.run() == HandOverCounts(done=1)
    assert stage.count() == {"share": 1, "give": 1}


def test_recorded_hand_overs_are_not_repeated() -> None:
    """A second run asks the server for nothing; a changed owner or share is another hand-over."""
    stage = Stage()
    stage.run()
    assert stage.run() == HandOverCounts(done=6)
    assert stage.count() == {"share": 6, "give": 6}
    stage.wanted[2] = HandOver(ACCOUNT)
    assert stage.run() == HandOverCounts(done=6)
    assert stage.count() == {"share": 6, "give": 7}


@pytest.mark.parametrize("error_class", [ErrorClass.PERMANENT, ErrorClass.AMBIGUOUS])
@pytest.mark.parametrize("kind", ["share", "give"])
def test_a_refusal_is_recorded_and_the_others_continue(kind: str, error_class: ErrorClass) -> None:
    """What the server refuses is reported with its words and retried by the next run; a share refused is not given."""
    bad = clones(6)[1].resource_uuid
    stage = Stage(server=Accounts(lambda call, uuid: refused(error_class) if (call, uuid) == (kind, bad) else None))
    assert stage.run() == HandOverCounts(done=5, refused=1)
    (line,) = [line for line in stage.past.hand_overs.lines if line.error_code]
    assert (line.key, line.error_code, line.error) == ("k1", "ID.1003", "quota")
    assert ("give", bad) in stage.server.calls or kind == "share"
    stage.server.refusal = lambda call, uuid: None
    before = len(stage.server.calls)
    assert stage.run() == HandOverCounts(done=6)
    assert stage.server.calls[before:] == [("share", bad), ("give", bad)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NotSent("connection refused"), "connection refused"),
        (NoAnswer("timeout"), "timeout"),
        (refused(ErrorClass.FATAL), "ID.1003: quota (ask admin)"),
        (refused(ErrorClass.TRANSIENT), "ID.1003: quota (ask admin)"),
    ],
)
def test_without_an_answer_the_run_ends(answer: Refused | NotSent | NoAnswer, reason: str) -> None:
    """If no hand-over can succeed now, none is recorded as refused and the rest is left for the next run."""
    stage = Stage(server=Accounts(lambda call, uuid: answer))
    with pytest.raises(RunStoppedError) as stopped:
        stage.run()
    assert str(stopped.value) == f"hand-over of k0: {reason}"
    assert stage.past.hand_overs.lines == []
    assert count_hand_overs(stage.plan(), stage.past) == HandOverCounts(open=6)
    assert len(stage.server.calls) == 2


def test_after_a_stop_nothing_more_is_begun() -> None:
    """What is under way gets its grace; the rest stays open."""
    stage = Stage()
    found = stage.run(at=(0.9, lambda: stage.stop.request("SIGTERM", EndReason.SIGNAL)))
    assert found == HandOverCounts(done=2, open=4)
    assert stage.count() == {"share": 2, "give": 2}


def test_a_call_cut_by_the_stop_leaves_its_hand_over_open() -> None:
    """It is no refusal and no end of the run: those whose turn came are still handed over."""

    def refusal(kind: str, uuid: str) -> None:
        if stage.stop.requested and (kind, uuid) == ("give", stage.server.calls[0][1]):
            raise CallCutError(kind)

    stage = Stage(server=Accounts(refusal))
    found = stage.run(at=(0.9, lambda: stage.stop.request("SIGTERM", EndReason.SIGNAL)))
    assert found == HandOverCounts(done=1, open=5)
    assert len(stage.past.hand_overs.lines) == 1


def test_a_hand_over_that_outlasts_the_grace_stays_open() -> None:
    """A hand-over cut off by the end is not recorded, so that the next run does all of it again."""
    stage = Stage()
    found = stage.run(at=(0.1, lambda: stage.stop.request("SIGTERM", EndReason.SIGNAL)))
    assert found == HandOverCounts(open=6)
    assert stage.run() == HandOverCounts(done=6)


def test_the_actual_uuid_is_handed_over() -> None:
    """On a server that chooses its own uuids, those are handed over."""
    stage = Stage(uuid_of=lambda clone: f"made-{clone.key}")
    stage.run()
    assert {uuid for _, uuid in stage.server.calls} == {f"made-k{number}" for number in range(6)}


def test_a_plan_without_hand_overs_is_not_walked() -> None:
    """Counting the open ones costs nothing if the job asks for none."""
    stage = Stage(wanted=[None] * 6)

    def walked() -> object:
        raise AssertionError

    assert count_hand_overs(replace(stage.plan(), clones=walked), stage.past) == HandOverCounts()  # type: ignore[arg-type]
