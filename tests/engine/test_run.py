"""A whole run over a fake server that keeps promises: order, canary, stops, limits, outages."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import pytest

from batch.engine import Stop, clone_all
from batch.engine.clone_records import NotHonouredError
from batch.engine.control import GRACE
from batch.engine.survey import refuse_changes, survey
from batch.engine.webhooks import WebHooks
from batch.errors import EndReason, ManifestError, ManifestMismatchError, RunStoppedError
from batch.model import Clone, Intent, Limits, Plan, Record, SentJob, State
from batch.zstack.answers import (
    Absent,
    Accepted,
    ApiError,
    Done,
    ErrorClass,
    FindAnswer,
    Found,
    NoAnswer,
    NotSent,
    PollAnswer,
    Refused,
    Running,
    Service,
    SubmitAnswer,
    Unknown,
)
from tests.engine.scripted_api import GatedApi, MemoryJournal, MemoryPast
from tests.simulation.virtual import EPOCH, VirtualClock, VirtualLoop, run_virtual, virtual_gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.engine.control import Controls


def clones(count: int) -> list[Clone]:
    """``count`` different planned requests."""
    return [Clone(f"k{n}", f"{n:032x}", f"{n:012x}40008{n:015x}", b"{}", f"{n:032x}") for n in range(count)]


@dataclass
class Server:
    """Makes each accepted clone ``takes`` seconds after its POST; away or refusing when set so."""

    loop: VirtualLoop
    takes: float = 1.0
    answer: Callable[[Clone], SubmitAnswer | None] = lambda clone: None
    made: dict[str, float] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    log: list[tuple[float, str, str]] = field(default_factory=list)
    away: bool = False
    ends: dict[str, PollAnswer] = field(default_factory=dict)
    """By job uuid: how the jobs of earlier processes ended."""

    def _call(self, kind: str, what: str) -> None:
        self.log.append((self.loop.time(), kind, what))

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        self._call("submit", clone.key)
        await asyncio.sleep(0.01)
        if self.away:
            return NotSent("refused")
        special = self.answer(clone)
        if special is not None:
            return special
        self.made.setdefault(clone.resource_uuid, self.loop.time() + self.takes)
        self.jobs[job_uuid] = clone.resource_uuid
        return Accepted(1800.0)

    async def poll(self, job_uuid: str) -> PollAnswer:
        self._call("poll", job_uuid)
        await asyncio.sleep(0.01)
        if self.away:
            return NoAnswer("proxy")
        if job_uuid not in self.jobs:
            return self.ends.get(job_uuid, Unknown())
        uuid = self.jobs[job_uuid]
        return Done(Service(uuid, None, {})) if self.made[uuid] <= self.loop.time() else Running()

    async def find(self, resource_uuid: str) -> FindAnswer:
        self._call("find", resource_uuid)
        await asyncio.sleep(0.01)
        if self.away:
            return NoAnswer("proxy")
        if self.made.get(resource_uuid, float("inf")) <= self.loop.time():
            return Found(Service(resource_uuid, None, {}))
        return Absent()

    async def renew(self) -> None:
        self._call("renew", "")

    def count(self, kind: str) -> int:
        return sum(1 for _, name, _ in self.log if name == kind)


@dataclass
class Scene:
    """A run's parts, on one virtual clock."""

    count: int = 20
    limits: Limits = field(default_factory=Limits)
    loop: VirtualLoop = field(default_factory=VirtualLoop)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    stop: Stop = field(default_factory=Stop)
    intents: dict[str, Intent] = field(default_factory=dict)
    rate: float = 10_000.0
    """The gate's rate."""
    controls: Controls | None = None
    planned: list[Clone] | None = None
    """The planned clones; None: ``count`` of them."""
    has_hooks: bool = False
    """Whether the server was asked for web hooks."""

    def __post_init__(self) -> None:
        self.server = Server(self.loop)
        self.gate = virtual_gate(self.rate, self.loop)
        self.hooks = WebHooks(self.gate.polls) if self.has_hooks else None
        self.past = MemoryPast(self.journal, self.intents)

    def run(self, *, accept_changes: bool = False, at: tuple[float, Callable[[], None]] | None = None) -> Counter[str]:
        """Run to the end; ``at`` calls something at a moment. Returns the clones by state."""
        planned = self.planned or clones(self.count)
        plan = Plan("job", "default", "0" * 32, self.count, lambda: iter(planned))

        async def main() -> None:
            if at is not None:
                self.loop.call_later(*at)
            found = survey(plan, self.past)
            if not accept_changes:
                refuse_changes(found.changed)
            await clone_all(
                plan,
                found,
                api=GatedApi(self.server, self.gate),
                journal=self.journal,
                past=self.past,
                clock=VirtualClock(self.loop, Random(3)),
                limits=self.limits,
                stop=self.stop,
                polls=self.gate.polls,
                hooks=self.hooks,
                controls=self.controls,
            )

        run_virtual(self.loop, main())
        return Counter({str(state): count for state, count in self.past.counts.items()})


