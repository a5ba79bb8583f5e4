"""The identity of a Clone: digests, tag, and a resource uuid, derived so that a lost manifest makes no second clone.

Targets with the same key or resource uuid are found with a few bytes of memory for each.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from batch.jobfile.problems import Complaint, Problems, quote
from batch.jsoncodec import encode_canonical
from batch.keytable import KeyTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batch.jobfile.job import Target
    from batch.model import Clone, JsonValue, Plan

DIGEST_HEX: Final = 32
VALIDATION_ONLY: Final = "ephemeral::validationOnly"
"""The system tag under which a message is checked and not executed (zstack/README.md 5)."""
_LONGEST_TAG: Final = 2048
"""Maximum characters of a tag's column (zstack/README.md 9)."""
_LAST_CHARACTER: Final = "\uffff"
"""Last character that many servers' tables can hold (zstack/README.md 4)."""
_HASH: Final = re.compile("sha256:[0-9a-f]{64}")
"""Replacement for a key that the server could not store."""
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_MODULUS: Final = 1 << 128
_sha256: Final = hashlib.sha256


_MAX_CANDIDATES: Final = 1000
"""Maximum number of candidates that are compared as texts."""


class Identities:
    """Derives the identities of one run of one job."""

    __slots__ = ("_base",)

    def __init__(self, job: str, run: str) -> None:
        """Start with names without NUL, so that different (job, run, key) never hash the same text."""
        self._base = hashlib.sha256(f"zclone\0{job}\0{run}\0".encode())

    def of(self, key: str, *, generation: int = 0) -> str:
        """Return the resource uuid of ``key``; ``generation``: number of its undone clones."""
        state = self._base.copy()
        state.update(f"{key}\0{generation}".encode())
        return _shape(state.hexdigest())

    def of_check(self, key: str) -> str:
        """Return the uuid under which ``key`` is only checked: unlike any run's, and the same in every check.

        So a server that clones all the same uses up no run's uuid, and makes no second clone when it is checked again.
        """
        state = self._base.copy()
        state.update(f"{key}\0{VALIDATION_ONLY}".encode())
        return _shape(state.hexdigest())


def _shape(text: str) -> str:
    # zstack/README.md 4: the server accepts only uuids whose version and variant digits are set (v4 here).
    return f"{text[:12]}4{text[13:16]}{_VARIANTS[text[17]]}{text[17:32]}"


def resource_uuid(job: str, run: str, key: str, *, generation: int = 0) -> str:
    """Return 32 lower-case hex digits in the form of a v4 uuid, a pure function of the arguments."""
    return Identities(job, run).of(key, generation=generation)


def encode_body(params: dict[str, JsonValue], system_tags: tuple[str, ...], user_tags: tuple[str, ...]) -> bytes:
    """Return the POST body: ASCII, since the server may read it as Latin-1; empty tags are left out."""
    body: dict[str, object] = {"params": params}
    if system_tags:
        body["systemTags"] = system_tags
    if user_tags:
        body["userTags"] = user_tags
    return encode_canonical(body).encode("ascii")


def check_request(clone: Clone, identities: Identities) -> Clone:
    """Return ``clone`` as a request that is checked and not executed, under a uuid of its own."""
    request = json.loads(clone.body)
    uuid = identities.of_check(clone.key)
    tags = (*request.get("systemTags", ()), VALIDATION_ONLY)
    body = encode_body({**request["params"], "resourceUuid": uuid}, tags, tuple(request.get("userTags", ())))
    return clone._replace(resource_uuid=uuid, body=body)


def clone_digest(source_uuid: str, body: bytes) -> str:
    """Return 32 hex digits over the request, to detect a target that was changed after it was sent."""
    return _sha256(source_uuid.encode() + b"\0" + body).hexdigest()[:DIGEST_HEX]


def digest_part(plan_digest: str, label: str) -> str:
    """Return 32 hex digits of the part of a plan that ``label`` names: never those of the whole plan."""
    return _sha256(f"{plan_digest}\n{label}".encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_HEX]


class PlanDigest:
    """A digest of a set of clones, independent of the order in which they are added."""

    __slots__ = ("_sum", "count", "hand_overs")

    def __init__(self) -> None:
        """Start with the empty plan."""
        self._sum = 0
        self.count = 0
        self.hand_overs = 0
        """Number of clones that have a hand-over."""

    def add(self, clone: Clone) -> None:
        """Add one clone."""
        text = f"{clone.key}\0{clone.digest}"
        wanted = clone.hand_over
        if wanted is not None:
            text = "\0".join((text, wanted.owner or "", *wanted.share_with))
            self.hand_overs += 1
        self._sum += int.from_bytes(_sha256(text.encode()).digest()[:16])
        self.count += 1

    def hexdigest(self) -> str:
        """Return 32 hex digits over all clones added so far."""
        return f"{self._sum % _MODULUS:032x}"


class UndoneClones(Protocol):
    """What a manifest records of clones that were undone."""

    def generation(self, key: str) -> int:
        """Return the number of a target's undone clones on record."""

    def has_uuid(self, uuid: str) -> bool:
        """Return whether an undone clone had this uuid."""


def regenerate(plan: Plan, undone: UndoneClones) -> Plan:
    """Return the plan in which each clone has the uuid of its generation, unless the user gave it one.

    The plan's digest stays: generations belong to the run and not to the job file.
    """
    identities = Identities(plan.job, plan.run)

    def clones() -> Iterator[Clone]:
        return (regenerate_clone(clone, identities, undone) for clone in plan.clones())

    return replace(plan, clones=clones)


