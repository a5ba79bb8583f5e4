"""Mistakes about the meaning of failed, conflict and planned, planted in the real code one at a time."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from batch.engine import attempts, clone_records, comparison, decisions, pool, settle, steps
from batch.engine.policy import Policy
from batch.manifest import folds, records, repair
from batch.zstack import classify
from batch.zstack.answers import ApiError, ErrorClass, Refused, Running, Unknown
from batch.zstack.codes import UNKNOWN
from tests.simulation.mutants import Mutant

if TYPE_CHECKING:
    import pytest


def refused_look_takes_back(patch: pytest.MonkeyPatch) -> None:
    """Any error that stops the run proves that the attempt was never executed."""
    abort = settle._abort
    patch.setattr(settle, "_abort", lambda step, *rest: abort(replace(step, is_unsent=True), *rest))


def last_attempt_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    """The end of the last attempt is the end of every attempt."""
    give_up = attempts._give_up

    def alone(look: steps.Look, known: attempts.DecisionContext) -> steps.Step:
        return give_up(replace(look, ticket=look.ticket._replace(open_jobs=())), known)

    patch.setattr(attempts, "_give_up", alone)


def refused_repetition_ends(patch: pytest.MonkeyPatch) -> None:
    """A refusal of a job uuid that was sent before is the end of the first POST."""
    refused = decisions._refused_post
    patch.setattr(decisions, "_refused_post", lambda error, ticket: refused(error, ticket._replace(is_repeat=False)))


def patience_is_the_bound(patch: pytest.MonkeyPatch) -> None:
    """A job is over when the user's timeout has passed."""
    patch.setattr(Policy, "expires_at", lambda self, sent_at, api_timeout: sent_at + (self.timeout or 0.0))


def running_is_over(patch: pytest.MonkeyPatch) -> None:
    """A running job of an earlier attempt does not prevent failed."""
    review = decisions.after_review

    def after_review(answer: Any, *given: Any, **known: Any) -> steps.Step:
        if isinstance(answer, Running | Unknown):
            answer = Refused(ApiError(ErrorClass.PERMANENT, "SYS.1003", ""))
        return review(answer, *given, **known)

    patch.setattr(settle, "after_review", after_review)


def at_most_once_of_one_process(patch: pytest.MonkeyPatch) -> None:
    """Each process knows only its own --at-most-once."""
    started = records._parse_started
    patch.setitem(records._PARSERS, "started", lambda found: replace(started(found), at_most_once=False))


def at_most_once_retries_failures(patch: pytest.MonkeyPatch) -> None:
    """A failure that the server reports is sent again at most once, too."""
    retry = attempts._retry

    def unbound(look: steps.Look, error: Any, known: attempts.DecisionContext) -> steps.Step:
        step = retry(look, error, replace(known, policy=replace(known.policy, at_most_once=False)))
        return step._replace(needs_confirmation=False) if isinstance(step, steps.Send) else step

    patch.setattr(attempts, "_retry", unbound)


def inner_code_decides(patch: pytest.MonkeyPatch) -> None:
    """The innermost code of an error's causes is its class."""

    def decide(nodes: list[Any]) -> tuple[str, Any, bool]:
        heal_and_check = [classify._classify_node(node) for node in nodes]
        code, rule = next((pair for pair in reversed(heal_and_check) if pair[1] is not UNKNOWN), heal_and_check[0])
        return code, rule, False

    patch.setattr(classify, "_decide", decide)


def given_uuid_is_ours(patch: pytest.MonkeyPatch) -> None:
    """Nothing checks whether a uuid given by the job file is in use before it is sent."""
    for module in (clone_records, pool):
        patch.setattr(module, "look_before", lambda clone, step, *, now: step)


def edited_target_is_asked_as_it_is_now(patch: pytest.MonkeyPatch) -> None:
    """An open attempt is queried with the current job file."""

    def resumed(self: pool.Pool, clone: Any, intent: Any) -> Any:
        return clone, clone_records.first_step(intent, self._deps.policy, now=self._deps.clock.time())

    patch.setattr(pool.Pool, "_resumed", resumed)


def free_sends_without_end(patch: pytest.MonkeyPatch) -> None:
    """What charges no attempt is sent again without a limit."""
    after = attempts._after_failure

    def after_failure(look: steps.Look, *rest: Any) -> steps.Step:
        return after(replace(look, ticket=look.ticket._replace(uncharged=0)), *rest)

    patch.setattr(attempts, "_after_failure", after_failure)


def node_codes_charge(patch: pytest.MonkeyPatch) -> None:
    """What a node reports about itself counts against the target."""
    patch.setattr(attempts, "_UNCHARGED", frozenset({ErrorClass.RENEW, ErrorClass.FATAL}))