def test_every_target_is_cloned_once() -> None:
    """An undisturbed run sends one POST per target and ends with all of them cloned."""
    scene = Scene()
    assert scene.run() == {"cloned": 20}
    assert scene.server.count("submit") == 20


def test_the_servers_own_time_is_durable_before_it_is_relied_on() -> None:
    """The first answer with an apiTimeout, and no later one without news, waits for the disk like a POST."""
    scene, committed = Scene(count=3), list[Record]()
    scene.journal.before_commit = committed.append
    assert scene.run() == {"cloned": 3}
    assert Counter(record.state for record in committed) == {State.SENT: 3, State.ACCEPTED: 1}
    assert [record.api_timeout for record in committed if record.state is State.ACCEPTED] == [1800.0]


def test_a_delayed_post_without_an_answer_is_recorded_again() -> None:
    """The next process counts from when it was sent, not from before it waited for the rate."""
    scene = Scene(count=2, rate=0.01, limits=Limits(attempts=1))
    scene.server.answer = lambda clone: NoAnswer("lost") if clone.key == "k1" else None
    scene.run()
    left_at = next(at for at, kind, what in scene.server.log if (kind, what) == ("submit", "k1"))
    sent = [record for record in scene.journal.records if (record.key, record.state) == ("k1", State.SENT)]
    assert sent[0].at - EPOCH < left_at - 90 < left_at <= sent[-1].at - EPOCH
    assert {(record.attempt, record.job_uuid) for record in sent} == {(1, sent[0].job_uuid)}


def test_the_first_clone_goes_alone() -> None:
    """Nothing else is sent until the server was seen to honour resourceUuid."""
    scene = Scene()
    scene.run()
    submits = [at for at, kind, _ in scene.server.log if kind == "submit"]
    settled = next(record.at for record in scene.journal.records if record.state is State.CLONED) - EPOCH
    assert submits[0] < settled <= submits[1]


def test_after_a_failed_canary_the_next_clone_goes_alone() -> None:
    """A permanent failure proves nothing about resourceUuid: the next clone goes alone too."""
    scene = Scene()
    refused = Refused(ApiError(ErrorClass.PERMANENT, "HTTP.400", "no", 0))
    scene.server.answer = lambda clone: refused if clone.key == "k0" else None
    assert scene.run() == {"failed": 1, "cloned": 19}
    submits = [at for at, kind, _ in scene.server.log if kind == "submit"]
    assert submits[2] - submits[1] >= scene.server.takes


def test_a_server_that_ignores_the_uuid_stops_the_run() -> None:
    """After the canary's other uuid nothing more is sent."""
    scene = Scene()
    scene.server.answer = lambda clone: Done(Service("f" * 32, None, {}))
    with pytest.raises(NotHonouredError):
        scene.run()
    assert scene.server.count("submit") == 1


def test_a_refusal_of_the_first_post_leaves_the_run_unfinished() -> None:
    """A server without the API: an attempt is recorded, so the run has to be resumed (exit code 4)."""
    scene = Scene()
    scene.server.answer = lambda clone: Refused(ApiError(ErrorClass.FATAL, "HTTP.404", "no api mapping"))
    with pytest.raises(RunStoppedError, match="no api mapping"):
        scene.run()
    assert scene.server.count("submit") == 1
    assert scene.past.counts == {State.PLANNED: 1}


def test_a_refusal_during_a_run_leaves_it_to_be_resumed() -> None:
    """After clones were made the same refusal ends the run early, with its reason."""
    scene = Scene()
    refused = Refused(ApiError(ErrorClass.FATAL, "LICENSE.1000", "expired"))
    scene.server.answer = lambda clone: refused if clone.key == "k9" else None
    with pytest.raises(RunStoppedError, match="LICENSE.1000") as stopped:
        scene.run()
    assert stopped.value.reason is EndReason.DENIED
    assert scene.past.counts[State.CLONED] >= 8


def test_no_more_clones_are_in_flight_than_set() -> None:
    """Concurrency bounds the clones between POST and end."""
    scene = Scene(count=60, limits=Limits(concurrency=5))
    scene.run()
    flight, most = 0, 0
    for record in scene.journal.records:
        flight += {State.SENT: 1, State.CLONED: -1}.get(record.state, 0)
        most = max(most, flight)
    assert most == 5


