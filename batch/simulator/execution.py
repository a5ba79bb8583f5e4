"""Api jobs from 202 to their result: row, check stage, handler, completion, web hook (wire: sections 0, 3.3, 4, 5)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from batch.simulator import mediator
from batch.simulator.agenda import Agenda, Pool
from batch.simulator.codes import ApiFailureError, ErrorCode, RestError
from batch.simulator.faults import Fault, FaultKind
from batch.simulator.jobs import JobStore, Outcome
from batch.simulator.resources import Resource
from batch.simulator.services import INVENTORY
from batch.simulator.wire import Json, WebHook, event_json

if TYPE_CHECKING:
    from random import Random

    from batch.simulator.api import Call, World
    from batch.simulator.options import Account

_NO_ROW: Final = frozenset({FaultKind.ROW_MISSING})
_UNSENT: Final = frozenset({FaultKind.ORPHAN, FaultKind.ORPHAN_500})


class Execution:
    """Runs async API messages in the node's memory: what is under way dies with the node."""

    def __init__(self, world: World, jobs: JobStore, agenda: Agenda, rng: Random) -> None:
        """Draw latencies from ``rng`` at acceptance, in the order of requests."""
        self._world = world
        self._jobs = jobs
        self._agenda = agenda
        self._rng = rng
        self.pool = Pool(world.options.workers, world.options.check_seconds)
        self.hooks: list[WebHook] = []
        """Web hooks to call now; whoever owns the network takes them and reports back."""

    def accept(self, call: Call, now: float) -> None:
        """Write the row, then send the message. Raises RestError 500 when sending fails after the row."""
        kind = call.fault.kind if call.fault is not None else None
        if kind not in _NO_ROW and not self._world.options.loses_rows:
            self._jobs.insert(call.id, now)
            self._world.emit({"e": "row", "j": call.id, "t": now})
        if kind is FaultKind.ORPHAN_500:
            raise RestError(500, "unable to send message to the bus")
        if kind not in _UNSENT:
            for _ in range(2 if kind is FaultKind.TWO_RUNS else 1):
                self._send(call, now)

    def hook_answered(self, hook: WebHook, now: float, *, ok: bool) -> None:
        """Repeat a web hook that was not taken, up to the number of tries; then it is given up for ever."""
        options = self._world.options
        if not ok and hook.attempt < options.hook_tries:
            again = WebHook(hook.url, hook.headers, hook.body, hook.attempt + 1)
            self._agenda.add(now + options.hook_pause, lambda _: self.hooks.append(again))

    def render(self, outcome: Outcome, *, with_schema: bool = False) -> bytes:
        """Write the body of a finished job."""
        content = outcome.content
        if isinstance(content, Resource):
            schema = {"inventory": INVENTORY} if with_schema else None
            return self._json({"inventory": self._world.estate.inventory(content), "schema": schema})
        return content

    def _send(self, call: Call, now: float) -> None:
        self._world.ledger.job_started()
        seconds = self._rng.uniform(*self._world.options.latency)
        self._agenda.add(self.pool.pass_(now), partial(self._check, call, seconds))

    def _check(self, call: Call, seconds: float, now: float) -> None:
        try:
            account = mediator.check(self._world, call, now)
        except ApiFailureError as failure:
            self._complete(call, self._failed(failure.error), now)
            return
        if self._world.options.honours_validation_only and mediator.is_validation_only(call):
            self._complete(call, Outcome(ok=True, content=self._json({})), now)
            return
        self._agenda.add(now + seconds / 2, partial(self._execute, call, account, seconds / 2))

    def _execute(self, call: Call, account: Account | None, rest: float, now: float) -> None:
        outcome = self._run(call, account, now)
        self._agenda.add(now + rest, partial(self._complete, call, outcome))

    def _run(self, call: Call, account: Account | None, now: float) -> Outcome:
        fault = call.fault
        if fault is not None and fault.kind in {FaultKind.FAIL, FaultKind.FAIL_THEN_CREATE}:
            if fault.kind is FaultKind.FAIL_THEN_CREATE:
                self._agenda.add(now + fault.seconds, partial(self._run_unheard, call, account))
            return self._failed(self._injected(fault))
        outcome = self._handle(call, account, now)
        if fault is not None and fault.kind is FaultKind.FAIL_CREATED:
            return self._failed(self._injected(fault))
        return outcome

    def _run_unheard(self, call: Call, account: Account | None, now: float) -> None:
        self._handle(call, account, now)

    def _handle(self, call: Call, account: Account | None, now: float) -> Outcome:
        try:
            result = call.api.run(self._world, call, account, now)
        except ApiFailureError as failure:
            return self._failed(failure.error)
        return Outcome(ok=True, content=result if isinstance(result, Resource) else self._json(result))

    def _injected(self, fault: Fault) -> ErrorCode:
        speech = self._world.speech
        cause = speech.error(fault.cause, "agent") if fault.cause is not None else None
        if fault.code == "SYS.1001":
            return speech.error(fault.code, "timeout", self._world.options.api_timeout_ms, cause=cause)
        return speech.error(fault.code, "injected", fault.code, cause=cause)

    def _failed(self, error: ErrorCode) -> Outcome:
        return Outcome(ok=False, content=self._json({"error": self._world.speech.json(error)}))

    def _complete(self, call: Call, outcome: Outcome, _now: float) -> None:
        self._world.ledger.job_ended()
        kind = call.fault.kind if call.fault is not None else None
        if kind is FaultKind.RESULT_LOST:
            return
        self._jobs.complete(call.id, outcome)
        self._world.emit(_done_event(call.id, outcome))
        if kind is FaultKind.PURGED:
            self._jobs.vanish(call.id)
            self._world.emit({"e": "vanish", "j": call.id})
        if call.hook is not None:
            self.hooks.append(self._hook(call, outcome))

    def _hook(self, call: Call, outcome: Outcome) -> WebHook:
        headers = (
            ("Content-Type", "application/json; charset=utf-8"),
            ("X-Job-UUID", call.id),
            ("X-Job-Success", "true" if outcome.ok else "false"),
        )
        return WebHook(call.hook or "", headers, self.render(outcome))

    def _json(self, value: Json) -> bytes:
        return event_json(value, html_escape=self._world.options.html_escape)


def _done_event(job: str, outcome: Outcome) -> Json:
    if isinstance(outcome.content, Resource):
        return {"e": "done", "j": job, "u": outcome.content.uuid}
    return {"e": "done", "j": job, "k": outcome.ok, "b": outcome.content.decode()}
