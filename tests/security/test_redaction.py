"""Every encoding in which a server could quote a credential, at the client and in its stored answers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import pytest

from batch.redaction import REDACTED, Secrets
from batch.zstack.answers import Refused
from batch.zstack.settings import AccessKeyAuth, SessionAuth
from tests.conftest import leaks
from tests.zstack.wire_server import CLONE, JOB, Seen, WireServer, answer, client_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Planted

KEY_ID: Final = "AKIDexample0123456789"


def escaped(text: str) -> str:
    """Write every character as a JSON escape."""
    return "".join(f"\\u{ord(char):04x}" for char in text)


ENCODINGS: Final[dict[str, Callable[[str], str]]] = {
    "plain": str,
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal, upper case": lambda text: text.encode().hex().upper(),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, one further": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64, two further": lambda text: base64.b64encode(b"xy" + text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "escapes as text": escaped,
    "the first 60 per cent": lambda text: text[: len(text) * 6 // 10 + 8],
    "the last part": lambda text: text[8:],
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("place", ["details", "code", "plain text"])
async def test_a_header_is_quoted_in_no_encoding(name: str, place: str, planted: Planted) -> None:
    """However a server encodes the header it got, JSON escapes on top, its answer has no part of the session."""

    def handler(seen: Seen) -> bytes:
        quoted = ENCODINGS[name](seen.headers["authorization"])
        if place == "plain text":
            return answer(400, f"no: {escaped(quoted)} {quoted}")
        body = f'{{"\\u0065rror": {{"code": "SYS.1006", "{place}": "{escaped(quoted)}"}}}}'
        return answer(503, body)

    async with WireServer(handler) as server, client_of(server.url, SessionAuth(planted.session)) as client:
        refused = await client.submit(CLONE, JOB)
    assert isinstance(refused, Refused)
    assert REDACTED in repr(refused)
    assert not leaks(repr(refused).encode())


@pytest.mark.parametrize("name", [name for name in ENCODINGS if not name.startswith("the ")])
async def test_a_signature_is_quoted_in_no_encoding(name: str, planted: Planted) -> None:
    """What follows an access key's id is redacted too, and the signature on its own."""
    signatures: list[str] = []

    def handler(seen: Seen) -> bytes:
        header = seen.headers["authorization"]
        signatures.append(header.rpartition(":")[2])
        quoted = f"{ENCODINGS[name](header)} {ENCODINGS[name](signatures[-1])}"
        return answer(503, {"error": {"code": "SYS.1006", "details": quoted}})

    auth = AccessKeyAuth(KEY_ID, planted.key_secret)
    async with WireServer(handler) as server, client_of(server.url, auth) as client:
        refused = await client.submit(CLONE, JOB)
    for signature in signatures:
        for form in (signature, ENCODINGS[name](signature)[4:-4]):
            assert form not in repr(refused)


async def test_a_secret_is_redacted_before_a_text_is_cut(planted: Planted) -> None:
    """A cut at the longest text never leaves the beginning of a session, wherever the session is."""
    places = iter(range(2000, 2060))

    def handler(_: Seen) -> bytes:
        return answer(503, {"error": {"code": "SYS.1006", "details": "x" * next(places) + planted.session}})

    async with WireServer(handler) as server, client_of(server.url, SessionAuth(planted.session)) as client:
        for _ in range(60):
            assert planted.session[:6] not in repr(await client.submit(CLONE, JOB))


def test_any_part_of_23_characters_is_found(planted: Planted) -> None:
    """Every part of 23 characters of a session is redacted, and the longest part of it that appears whole."""
    secrets = Secrets()
    secrets.add(planted.session)
    for start in range(len(planted.session)):
        for stop in range(start + 23, len(planted.session) + 1):
            part = planted.session[start:stop]
            assert secrets.redact(f"z{part}z") == f"z{REDACTED}z"


def test_a_megabyte_of_secrets_is_redacted_in_one_pass(planted: Planted) -> None:
    """Text made only of secrets, or of one letter that a secret repeats, is redacted whole."""
    secrets = Secrets()
    secrets.add_all([planted.session, "a" * 64])
    assert secrets.redact(planted.session * 30_000) == REDACTED
    assert secrets.redact("a" * 1_000_000) == REDACTED
