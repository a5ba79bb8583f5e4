"""Ownership of clones: the hand-over to other accounts, and clones that another account may have made.

In the hand-over, the last phase of a run, clones are shared and their owners changed. That a query of this account does
not show what another one may have made proves nothing. Source: zstack/README.md 8.
"""

from __future__ import annotations

from asyncio import to_thread
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from batch.clock import SystemClock
from batch.engine.handover import doubt_until, hand_over_all
from batch.engine.survey import is_made
from batch.errors import ManifestError
from batch.keytable import digest_prefix
from batch.manifest.kinds import ConnectedLine, StartedLine
from batch.manifest.reader import open_reader
from batch.manifest.records import parse_line
from batch.model import Record, State
from batch.text import iso
from batch.zstack.answers import Absent, ApiError, ErrorClass, Refused
from batch.zstack.queries import QueryApi
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from batch.app.logs import LoggingJournal
    from batch.engine import Stop
    from batch.engine.ports import Api
    from batch.engine.survey import FinalStates
    from batch.manifest import Manifest
    from batch.manifest.kinds import Line
    from batch.model import Clone, Plan
    from batch.zstack.answers import FindAnswer, PollAnswer, SubmitAnswer
    from batch.zstack.client import Client

_UNNAMED: Final = "?"
"""An account whose line in the manifest was lost."""


async def hand_over(
    plan: Plan, manifest: Manifest, client: Client, *, journal: LoggingJournal, workers: int, stop: Stop
) -> None:
    """Hand over each clone of the plan whose hand-over is pending, unless the run is stopping.

    Raises RunStoppedError, and ManifestError if the manifest has another uuid than the one requested for a clone.
    """
    if stop.requested:
        return
    from batch.zstack.queries import Ownership

    await manifest.flush()
    uuid_of = await to_thread(uuids_of, plan, manifest, journal.made)
    await to_thread(log_doubts, plan, manifest.past)
    await hand_over_all(
        plan,
        manifest.past,
        registrar=Ownership(client),
        journal=journal,
        clock=SystemClock(),
        workers=workers,
        stop=stop,
        uuid_of=uuid_of,
    )


def log_doubts(plan: Plan, past: FinalStates) -> None:
    """Log each hand-over that waits, as an earlier one to another owner may still be executed."""
    now, logger = SystemClock().time(), structlog.get_logger()
    for clone in plan.clones() if plan.hand_overs else ():
        until = doubt_until(clone, past)
        if until > now and clone.hand_over is not None:
            text = "an earlier hand-over to another owner may still be executed: run again after that time"
            logger.warning("clone.hand_over_waits", key=clone.key, until=iso(until), error=text)


def uuids_of(plan: Plan, manifest: Manifest, made: Mapping[str, str]) -> Callable[[Clone], str | None]:
    """Return a function from a clone to the uuid to hand over, or None; ``made``: uuids this process cloned, by key.

    Raises ManifestError.
    """
    past = manifest.past
    others = _find_others(plan, manifest) if plan.hand_overs else set()

    def uuid_of(clone: Clone) -> str | None:
        if past.was_made_elsewhere(clone.key):
            return None
        if past.is_at_most_once and clone.key in made:
            return made[clone.key]
        return None if clone.key in others else clone.resource_uuid

    return uuid_of


