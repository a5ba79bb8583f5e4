"""Mistakes planted in the real code, one at a time: each removes something the protocol relies on."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch.engine import admission, attempts, breaker, clone_records, decisions, gate, policy, pool, settle, steps
from batch.errors import ManifestError, RunStoppedError
from batch.manifest import chain, files, journal, line, opening
from batch.model import CallKind, State
from batch.zstack import auth, client
from batch.zstack.answers import NoAnswer
from tests.simulation.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from batch.model import Clone, Intent, Record


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake."""

    name: str
    plant: Callable[[pytest.MonkeyPatch], None]
    within: int
    """Schedules in which it must be found: several times as many as it takes today."""
    schedule: str = "random"


def no_record(patch: pytest.MonkeyPatch) -> None:
    """The record of a POST is not waited for."""

    async def commit(self: journal.Manifest, record: Record) -> None:
        self.note(record)

    patch.setattr(journal.Manifest, "commit", commit)


def _with_uuid(clone: Clone, uuid: str | None) -> Clone:
    body = json.loads(clone.body)
    body["params"].pop("resourceUuid")
    if uuid is not None:
        body["params"]["resourceUuid"] = uuid
    return clone._replace(body=json.dumps(body, separators=(",", ":")).encode())


def no_resource_uuid(patch: pytest.MonkeyPatch) -> None:
    """The body has no resourceUuid."""
    submit = client.Client.submit
    patch.setattr(client.Client, "submit", lambda self, clone, job: submit(self, _with_uuid(clone, None), job))


def new_uuid_per_attempt(patch: pytest.MonkeyPatch) -> None:
    """Every further POST of a target has its own resource uuid, in record, body and lookup alike."""
    send = settle._send

    async def again(step: steps.Send, clone: Clone, world: settle.Dependencies) -> steps.Step:
        if step.attempt > 1:
            drawn = hashlib.sha256(f"{clone.resource_uuid}{step.attempt}".encode()).hexdigest()
            uuid = f"{drawn[:12]}4{drawn[13:16]}8{drawn[17:32]}"
            clone = _with_uuid(clone, uuid)._replace(resource_uuid=uuid)
        return await send(step, clone, world)

    patch.setattr(settle, "_send", again)


def no_sync(patch: pytest.MonkeyPatch) -> None:
    """Records are written and not synced."""

    def write(self: files.Writer, bodies: list[bytes]) -> None:
        synced = self._files.sync
        patch.setattr(self._files, "sync", lambda handle: None, raising=False)
        try:
            original(self, bodies)
        finally:
            patch.setattr(self._files, "sync", synced)

    original = files.Writer.write
    patch.setattr(files.Writer, "write", write)


def torn_tail_kept(patch: pytest.MonkeyPatch) -> None:
    """What a power cut left of the last line stays, and the next line follows it."""
    patch.setattr(opening._Opening, "_cut_tail", lambda self, scan: None)


def no_checksum(patch: pytest.MonkeyPatch) -> None:
    """Any line of JSON is believed."""

    def follow(self: chain.Scan, lines: list[bytes]) -> list[bytes]:
        bodies = []
        for text in lines:
            body = text[: -line.SEAL]
            try:
                json.loads(body + b"}")
            except ValueError:
                break
            self.crc = int(text[-10:-2], 16)
            bodies.append(body)
        if bodies:
            self.line += len(bodies)
            self.offset += sum(map(len, bodies)) + len(bodies) * (line.SEAL + 1)
            self.last = bodies[-1]
        return bodies

    patch.setattr(chain.Scan, "_follow", follow)


def no_reconcile(patch: pytest.MonkeyPatch) -> None:
    """An unanswered POST is sent again at once, by the same process and by the next."""
    after, first = decisions.after_submit, clone_records.first_step

    def after_submit(answer: Any, ticket: steps.Ticket, **rest: Any) -> steps.Step:
        if isinstance(answer, NoAnswer) and ticket.attempt < rest["policy"].attempts:
            return steps.Send(ticket.attempt + 1, ticket.job_uuid, ticket.first_sent_at)
        return after(answer, ticket, **rest)

    def first_step(intent: Intent, policy: Any, *, now: float) -> steps.Step:
        step = first(intent, policy, now=now)
        if isinstance(step, steps.Poll) and step.ticket.attempt < policy.attempts:
            return steps.Send(step.ticket.attempt + 1, step.ticket.job_uuid, step.ticket.first_sent_at)
        return step

    patch.setattr(settle, "after_submit", after_submit)
    patch.setattr(clone_records, "first_step", first_step)


def new_job_each_time(patch: pytest.MonkeyPatch) -> None:
    """The job uuid is drawn anew for every POST, even if the old one had no end."""
    invisible = attempts.after_absence

    def always_new(*given: Any) -> steps.Step:
        step = invisible(*given)
        return step._replace(job_uuid=None) if isinstance(step, steps.Send) else step

    patch.setattr(decisions, "after_absence", always_new)


def deadline_reset(patch: pytest.MonkeyPatch) -> None:
    """Each process waits for a job as if it had just been sent."""
    first = clone_records.first_step

    def first_step(intent: Intent, policy: Any, *, now: float) -> steps.Step:
        step = first(intent, policy, now=now)
        if not isinstance(step, steps.Poll):
            return step
        now = EPOCH + asyncio.get_running_loop().time()
        return step._replace(ticket=step.ticket._replace(deadline=now + policy.window(None)))

    patch.setattr(clone_records, "first_step", first_step)


def failed_instead_of_uncertain(patch: pytest.MonkeyPatch) -> None:
    """Unknown ends are called failed."""
    end_uncertain = attempts.end_uncertain
    for module in (attempts, decisions):
        patch.setattr(module, "end_uncertain", lambda *given: end_uncertain(*given)._replace(state=State.FAILED))