def test_a_stop_sends_nothing_more_and_settles_what_is_in_flight() -> None:
    """After the request no POST is sent; clones in flight are polled to their end."""
    scene = Scene(count=200)
    scene.run(at=(3.0, lambda: scene.stop.request("SIGTERM", EndReason.SIGNAL)))
    submits = [at for at, kind, _ in scene.server.log if kind == "submit"]
    assert max(submits) <= 3.0
    assert len(submits) < 200
    assert scene.past.counts == {State.CLONED: len(submits)}


def test_the_grace_ends() -> None:
    """What does not settle within the grace stays in the journal as it is."""
    scene = Scene(count=200)

    def stop() -> None:
        scene.server.made = dict.fromkeys(scene.server.made, float("inf"))
        scene.stop.request("SIGTERM", EndReason.SIGNAL)

    scene.run(at=(3.0, stop))
    assert scene.past.counts[State.ACCEPTED] >= 1
    assert scene.loop.now == pytest.approx(33.0, abs=0.5)


def test_open_attempts_are_queried_before_anything_new_is_sent() -> None:
    """A resumed run queries every open clone first; a running one continues beside the new ones."""
    open_ = clones(20)[5:8]
    scene = Scene(
        intents={
            clone.key: Intent(
                clone.key,
                State.SENT,
                clone.source_uuid,
                clone.resource_uuid,
                clone.digest,
                1,
                f"{n:032x}",
                EPOCH - 5,
                EPOCH - 5,
            )
            for n, clone in enumerate(open_)
        }
    )
    scene.server.jobs["0" * 32] = open_[0].resource_uuid
    scene.server.made[open_[0].resource_uuid] = 50.0
    assert scene.run() == {"cloned": 20}
    first_submit = next(i for i, (_, kind, _) in enumerate(scene.server.log) if kind == "submit")
    asked = {what for _, kind, what in scene.server.log[:first_submit] if kind == "poll"}
    assert asked == {f"{n:032x}" for n in range(3)}
    assert len(scene.server.made) == 20


@pytest.mark.parametrize(("attempts", "is_over"), [(2, False), (1, True)])
def test_the_proof_lets_the_next_process_resend_what_had_ended_before(attempts: int, *, is_over: bool) -> None:
    """An attempt in doubt that ended before the proof came has no end of its time after it, while attempts are left."""
    one, two = clones(2)
    known = "k0", State.SENT, one.source_uuid, one.resource_uuid, one.digest, 1, "c" * 32
    opened = {"k0": Intent(*known, EPOCH - 9, EPOCH - 9, deadline=EPOCH - 1)}
    scene = Scene(count=2, limits=Limits(attempts=attempts), intents=opened)
    scene.server.ends["c" * 32] = Running()
    assert scene.run() == {"uncertain": 1, "cloned": 1}
    last = [record for record in scene.journal.records if record.key == "k0"][-1]
    assert (last.state, last.job_uuid, last.until is not None) == (State.UNCERTAIN, "c" * 32, is_over)
    assert [what for _, kind, what in scene.server.log if kind == "submit"] == [two.key]


def test_a_removed_target_is_queried_and_never_sent() -> None:
    """Its open attempt is reconciled; if nothing shows, nothing is sent for it, and it is uncertain."""
    gone = Intent("gone", State.SENT, "f" * 32, "e" * 32, "d" * 32, 1, "c" * 32, EPOCH - 5, EPOCH - 5)
    scene = Scene(intents={"gone": gone})
    assert scene.run() == {"cloned": 20, "uncertain": 1}
    assert ("find", "e" * 32) in {(kind, what) for _, kind, what in scene.server.log}
    assert "gone" not in {what for _, kind, what in scene.server.log if kind == "submit"}


def test_a_target_removed_between_two_attempts_is_left_alone() -> None:
    """Its attempts have ended and it is planned again: without a body nothing is queried, sent or recorded."""
    scene = Scene(count=2)
    gone = Intent("gone", State.PLANNED, "5" * 32, "6" * 32, "7" * 32, 1, None, EPOCH, EPOCH)
    scene.intents["gone"] = gone
    assert scene.run() == {"cloned": 2}
    assert not any(record.key == "gone" for record in scene.journal.records)
    assert not any(what in {"gone", gone.resource_uuid} for _, _, what in scene.server.log)


