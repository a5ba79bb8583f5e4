"""Read the clones of a run back page by page, and compare each with the job file.

A clone is reported missing only if the answer proves it. A query shows an account what it owns or may use, so the
manifest records the account that made each clone, and hand-overs; admin sees everything. Answers omit null fields: a
field that one inventory lacks and another has is null, and a field that none has is not shown.
"""

from __future__ import annotations

import json
from array import array
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.model import State
from batch.report.verification import Finding, Verdict
from batch.zstack.calls import UUIDS_A_QUERY
from batch.zstack.params import Difference, compare, shown_names
from batch.zstack.wire import CallFailedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from batch.manifest.target_state import TargetState
    from batch.manifest.targets import Targets
    from batch.model import Clone, JsonValue, Plan
    from batch.report.verification import Verification
    from batch.zstack.calls import CloneReader, Services
    from batch.zstack.queries import Identity, QueryApi

_OPEN: Final = frozenset({State.PLANNED, State.SENT, State.ACCEPTED, State.UNCERTAIN})
_VERDICTS: Final = tuple(Verdict)
_INVISIBLE: Final = (
    "not visible to this account, which proves nothing: verify as admin, or as the account that made it, if it was "
    "never given away"
)
_PENDING: Final = "a DeleteModelService sent before may still be executed: zclone rollback continues it"
_INCOMPLETE: Final = "the server's answer was not complete"
_TAGS: Final = "userTags"


class Item(NamedTuple):
    """A recorded target with its clone in the current job file; None if it left the file."""

    ordinal: int
    target: TargetState
    clone: Clone | None


class _Answers(NamedTuple):
    """The server's answers about one page of clones."""

    services: Services
    tags: Mapping[str, set[str]]
    owners: Mapping[str, str]
    shares: Mapping[str, set[str]] | None
    """None if this account may not query it."""