def repair_names_closed_jobs(patch: pytest.MonkeyPatch) -> None:
    """A repaired target is queried by the last recorded job uuid, also of one that ended before a retry."""
    patch.setattr(repair, "_jobs", lambda target, line: (line.job_uuid or target.job_uuid, target.open_jobs))
    bodies = repair._bodies

    def without_unknown(*given: Any) -> Any:
        for body in bodies(*given):
            yield body.replace(b',"open_jobs":["unknown"]', b"")

    patch.setattr(repair, "_bodies", without_unknown)


def future_is_believed(patch: pytest.MonkeyPatch) -> None:
    """Recorded times are right, also those of a clock that was ahead."""
    first = clone_records.first_step
    patch.setattr(clone_records, "first_step", lambda intent, policy, *, now: first(intent, policy, now=inf))


def proof_not_needed(patch: pytest.MonkeyPatch) -> None:
    """Every server is taken to honour resourceUuid."""
    patch.setattr(settle.Dependencies, "context", lambda self: attempts.DecisionContext(self.policy, self.clock.time()))
    patch.setattr(
        settle,
        "_is_forbidden",
        lambda step, world: isinstance(step, steps.Send) and world.stop.requested,
    )


def any_row_is_proof(patch: pytest.MonkeyPatch) -> None:
    """Any service under the requested uuid shows that the server honours resourceUuid."""
    patch.setattr(comparison, "differing_params", lambda clone, service: [])


def late_proof_changes_nothing(patch: pytest.MonkeyPatch) -> None:
    """What ended in doubt before the proof came waits for the operator, although it may now be sent again."""
    patch.setattr(pool, "record_end", lambda *_: None)


def visible_is_made(patch: pytest.MonkeyPatch) -> None:
    """What is visible while its job runs is cloned, although the job may fail yet."""
    patch.setattr(attempts.DecisionContext, "is_in_time", lambda *_: False)


def facts_of_the_last_job(patch: pytest.MonkeyPatch) -> None:
    """Only the last job's facts are kept; an earlier one that is the last again has none."""
    jobs_of = folds._jobs_of

    def last_only(known: Any, record: Any) -> Any:
        jobs = jobs_of(known, record)
        for uuid, job in jobs.items():
            if uuid != (record.job_uuid or known.job_uuid):
                jobs[uuid] = job._replace(digest=known.digest, is_answered=False, is_repeat=False)
        return jobs

    patch.setattr(folds, "_jobs_of", last_only)


def early_row_is_made(patch: pytest.MonkeyPatch) -> None:
    """What is visible after the end of a later attempt is cloned, although the earlier job may take it back."""
    alike = comparison._alike
    patch.setattr(
        comparison, "_alike", lambda service, look, *rest: alike(service, replace(look, is_reviewed=True), *rest)
    )


def flag_forgives_the_past(patch: pytest.MonkeyPatch) -> None:
    """What was sent before --at-most-once was first given does not count."""
    patch.setattr(folds, "_was_repeated", lambda records: False)


def damage_hides_nothing(patch: pytest.MonkeyPatch) -> None:
    """Only the legible lines of a damaged last batch may have sent anything."""
    patch.setattr(repair, "_may_hide_posts", lambda *_: False)


HOLES = (
    Mutant("a refused look takes back", refused_look_takes_back, 10, "wider"),
    Mutant("the last attempt speaks for all", last_attempt_speaks_for_all, 150, "attempts"),
    Mutant("a refused repetition ends", refused_repetition_ends, 150, "repeated"),
    Mutant("patience is the bound", patience_is_the_bound, 80, "attempts"),
    Mutant("running is over", running_is_over, 150, "attempts"),
    Mutant("at most once of one process", at_most_once_of_one_process, 15, "at most once"),
    Mutant("at most once retries failures", at_most_once_retries_failures, 10, "at most once"),
    Mutant("an inner code decides", inner_code_decides, 40, "at most once"),
    Mutant("a given uuid is ours", given_uuid_is_ours, 20, "edits"),
    Mutant("edited targets asked as they are now", edited_target_is_asked_as_it_is_now, 250, "edits"),
    Mutant("free sends without end", free_sends_without_end, 40, "away"),
    Mutant("node codes charge", node_codes_charge, 20, "away"),
    Mutant("repair names closed jobs", repair_names_closed_jobs, 10, "retried"),
    Mutant("the future is believed", future_is_believed, 5, "clocks"),
    Mutant("proof is not needed", proof_not_needed, 10, "unproven"),
    Mutant("any row is proof", any_row_is_proof, 40, "unproven"),
    Mutant("late proof changes nothing", late_proof_changes_nothing, 40, "late proof"),
    Mutant("what is visible is made", visible_is_made, 10, "shown early"),
    Mutant("facts of the last job only", facts_of_the_last_job, 250, "taken back"),
    Mutant("an early row is made", early_row_is_made, 40, "early rows"),
    Mutant("the flag forgives the past", flag_forgives_the_past, 600, "late flag"),
    Mutant("damage hides nothing", damage_hides_nothing, 700, "damaged end"),
)