def regenerate_clone(clone: Clone, identities: Identities, undone: UndoneClones) -> Clone:
    """Return the clone of the target's generation; one with a uuid of the user's own has no other."""
    if clone.is_given or not undone.generation(clone.key):
        return clone
    uuid = generation_uuid(identities, clone.key, undone)
    request = json.loads(clone.body)
    tags = (tuple(request.get(name, ())) for name in ("systemTags", "userTags"))
    body = encode_body({**request["params"], "resourceUuid": uuid}, *tags)
    return clone._replace(resource_uuid=uuid, body=body, digest=clone_digest(clone.source_uuid, body))


def generation_uuid(identities: Identities, key: str, undone: UndoneClones) -> str:
    """Return the uuid of a target's generation: the first that no undone clone had, as a record of one may be lost."""
    generation = undone.generation(key)
    while undone.has_uuid(uuid := identities.of(key, generation=generation)):
        generation += 1
    return uuid


class RunTags:
    """The tags of one run: ``zclone::<job>::<run>::<key>``."""

    def __init__(self, job: str, run: str) -> None:
        """Start with names without a colon."""
        self.prefix = f"zclone::{job}::{run}::"
        """Prefix of all tags of the run, and of no others."""

    def of(self, key: str) -> str:
        """Return the tag of a target; ``sha256:`` and a hash replace a key that the server could not store unchanged.

        It trims texts, refuses long ones, and often characters above U+FFFF (zstack/README.md 4 and 9).
        """
        tag = self.prefix + key
        if len(tag) <= _LONGEST_TAG and tag == tag.strip() and max(tag) <= _LAST_CHARACTER:
            return tag
        return f"{self.prefix}sha256:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def key_of(self, tag: str) -> str | None:
        """Return the key of a tag of the run; None where it is a hash."""
        name = tag.removeprefix(self.prefix)
        return None if _HASH.fullmatch(name) else name

    def add(self, clone: Clone) -> Clone:
        """Return the clone with its tag in the body; its digest does not change, as it does not cover the run's tag."""
        body = json.loads(clone.body)
        tags = dict.fromkeys((*body.get("userTags", ()), self.of(clone.key)))
        return clone._replace(body=encode_body(body["params"], tuple(body.get("systemTags", ())), tuple(tags)))


def tag_clones(plan: Plan) -> Plan:
    """Return the plan with each clone's tag in its body."""
    tags = RunTags(plan.job, plan.run)

    def clones() -> Iterator[Clone]:
        return map(tags.add, plan.clones())

    return replace(plan, clones=clones)


class Duplicates:
    """Stores hashes of keys and of the user's own resource uuids; a second pass compares texts with equal hashes."""

    def __init__(self) -> None:
        """Start with no clone."""
        self._keys = KeyTable(1)
        self._own_uuids = KeyTable(1)
        self._candidates: set[str] = set()

    def add(self, target: Target, clone: Clone) -> None:
        """Add one clone."""
        # Python's string hash has 64 well-distributed bits; equal hashes are compared as texts later.
        if not self._keys.put(hash(clone.key), 0):
            self._add_candidate(clone.key)
        own = "resourceUuid" in target.layer.params or "resourceUuid" in target.entry.base.params
        if own and not self._own_uuids.put(hash(clone.resource_uuid), 0):
            self._add_candidate(clone.resource_uuid)

    def report(self, walk: Callable[[], Iterator[tuple[Target, Clone]]], problems: Problems) -> None:
        """Report the duplicates; ``walk`` iterates over all targets again, where that is needed."""
        if self._candidates:
            self._compare(walk(), "key", lambda clone: clone.key, problems)
            self._compare(walk(), "resourceUuid", lambda clone: clone.resource_uuid, problems)
        if len(self._own_uuids):
            self._refuse_taken(walk, problems)

    def _add_candidate(self, text: str) -> None:
        if len(self._candidates) < _MAX_CANDIDATES:
            self._candidates.add(text)

    def _compare(
        self, walk: Iterator[tuple[Target, Clone]], what: str, name: Callable[[Clone], str], problems: Problems
    ) -> None:
        """Report the repetitions of each candidate: equal hashes are not yet equal keys."""
        first: dict[str, Target] = {}
        for target, clone in walk:
            text = name(clone)
            if text not in self._candidates:
                continue
            if text in first:
                problems.add(target.repeat_problem(what, text, first[text]))
            else:
                first[text] = target

    def _refuse_taken(self, walk: Callable[[], Iterator[tuple[Target, Clone]]], problems: Problems) -> None:
        """Report each ``resourceUuid`` that is the source of a target, or the derived uuid of one."""
        taken: dict[str, str] = {}
        for _, clone in walk():
            if self._own_uuids.get(hash(clone.source_uuid)) is not None:
                taken[clone.source_uuid] = f"the source of the target {quote(clone.key)}"
            if not clone.is_given and self._own_uuids.get(hash(clone.resource_uuid)) is not None:
                taken[clone.resource_uuid] = f"the derived uuid of the target {quote(clone.key)}"
        for target, clone in walk() if taken else ():
            if clone.is_given and clone.resource_uuid in taken:
                message = f"{clone.resource_uuid} is {taken[clone.resource_uuid]}: give an unused uuid"
                problems.add(target.problem(Complaint("params.resourceUuid", message)))