class Verifier:
    """One pass over the targets of a run, which fills ``found`` and the verdicts by ordinal."""

    def __init__(
        self,
        targets: Targets,
        plan: Plan | None,
        found: Verification,
        *,
        identity: Identity,
        readback: CloneReader,
        query_api: QueryApi,
    ) -> None:
        """``plan``: the plan with its clones as they were sent; None without a job file."""
        self._targets = targets
        self._plan = plan
        self._found = found
        self._identity = identity
        self._readback = readback
        self._query_api = query_api
        self._codes = array("B", bytes(len(targets)))
        self._drifts: defaultdict[int, list[Difference]] = defaultdict(list)
        self._unseen: list[tuple[int, str, Difference]] = []
        self._shown: set[str] = set()
        self._edited: set[int] = set()
        self.services: Mapping[str, Mapping[str, JsonValue]] = {}
        """Inventories of the last page given to ``compare_page``."""
        self.pending: Collection[str] = ()
        """Keys of clones that a DELETE on record may still delete, whatever the server shows now."""
        self._failure = ""
        """Reason why no further queries are made."""
        is_unchanged = plan is not None and targets.plans == {plan.digest}
        self._owners_are_known = is_unchanged or not targets.has_hand_overs

    def verdict(self, ordinal: int) -> Verdict:
        """Return the verdict on a target, once ``run`` has ended."""
        return _VERDICTS[self._codes[ordinal]]

    async def run(self) -> None:
        """Query and judge all targets."""
        items = self._items()
        while page := list(islice(items, UUIDS_A_QUERY)):
            await self._compare(page)
        self._resolve()
        self._found.counts.update(_VERDICTS[code] for code in self._codes)
        self._found.counts[Verdict.OPEN] += self._found.unrecorded
        self._found.edited = len(self._edited)

    def _items(self) -> Iterator[Item]:
        """Yield the targets that have a clone, and judge all others."""
        seen = bytearray(len(self._targets))
        for clone in () if self._plan is None else self._plan.clones():
            ordinal = self._targets.find(clone.key)
            if ordinal is None:
                self._found.unrecorded += self._is_expected()
                continue
            seen[ordinal] = 1
            yield from self._comparable(Item(ordinal, self._targets.read(ordinal), clone))
        for ordinal, is_seen in enumerate(seen):
            if not is_seen:
                yield from self._comparable(Item(ordinal, self._targets.read(ordinal), None))

    def _is_expected(self) -> bool:
        """Return whether this run still has to clone job file targets that are not on record."""
        plan = self._targets.plan
        # A plan reduced by --only has no digest of inputs; a shard's plan covers just its part of the file, and a
        # merged manifest covers all of it.
        return plan is None or self._targets.is_merged or bool(plan.inputs or plan.shard)

    def _comparable(self, item: Item) -> Iterator[Item]:
        state = item.target.state
        if state is State.CLONED:
            yield item
        elif state in _OPEN:
            self._judge(item.ordinal, Verdict.OPEN)
        else:
            detail = ": ".join(filter(None, (item.target.error_code, item.target.error)))
            self._report(item, Verdict(state.value), detail=detail)

    def _judge(self, ordinal: int, verdict: Verdict) -> None:
        self._codes[ordinal] = _VERDICTS.index(verdict)

    def _report(
        self, item: Item, verdict: Verdict, *, detail: str = "", differences: Sequence[Difference] = ()
    ) -> None:
        self._judge(item.ordinal, verdict)
        key, source = item.target.key, item.target.source_uuid
        uuid = item.target.clone_uuid if item.target.state is State.CLONED else None
        is_edited = item.ordinal in self._edited
        self._found.findings.append(Finding(verdict, key, source, uuid, tuple(differences), is_edited, detail))

    async def _compare(self, page: Sequence[Item]) -> None:
        answers = None
        if not self._failure:
            try:
                answers = await self._ask(page)
            except CallFailedError as error:
                self._failure = str(error)
        self._judge_page(page, answers)

    async def compare_page(self, page: Sequence[Item]) -> dict[str, Finding]:
        """Query a page of clones, twice if needed; return those not in sync, by key. Raises CallFailedError."""
        self._drifts.clear()
        self._unseen.clear()
        self._found.findings.clear()
        answers = await self._ask(page)
        self.services = answers.services.by_uuid
        self._judge_page(page, answers)
        self._resolve()
        return {finding.key: finding for finding in self._found.findings}

    def _judge_page(self, page: Sequence[Item], answers: _Answers | None) -> None:
        for item in page:
            if item.clone is not None and item.target.digest not in ("", item.clone.digest):
                self._edited.add(item.ordinal)
            inventory = None if answers is None else answers.services.by_uuid.get(item.target.clone_uuid or "")
            if answers is None:
                self._report(item, Verdict.UNKNOWN, detail=self._failure)
            elif inventory is None:
                self._report_absent(item, is_complete=answers.services.is_complete)
            elif item.target.key in self.pending:
                self._report(item, Verdict.UNKNOWN, detail=_PENDING)
            else:
                self._compare_one(item, inventory, answers)

    async def _ask(self, page: Sequence[Item]) -> _Answers:
        uuids = [item.target.clone_uuid for item in page if item.target.clone_uuid]
        services = await self._readback.services(uuids)
        wanted = [item for item in page if item.clone is not None and item.target.clone_uuid in services.by_uuid]
        tagged = [str(item.target.clone_uuid) for item in wanted if item.clone and _user_tags(item.clone)]
        owned = [str(item.target.clone_uuid) for item in wanted if _owner(item)]
        shared = [str(item.target.clone_uuid) for item in wanted if _shares(item)]
        tags = await self._readback.tags(tagged) if tagged else {}
        owners = await self._query_api.owners(owned) if owned else {}
        shares = None
        if self._identity.is_admin:
            shares = await self._readback.shares(shared) if shared else {}
        return _Answers(services, tags, {uuid: owner.uuid for uuid, owner in owners.items()}, shares)

    def _report_absent(self, item: Item, *, is_complete: bool) -> None:
        if item.target.clone_uuid is None:
            self._report(item, Verdict.UNKNOWN, detail="the manifest does not say under which uuid it was made")
        elif not is_complete:
            self._report(item, Verdict.UNKNOWN, detail=_INCOMPLETE)
        elif self._identity.is_admin or self._is_maker(item):
            self._report(item, Verdict.MISSING)
        else:
            self._report(item, Verdict.UNKNOWN, detail=_INVISIBLE)

    def _is_maker(self, item: Item) -> bool:
        """Return whether this account made the clone and it cannot have been given away."""
        if item.target.is_foreign or self._targets.is_repaired:
            return False
        account = self._identity.account
        is_own = account is not None and account.uuid == item.target.account
        has_new_owner = item.target.has_new_owner or _owner(item) is not None or not self._owners_are_known
        return is_own and not has_new_owner

    def _compare_one(self, item: Item, inventory: Mapping[str, JsonValue], answers: _Answers) -> None:
        self._shown.update(shown_names(inventory))
        if item.clone is None:
            name = item.target.name
            result = compare({} if name is None else {"name": name}, inventory)
        else:
            result = compare(item.clone.params, inventory)
        differences = [*result.differences, *self._metadata_differences(item, answers)]
        if differences:
            self._drifts[item.ordinal] += differences
        self._unseen += ((item.ordinal, shown, difference) for shown, difference in result.unseen)

    def _metadata_differences(self, item: Item, answers: _Answers) -> Iterator[Difference]:
        """Yield differences in tags, owner and shares."""
        if item.clone is None:
            return
        uuid = str(item.target.clone_uuid)
        for tag in _user_tags(item.clone):
            if tag not in answers.tags[uuid]:
                yield Difference(_TAGS, tag, None)
        owner = _owner(item)
        if owner is not None and uuid not in answers.owners:
            self._found.not_shown["owner"] += 1
        elif owner is not None and answers.owners[uuid] != owner:
            yield Difference("owner", owner, answers.owners[uuid])
        shares = _shares(item)
        if shares and answers.shares is None:
            self._found.not_shown["share_with"] += 1
        elif answers.shares is not None:
            yield from (Difference("share_with", one, None) for one in shares if one not in answers.shares[uuid])

    def _resolve(self) -> None:
        """Decide on fields absent from an inventory: null if the server shows the field of another clone."""
        for ordinal, shown, difference in self._unseen:
            if shown in self._shown:
                self._drifts[ordinal].append(difference)
            else:
                self._found.not_shown[difference.field] += 1
        for ordinal, differences in sorted(self._drifts.items()):
            item = Item(ordinal, self._targets.read(ordinal), None)
            self._report(item, Verdict.DRIFTED, differences=differences)


def _user_tags(clone: Clone) -> list[str]:
    tags: list[str] = json.loads(clone.body).get(_TAGS, [])
    return tags


def _owner(item: Item) -> str | None:
    return None if item.clone is None or item.clone.hand_over is None else item.clone.hand_over.owner


def _shares(item: Item) -> tuple[str, ...]:
    return () if item.clone is None or item.clone.hand_over is None else item.clone.hand_over.share_with


def is_as_made(difference: Difference, target: TargetState) -> bool:
    """Return whether a difference is only that a clone was never handed over: its maker has it, or a share is missing.

    A hand-over without an answer is not recorded: where it was executed, the owner is the one that the job file wants.
    """
    if target.is_handed_over:
        return False
    if difference.field == "owner":
        return target.account is not None and difference.found == target.account
    return difference.field == "share_with"
