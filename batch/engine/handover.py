"""Hand-overs after the pool: clones are shared, then given to their owners. Both calls are idempotent.

Sharing comes first: an account that gives a clone away may lose the right to share it. Each try to give one away is
recorded before its call: a process that is killed leaves the hand-over open, and the next one repeats all of it. Where
that one wants another owner, it waits until the server can no longer execute the try, which might come after its own.

After a refusal of ChangeResourceOwner the owner is queried, as ZStack refuses to give an account what it has (ID.1004).
A hand-over is not part of a Clone's digest: its owner may be changed after the clone was made, and is another hand-over
then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from batch.engine.control import GRACE, within_grace
from batch.engine.dispatch import dispatch
from batch.engine.policy import Policy
from batch.engine.survey import is_made
from batch.errors import NOT_OURS, CallCutError, EndReason, RunStoppedError
from batch.model import HandOverRecord
from batch.zstack.answers import ApiError, ErrorClass, Refused, Running, may_go_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeGuard

    from batch.clock import Clock
    from batch.engine.control import Stop
    from batch.engine.ports import HandOverJournal, OwnershipApi
    from batch.engine.survey import FinalStates
    from batch.model import Clone, Plan
    from batch.zstack.answers import NoAnswer, NotSent

_DEFINITE: Final = frozenset({ErrorClass.PERMANENT, ErrorClass.AMBIGUOUS})
"""Classes of refusals that concern this one clone; after any other no hand-over can succeed now."""
_POLICY: Final = Policy()
_PAUSE_EVERY: Final = 512
_NOT_OURS_TEXT: Final = (
    "nothing shows that this run made it, so it is not handed over: if it is yours, share it and change its owner on "
    "the server, then remove owner and share_with from the target"
)


def doubt_until(clone: Clone, past: FinalStates) -> float:
    """Return when the server can no longer give a clone to another owner than is wanted; 0 where nothing may do so."""
    owner = None if clone.hand_over is None else clone.hand_over.owner
    tries = past.hand_overs.tries(clone.key)
    return max((last + _longest_job(past) for other, (_, last) in tries.items() if other != owner), default=0.0)


def waiting_clones(plan: Plan, past: FinalStates, now: float) -> Iterator[Clone | None]:
    """Yield the existing Clones to hand over as wanted ``now``; None now and then while skipping others."""
    for number, clone in enumerate(plan.clones()):
        wanted = clone.hand_over
        is_left = wanted is not None and is_made(clone, past) and not past.hand_overs.is_done(clone.key, wanted)
        if is_left and doubt_until(clone, past) <= now:
            yield clone
        elif number % _PAUSE_EVERY == 0:
            yield None


def _longest_job(past: FinalStates) -> float:
    return max(_POLICY.api_timeout, past.api_timeout) + _POLICY.grace


async def hand_over_all(  # noqa: PLR0913 - the composition root names each part of the phase once
    plan: Plan,
    past: FinalStates,
    *,
    registrar: OwnershipApi,
    journal: HandOverJournal,
    clock: Clock,
    workers: int,
    stop: Stop,
    uuid_of: Callable[[Clone], str | None],
    grace: float = GRACE,
) -> None:
    """Hand over every existing clone that is not handed over as the plan wants; the journal records refusals.

    ``uuid_of``: returns the uuid of a clone that this run made, None where the clone is not to be touched. Raises
    RunStoppedError where the server does not answer or no hand-over can succeed: the same run continues later.
    """
    phase = _Phase(past, registrar, journal, clock, uuid_of)
    waiting = waiting_clones(plan, past, clock.time())
    work = dispatch(waiting, phase.hand_over, workers=workers, is_stopped=lambda: stop.requested)
    await within_grace(work, stop, grace)


class _Phase:
    """Hands over single clones and records the results."""

    def __init__(
        self,
        past: FinalStates,
        registrar: OwnershipApi,
        journal: HandOverJournal,
        clock: Clock,
        uuid_of: Callable[[Clone], str | None],
    ) -> None:
        self._past = past
        self._registrar = registrar
        self._journal = journal
        self._clock = clock
        self._uuid_of = uuid_of

    async def hand_over(self, clone: Clone) -> None:
        wanted, uuid = clone.hand_over, self._uuid_of(clone)
        assert wanted is not None
        if uuid is None:
            not_ours = ApiError(ErrorClass.PERMANENT, NOT_OURS, _NOT_OURS_TEXT)
            self._journal.note_hand_over(self._line(clone, "", not_ours))
            return
        try:
            failed = await self._registrar.share(uuid, wanted.share_with) if wanted.share_with else None
            if _is_definite(failed):
                # It says nothing about an earlier try to give the clone away.
                _, last = self._tries(clone)
                self._journal.note_hand_over(self._line(clone, uuid, failed.error, self._until(last)))
            elif failed is not None:
                raise _stop_error(clone, failed)
            elif wanted.owner is None:
                self._journal.note_hand_over(self._line(clone, uuid))
            else:
                await self._give(clone, uuid, wanted.owner)
        except CallCutError:
            # It stays open; hand-overs whose calls already have a slot may still be completed.
            return

    async def _give(self, clone: Clone, uuid: str, owner: str) -> None:
        first, last = self._tries(clone)
        await self._journal.commit_try(self._line(clone, uuid))
        answer = await self._registrar.give(uuid, owner)
        now, is_open = self._clock.time(), may_go_on(answer)
        until = self._until(now if is_open else last)
        if answer is None or isinstance(answer, Running):
            self._journal.note_hand_over(self._line(clone, uuid, until=until))
        elif _is_definite(answer) and (not is_open or now >= first + _longest_job(self._past)):
            self._journal.note_hand_over(self._line(clone, uuid, answer.error, until))
        else:
            error = answer.error if _is_definite(answer) else None
            await self._journal.commit_try(self._line(clone, uuid, error), is_unexecuted=until is None)
            if not _is_definite(answer):
                raise _stop_error(clone, answer)

    def _tries(self, clone: Clone) -> tuple[float, float]:
        """Return the times of the first and the last try towards the wanted owner that have no known end."""
        owner = None if clone.hand_over is None else clone.hand_over.owner
        return self._past.hand_overs.tries(clone.key).get(owner or "", (math.inf, -math.inf))

    def _until(self, tried: float) -> float | None:
        """Return when the server can no longer execute what was tried then; None where that is over."""
        end = tried + _longest_job(self._past)
        return end if end > self._clock.time() else None

    def _line(
        self, clone: Clone, uuid: str, error: ApiError | None = None, until: float | None = None
    ) -> HandOverRecord:
        assert clone.hand_over is not None
        code, text = (None, None) if error is None else (error.code, error.text)
        return HandOverRecord(clone.key, self._clock.time(), clone.hand_over, uuid, code, text, until)


def _is_definite(answer: Refused | NotSent | NoAnswer | None) -> TypeGuard[Refused]:
    return isinstance(answer, Refused) and answer.error.error_class in _DEFINITE


def _stop_error(clone: Clone, failed: Refused | NotSent | NoAnswer) -> RunStoppedError:
    is_denied = isinstance(failed, Refused) and failed.error.error_class is ErrorClass.FATAL
    text = str(failed.error) if isinstance(failed, Refused) else failed.reason
    return RunStoppedError(f"hand-over of {clone.key}: {text}", EndReason.DENIED if is_denied else EndReason.OUTAGE)