def _find_others(plan: Plan, manifest: Manifest) -> set[str]:
    """Return the keys of clones with another uuid than the plan requests: the server's choice, or of an edited target.

    A uuid that only the manifest names is never used: anyone who can write the manifest could name any resource.
    Raises ManifestError with the line of such a clone, unless its target was edited or the run is at most once.
    """
    from batch.manifest import clone_lines

    past = manifest.past
    used = {clone.key: clone for clone in plan.clones() if clone.hand_over is not None and is_made(clone, past)}
    others: set[str] = set()
    # For a target that was cloned again, its latest clone counts.
    last = {record.key: (line, record) for line, record in clone_lines(manifest.path) if record.key in used}
    for line, record in last.values():
        clone = used[record.key]
        if record.clone_uuid == clone.resource_uuid:
            continue
        final = past.final(record.key)
        is_same = final is None or final[1] in (0, digest_prefix(clone.digest))
        if is_same and not past.is_at_most_once:
            raise ManifestError(
                f"{manifest.path}: line {line} says that {record.key} was made as {record.clone_uuid}, but "
                f"{clone.resource_uuid} was requested: nothing is handed over; check who wrote the manifest"
            )
        others.add(record.key)
    return others


async def api_of_account(client: Client, manifest: Manifest) -> Api:
    """Return the Api of a run: ``client``, or one that refuses queries that would prove nothing."""
    past = manifest.past
    # A damaged line may have named another account.
    if not past.intents or (len(past.users.accounts) < 2 and not past.is_repaired):
        return client
    try:
        identity = await QueryApi(client).identity()
    except CallFailedError:
        return client
    if identity.is_admin or identity.account is None:
        return client
    await manifest.flush()
    makers = await to_thread(find_makers, manifest.path, identity.account.uuid, is_repaired=past.is_repaired)
    return _AccountApi(client, makers) if makers else client


class _Attempt(NamedTuple):
    """An attempt that another account sent, without a known end."""

    sent: Record
    account: str


def find_makers(path: Path, account: str, *, is_repaired: bool) -> dict[str, str]:
    """Return by resource uuid the account, other than ``account``, that may have made it. Raises ManifestError.

    ``is_repaired``: whether the lines that name accounts may be lost, so that an unnamed one may be any.
    """
    attempts: dict[str, _Attempt] = {}
    unnamed = _UNNAMED if is_repaired else None
    caller = unnamed
    with open_reader(path) as manifest:
        for body in manifest.bodies():
            line = parse_line(body)
            if isinstance(line, StartedLine | ConnectedLine):
                caller = (line.account if isinstance(line, ConnectedLine) else None) or unnamed
            else:
                _add(attempts, line, None if caller == account else caller)
    return {one.sent.resource_uuid: one.account for one in attempts.values() if one.sent.resource_uuid}


def _add(attempts: dict[str, _Attempt], line: Line, other: str | None) -> None:
    """Add a line; ``other``: the account that wrote it, None where it is our own or unknown."""
    if not isinstance(line, Record):
        return
    is_sent, known = line.state is State.SENT, attempts.get(line.key)
    if is_sent and other is not None:
        attempts[line.key] = _Attempt(line, other)
    elif known is not None and line.state not in {State.ACCEPTED, State.UNCERTAIN}:
        is_repeat = is_sent and line.job_uuid == known.sent.job_uuid
        if not (is_repeat or line.open_jobs):
            del attempts[line.key]


class _AccountApi:
    """An Api whose queries show nothing of what other accounts may have made, and say so."""

    def __init__(self, api: Api, makers: Mapping[str, str]) -> None:
        self._api = api
        self._makers = makers

    async def submit(self, clone: Clone, job_uuid: str) -> SubmitAnswer:
        return await self._api.submit(clone, job_uuid)

    async def poll(self, job_uuid: str) -> PollAnswer:
        return await self._api.poll(job_uuid)

    async def find(self, resource_uuid: str) -> FindAnswer:
        answer = await self._api.find(resource_uuid)
        maker = self._makers.get(resource_uuid)
        if maker is None or not isinstance(answer, Absent):
            return answer
        who = "an account on a lost line of the manifest" if maker == _UNNAMED else f"the account {maker}"
        text = f"{who} sent it, and this account does not see its services: run again as that account or as admin"
        return Refused(ApiError(ErrorClass.PERMANENT, "ZCLONE.UNCERTAIN", text))

    async def renew(self) -> None:
        await self._api.renew()
