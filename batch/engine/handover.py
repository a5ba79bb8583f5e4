"""Hand-overs after the pool: clones are shared, then given to their owners. Both calls are idempotent.

Sharing comes first: an account that gives a clone away may lose the right to share it. Nothing is recorded before the
calls: a process that is killed between them leaves the hand-over open, and the next one repeats all of it.

After a refusal of ChangeResourceOwner the owner is queried, as ZStack refuses to give an account what it has (ID.1004).
A hand-over is not part of a Clone's digest: its owner may be changed after the clone was made, and is another hand-over
then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from batch.engine.control import GRACE, within_grace
from batch.engine.dispatch import dispatch
from batch.engine.survey import is_made
from batch.errors import NOT_OURS, CallCutError, EndReason, RunStoppedError
from batch.model import HandOverRecord
from batch.zstack.answers import ErrorClass, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.clock import Clock
    from batch.engine.control import Stop
    from batch.engine.ports import HandOverJournal, OwnershipApi
    from batch.engine.survey import FinalStates
    from batch.model import Clone, HandOver, Plan
    from batch.zstack.answers import NoAnswer, NotSent

_DEFINITE: Final = frozenset({ErrorClass.PERMANENT, ErrorClass.AMBIGUOUS})
"""Classes of refusals that concern this one clone; after any other no hand-over can succeed now."""
_PAUSE_EVERY: Final = 512
_NOT_OURS_TEXT: Final = (
    "nothing shows that this run made it, so it is not handed over: if it is yours, share it and change its owner on "
    "the server, then remove owner and share_with from the target"
)


def waiting_clones(plan: Plan, past: FinalStates) -> Iterator[Clone | None]:
    """Yield the existing Clones that are not handed over as wanted; None now and then while skipping others."""
    for number, clone in enumerate(plan.clones()):
        wanted = clone.hand_over
        if wanted is not None and is_made(clone, past) and not past.hand_overs.is_done(clone.key, wanted):
            yield clone
        elif number % _PAUSE_EVERY == 0:
            yield None


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
    phase = _Phase(registrar, journal, clock, uuid_of)
    waiting = waiting_clones(plan, past)
    work = dispatch(waiting, phase.hand_over, workers=workers, is_stopped=lambda: stop.requested)
    await within_grace(work, stop, grace)


class _Phase:
    """Hands over single clones and records the results."""

    def __init__(
        self, registrar: OwnershipApi, journal: HandOverJournal, clock: Clock, uuid_of: Callable[[Clone], str | None]
    ) -> None:
        self._registrar = registrar
        self._journal = journal
        self._clock = clock
        self._uuid_of = uuid_of

    async def hand_over(self, clone: Clone) -> None:
        assert clone.hand_over is not None
        uuid = self._uuid_of(clone)
        if uuid is None:
            self._note(clone, "", NOT_OURS, _NOT_OURS_TEXT)
            return
        try:
            failed = await self._answer(uuid, clone.hand_over)
        except CallCutError:
            # It stays open; hand-overs whose calls already have a slot may still be completed.
            return
        if failed is None:
            self._note(clone, uuid)
        elif isinstance(failed, Refused) and failed.error.error_class in _DEFINITE:
            self._note(clone, uuid, failed.error.code, failed.error.text)
        else:
            is_denied = isinstance(failed, Refused) and failed.error.error_class is ErrorClass.FATAL
            reason = EndReason.DENIED if is_denied else EndReason.OUTAGE
            raise RunStoppedError(f"hand-over of {clone.key}: {_reason(failed)}", reason)

    def _note(self, clone: Clone, uuid: str, code: str | None = None, error: str | None = None) -> None:
        assert clone.hand_over is not None
        self._journal.note_hand_over(HandOverRecord(clone.key, self._clock.time(), clone.hand_over, uuid, code, error))

    async def _answer(self, uuid: str, wanted: HandOver) -> Refused | NotSent | NoAnswer | None:
        if wanted.share_with:
            failed = await self._registrar.share(uuid, wanted.share_with)
            if failed is not None:
                return failed
        return None if wanted.owner is None else await self._registrar.give(uuid, wanted.owner)


def _reason(failed: Refused | NotSent | NoAnswer) -> str:
    return str(failed.error) if isinstance(failed, Refused) else failed.reason
