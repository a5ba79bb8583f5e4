"""Who a Clone is: its resource uuid, derived so that a lost manifest cannot make a second clone, and its digests."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.model import Clone, JsonValue

DIGEST_HEX: Final = 32
VALIDATION_ONLY: Final = "ephemeral::validationOnly"
"""wire: the system tag under which a message is checked and not executed."""
_VARIANTS: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_MODULUS: Final = 1 << 128
_DEL: Final = 0x7F
_sha256: Final = hashlib.sha256

_encode_text: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode


def _encode_slowly(body: object) -> bytes:
    return _encode_text(body).encode("ascii")


def _encoder() -> Callable[[object], bytes]:
    """Return what encodes bodies; orjson writes the same bytes where all is ASCII, and no parameter is a float."""
    try:
        orjson: Any = import_module("orjson")
    except ImportError:
        return _encode_slowly
    dumps, sorted_keys = orjson.dumps, orjson.OPT_SORT_KEYS

    def encode(body: object) -> bytes:
        try:
            found: bytes = dumps(body, option=sorted_keys)
        except TypeError:
            return _encode_slowly(body)
        return found if found.isascii() and _DEL not in found else _encode_slowly(body)

    return encode


_encode: Final = _encoder()


class Identities:
    """Derives identities within one run of one job."""

    __slots__ = ("_base",)

    def __init__(self, job: str, run: str) -> None:
        """Neither name may hold NUL, so that no two (job, run, key) run together."""
        self._base = hashlib.sha256(f"zclone\0{job}\0{run}\0".encode())

    def of(self, key: str, *, generation: int = 0) -> str:
        """Return R of ``key``; ``generation`` grows with ``undo``, since a deleted uuid stays occupied."""
        state = self._base.copy()
        state.update(f"{key}\0{generation}".encode())
        return _shaped(state.hexdigest())

    def of_check(self, key: str) -> str:
        """Return the uuid under which ``key`` is only checked: no run's, and the same in every check.

        So a server that clones all the same uses up no R, and makes no second one when it is checked again.
        """
        state = self._base.copy()
        state.update(f"{key}\0{VALIDATION_ONLY}".encode())
        return _shaped(state.hexdigest())


def _shaped(text: str) -> str:
    # wire: the server takes only uuids whose version and variant digits are set (v4 here).
    return f"{text[:12]}4{text[13:16]}{_VARIANTS[text[17]]}{text[17:32]}"


def resource_uuid(job: str, run: str, key: str, *, generation: int = 0) -> str:
    """Return R: 32 lower-case hex digits shaped as a v4 uuid, the same for the same arguments for ever."""
    return Identities(job, run).of(key, generation=generation)


def encode_body(params: dict[str, JsonValue], system_tags: tuple[str, ...], user_tags: tuple[str, ...]) -> bytes:
    """Return the POST body: ASCII, since the server may read it as Latin-1; empty tags are left out."""
    body: dict[str, object] = {"params": params}
    if system_tags:
        body["systemTags"] = system_tags
    if user_tags:
        body["userTags"] = user_tags
    return _encode(body)


def check_request(clone: Clone, identities: Identities) -> Clone:
    """Return ``clone`` as a request that is checked and not executed, under a uuid of its own."""
    found = json.loads(clone.body)
    uuid = identities.of_check(clone.key)
    tags = (*found.get("systemTags", ()), VALIDATION_ONLY)
    body = encode_body({**found["params"], "resourceUuid": uuid}, tags, tuple(found.get("userTags", ())))
    return clone._replace(resource_uuid=uuid, body=body)


def clone_digest(source_uuid: str, body: bytes) -> str:
    """Return 32 hex digits over what is sent, to notice a target that was changed after it was sent."""
    return _sha256(source_uuid.encode() + b"\0" + body).hexdigest()[:DIGEST_HEX]


class PlanDigest:
    """A digest of a set of clones: adding them in any order gives the same."""

    __slots__ = ("_sum", "count", "hand_overs")

    def __init__(self) -> None:
        """Start with the empty plan."""
        self._sum = 0
        self.count = 0
        self.hand_overs = 0
        """How many of the clones have one."""

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