def test_a_manifest_with_another_uuid_stops_the_next_run_too() -> None:
    """Once the server made a clone under another uuid than requested nothing is sent, except at most once."""
    scene = Scene()
    scene.past.was_uuid_ignored = True
    with pytest.raises(NotHonouredError, match="look for clones, use --at-most-once"):
        scene.run()
    assert scene.server.log == []


def test_a_long_list_of_failures_delays_no_signal_before_the_proof() -> None:
    """Settled targets are skipped in pieces, between which the loop turns, also before the first proof."""
    scene = Scene(count=1200)
    scene.journal.records += [Record(State.FAILED, clone.key, EPOCH, 1) for clone in clones(1199)]
    assert scene.run() == {"failed": 1199, "cloned": 1}
    assert [what for _, kind, what in scene.server.log if kind == "submit"] == ["k1199"]


def test_a_changed_target_that_was_sent_is_refused_by_name() -> None:
    """The refusal comes before any call, names the key, and --accept-changes continues."""
    clone = clones(20)[4]
    intents = {
        "k4": Intent(
            "k4",
            State.SENT,
            clone.source_uuid,
            clone.resource_uuid,
            "9" * 32,
            1,
            "c" * 32,
            EPOCH - 5,
            EPOCH - 5,
        )
    }
    scene = Scene(intents=intents)
    with pytest.raises(ManifestMismatchError, match="k4"):
        scene.run()
    assert scene.server.log == []
    assert Scene(intents=intents).run(accept_changes=True) == {"cloned": 20}


def test_too_many_failures_stop_the_run() -> None:
    """max_failures is exceeded, not met, and judged from ten settled clones on."""
    scene = Scene(count=100, limits=Limits(max_failures=0.2, concurrency=1))
    refused = Refused(ApiError(ErrorClass.PERMANENT, "HTTP.400", "no", 0))
    scene.server.answer = lambda clone: refused if int(clone.key[1:]) % 2 else None
    counts = scene.run()
    assert counts == {"cloned": 5, "failed": 5}
    assert scene.stop.reason is not None
    assert "max_failures" in scene.stop.reason


def test_the_deadline_stops_sending_in_time() -> None:
    """The last POST comes early enough for a typical clone to end before the deadline."""
    scene = Scene(count=500, limits=Limits(deadline=10.0))
    scene.run()
    assert scene.stop.requested
    assert set(scene.past.counts) == {State.CLONED}
    assert scene.loop.now <= 11.0


def test_an_outage_pauses_the_run_which_resumes_by_itself() -> None:
    """In a total outage a handful of tries a minute are sent; when the server is back every target is cloned once."""
    scene = Scene(count=60)
    scene.loop.call_later(3.0, lambda: setattr(scene.server, "away", True))
    counts = scene.run(at=(603.0, lambda: setattr(scene.server, "away", False)))
    assert counts == {"cloned": 60}
    during = [at for at, _, _ in scene.server.log if 63.0 < at < 603.0]
    assert len(during) <= 2 * (603 - 63) / 60
    assert scene.loop.now < 603 + 75 + 60


def test_an_outage_beyond_its_deadline_stops_the_run() -> None:
    """After half an hour away the run stops and can be resumed; nothing is called failed."""
    scene = Scene(count=60)
    scene.loop.call_later(3.0, lambda: setattr(scene.server, "away", True))
    with pytest.raises(RunStoppedError, match="not answered"):
        scene.run()
    assert State.FAILED not in scene.past.counts
    assert scene.loop.now < 1803 + 120


def test_a_failed_journal_ends_the_run_with_no_further_post() -> None:
    """When a record cannot be made durable, that POST and all later ones are not sent."""
    scene = Scene()

    def fail(record: Record) -> None:
        if record.key == "k7":
            raise ManifestError("no space left")

    scene.journal.before_commit = fail
    with pytest.raises(ManifestError):
        scene.run()
    submitted = [what for _, kind, what in scene.server.log if kind == "submit"]
    assert "k7" not in submitted
    assert scene.server.log[-1][0] <= scene.loop.now
    durable = {record.key for record in scene.journal.records if record.state is State.SENT}
    assert set(submitted) <= durable


def test_every_post_has_its_durable_record_first() -> None:
    """At the moment of each POST its record with the same ids had been committed."""
    scene = Scene()
    order: list[tuple[str, str]] = []
    scene.journal.before_commit = lambda record: order.append(("commit", record.key))
    scene.server.answer = lambda clone: order.append(("post", clone.key))
    scene.run()
    for place, (kind, key) in enumerate(order):
        assert kind == "commit" or ("commit", key) in order[:place]