def login_per_worker(patch: pytest.MonkeyPatch) -> None:
    """Every caller that meets a dead session logs in."""

    async def renew(self: auth.PasswordLogin) -> None:
        await self._login(1, RunStoppedError)

    patch.setattr(auth.PasswordLogin, "renew", renew)


def retry_outside_gate(patch: pytest.MonkeyPatch) -> None:
    """A retried POST does not wait for its turn."""
    resend, wait = settle._resend, gate.Gate.wait
    is_retry = contextvars.ContextVar("is_retry", default=False)

    async def resend_at_once(*given: Any) -> steps.Step:
        is_retry.set(True)
        try:
            return await resend(*given)
        finally:
            is_retry.set(False)

    async def wait_turn(self: gate.Gate, kind: CallKind, job_uuid: str = "") -> bool:
        return not self._is_forbidden(kind) if is_retry.get() else await wait(self, kind, job_uuid)

    patch.setattr(settle, "_resend", resend_at_once)
    patch.setattr(gate.Gate, "wait", wait_turn)


def name_not_synced(patch: pytest.MonkeyPatch) -> None:
    """An existing manifest is not made durable before it is relied on. Once a bug, found by seed 7."""
    fold_ = opening._Opening.fold

    def fold(self: opening._Opening) -> Any:
        if self._read(0, 1):
            patch.setattr(self._files, "sync_directory", lambda path: None, raising=False)
        return fold_(self)

    patch.setattr(opening._Opening, "fold", fold)


def found_lines_not_synced(patch: pytest.MonkeyPatch) -> None:
    """Lines of a killed process are trusted as if durable. Once a bug, found by seed 824."""
    fold_ = opening._Opening.fold

    def fold(self: opening._Opening) -> Any:
        sync, was_there = self._files.sync, bool(self._read(0, 1))
        if was_there:
            patch.setattr(self._files, "sync", lambda handle: None, raising=False)
        found = fold_(self)
        if was_there:
            patch.setattr(self._files, "sync", sync)
        return found

    patch.setattr(opening._Opening, "fold", fold)


def posts_after_failed_write(patch: pytest.MonkeyPatch) -> None:
    """A failed write holds only its own records' POSTs back. Once a bug, found by seed 9197."""
    patch.setattr(journal.Manifest, "on_failure", lambda self, hook: None)


def header_remains_refused(patch: pytest.MonkeyPatch) -> None:
    """The rest of a header after a power cut is taken for a foreign file. Once a bug, found by seed 11305."""

    def require_field(self: opening._Opening) -> None:
        if self._read(0, 1):
            raise ManifestError("is not a zclone manifest")

    patch.setattr(opening._Opening, "_require_ours", require_field)


def budget_ignored(patch: pytest.MonkeyPatch) -> None:
    """Every retry is allowed."""

    async def reserve(self: policy.RetryBudget, cost: float, stop: Any) -> None:
        self._under_way += 1

    patch.setattr(policy.RetryBudget, "reserve", reserve)


def nothing_holds_back(patch: pytest.MonkeyPatch) -> None:
    """Neither the budget nor the breaker."""

    async def guard(self: breaker.Breaker, call: Any, **probe: Any) -> Any:
        return await call()

    budget_ignored(patch)
    patch.setattr(breaker.Breaker, "guard", guard)


def crashes_not_counted(patch: pytest.MonkeyPatch) -> None:
    """The clones in flight at a crash are not recorded."""

    async def take_up(self: journal.Manifest, keys: Any) -> None:
        return None

    patch.setattr(journal.Manifest, "take_up", take_up)


def isolated_in_the_pool(patch: pytest.MonkeyPatch) -> None:
    """Clones in flight at repeated crashes go with everything else."""
    sort = admission.sort_by_crashes

    def sort_by_crashes(*given: Any) -> admission.OpenClones:
        found = sort(*given)
        return admission.OpenClones(found.ordinary + found.isolated, (), found.quarantined)

    patch.setattr(pool, "sort_by_crashes", sort_by_crashes)


MUTANTS = (
    Mutant("no record before POST", no_record, 10),
    Mutant("no resource uuid", no_resource_uuid, 10),
    Mutant("new resource uuid per attempt", new_uuid_per_attempt, 30),
    Mutant("no fsync", no_sync, 10),
    Mutant("append after a torn tail", torn_tail_kept, 40, "crashes"),
    Mutant("no CRC", no_checksum, 40, "corrupted"),
    Mutant("no reconcile before re-send", no_reconcile, 30),
    Mutant("new job uuid each loop", new_job_each_time, 60),
    Mutant("deadline reset by restart", deadline_reset, 20, "stuck"),
    Mutant("failed instead of uncertain", failed_instead_of_uncertain, 20, "stuck"),
    Mutant("login per worker", login_per_worker, 20, "expiries"),
    Mutant("retry outside the gate", retry_outside_gate, 20, "outages"),
    Mutant("name not synced", name_not_synced, 250, "crashes"),
    Mutant("found lines not synced", found_lines_not_synced, 40, "unsynced"),
    Mutant("POSTs after a failed write", posts_after_failed_write, 30, "bad disks"),
    Mutant("header's remains refused", header_remains_refused, 100, "crashes"),
    Mutant("budget ignored", budget_ignored, 2, "deaf"),
    Mutant("nothing holds retries back", nothing_holds_back, 8, "blackouts"),
    Mutant("crashes not counted", crashes_not_counted, 5, "quarantine"),
    Mutant("isolated clones in the pool", isolated_in_the_pool, 40, "quarantine"),
)
"""The twelve that must be found, then four that were bugs, then the rules of retrying."""