@pytest.mark.parametrize("state", [State.ACCEPTED, State.SENT])
@pytest.mark.parametrize("rate", [1 / 3600, 1 / 60, 0.1, 1, 7.5, 40])
def test_a_stop_ends_within_the_grace_at_any_rate(rate: float, state: State) -> None:
    """Clones in flight are polled at the rate for at most 30 s; a cut poll or lookup leaves its clone as it was."""
    open_ = clones(8)
    scene = Scene(
        count=8,
        limits=Limits(concurrency=8),
        rate=rate,
        intents={
            clone.key: Intent(
                clone.key, state, clone.source_uuid, clone.resource_uuid, clone.digest, 1, key, EPOCH, EPOCH
            )
            for clone, key in ((clone, clone.digest) for clone in open_)
        },
    )
    server = scene.server
    server.takes = float("inf")
    if state is State.ACCEPTED:
        server.jobs = {clone.digest: clone.resource_uuid for clone in open_}
        server.made = dict.fromkeys(server.jobs.values(), float("inf"))
    scene.stop.on_request(lambda: scene.gate.stop(GRACE))
    scene.run(at=(3.0, lambda: scene.stop.request("SIGTERM", EndReason.SIGNAL)))
    assert scene.loop.now <= 33.0
    assert not [at for at, kind, _ in server.log if kind == "submit" and at > 3.0]
    times = [at for at, _, _ in server.log]
    assert all(later - sooner > 0.9 / rate for sooner, later in pairwise(times) if rate < 1)
    assert not set(scene.past.counts) - {State.SENT, State.ACCEPTED}
    if rate < 0.1:
        # No turn comes within the grace: the only wait is the time between two polls.
        assert len(times) == 1
        assert scene.loop.now < 20


@pytest.mark.parametrize(
    ("uuid", "is_given", "is_shown"),
    [
        pytest.param(clones(1)[0].resource_uuid, False, True, id="the uuid it was asked to have"),
        pytest.param(clones(1)[0].resource_uuid, True, False, id="a uuid of the user's own, that anybody may have"),
        pytest.param("f" * 32, False, False, id="another one"),
    ],
)
def test_a_clone_without_its_sent_line_proves_the_server(uuid: str, *, is_given: bool, is_shown: bool) -> None:
    """No other service has the derived uuid: a clone that has it shows that resourceUuid is honoured."""
    (asked,) = clones(1)
    journal = MemoryJournal([Record(State.CLONED, asked.key, EPOCH, 1, clone_uuid=uuid)])
    past = MemoryPast(journal, uuids_without_sent={asked.key: uuid})
    plan = Plan("job", "default", "0" * 32, 1, lambda: iter([asked._replace(is_given=is_given)]))
    assert survey(plan, past).is_honoured is is_shown


@pytest.mark.parametrize("open_jobs", [(), ("e" * 32,)], ids=["one attempt", "two attempts"])
def test_an_attempt_under_another_uuid_fails_once_every_attempt_is_over(open_jobs: tuple[str, ...]) -> None:
    """The job file now gives another uuid: the old one gets its end first, and ``retry`` sends it as it is now."""
    clone, old = clones(3)[2], EPOCH - 7200
    sent = (clone.source_uuid, "f" * 32, "9" * 32, 1, "c" * 32, old, old)
    scene = Scene(count=3, intents={"k2": Intent("k2", State.UNCERTAIN, *sent, open_jobs=open_jobs)})
    scene.journal.note(Record(State.CLONED, "k0", EPOCH, 1, clone_uuid=clones(1)[0].resource_uuid))
    assert scene.run(accept_changes=True) == {"cloned": 2, "failed": 1}
    assert scene.server.count("submit") == 1


@pytest.mark.parametrize("is_known", [True, False], ids=["job known", "job purged"])
def test_an_edited_uuid_is_sent_where_nothing_was_executed_under_the_old_one(*, is_known: bool) -> None:
    """The job's end without execution is on record: no failure has to be retried first."""
    clone, old, job = clones(3)[2], EPOCH - 7200, "c" * 32
    sent = (clone.source_uuid, "f" * 32, "9" * 32, 0, None, old, old)
    jobs = (SentJob(job, "9" * 32, 1, is_answered=True, is_unexecuted=True),)
    scene = Scene(count=3, intents={"k2": Intent("k2", State.PLANNED, *sent, open_jobs=(job,), sent_jobs=jobs)})
    scene.journal.note(Record(State.CLONED, "k0", EPOCH, 1, clone_uuid=clones(1)[0].resource_uuid))
    if is_known:
        scene.server.ends[job] = Refused(ApiError(ErrorClass.FATAL, "LICENSE.1003", "expired"))
    assert scene.run(accept_changes=True) == {"cloned": 3}
