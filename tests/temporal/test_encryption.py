"""What Temporal stores of a run is encrypted by the operator's keys, and a wrong key is named."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure

from batch.app.temporal import read_keys
from batch.errors import UsageError
from batch.model import State
from batch.temporal.messages import Ask
from batch.temporal.payloads import Encryption, WrongKeyError, data_converter, mismatch
from tests.temporal.scene import ScriptedClient, scene, working

if TYPE_CHECKING:
    from pathlib import Path

    from tests.temporal.stage import Server

OLD, NEW = b"o" * 32, b"n" * 32
PLANTED = "planted-in-a-body"


def converter(*keys: bytes) -> Any:
    return data_converter(Encryption(keys))


def name_of(key: bytes) -> str:
    return Encryption([key]).keys[0]


async def test_a_payload_is_encrypted_and_decrypted() -> None:
    """With a key a payload shows nothing of its value, no two are alike, and the value is read back unchanged."""
    with_key = converter(NEW)
    one, other = [(await with_key.encode([Ask(PLANTED)]))[0] for _ in range(2)]
    assert PLANTED.encode() in (await converter().encode([Ask(PLANTED)]))[0].SerializeToString()
    assert PLANTED.encode() not in one.SerializeToString()
    assert one.data != other.data
    assert await with_key.decode([one]) == [Ask(PLANTED)]


async def test_keys_rotate() -> None:
    """The first key encrypts, every key decrypts, and values from before the first key stay readable."""
    both = converter(NEW, OLD)
    for before in (converter(OLD), converter(NEW), converter()):
        assert await both.decode(await before.encode([Ask("u")])) == [Ask("u")]
    assert await converter(NEW).decode(await both.encode([Ask("u")])) == [Ask("u")]


async def test_the_text_of_a_failure_is_encrypted() -> None:
    """The text of a failure is encrypted too: it may quote a body."""
    with_key = converter(NEW)
    failure = Failure()
    await with_key.encode_failure(ValueError(PLANTED), failure)
    assert failure.encoded_attributes.data
    assert PLANTED.encode() not in failure.SerializeToString()


@pytest.mark.parametrize(
    ("keys", "words"),
    [((), ("ZCLONE_TEMPORAL_KEY_FILE is not set", name_of(NEW))), ((OLD,), (name_of(NEW), name_of(OLD)))],
)
async def test_a_wrong_key_is_named(keys: tuple[bytes, ...], words: tuple[str, ...]) -> None:
    """A process that cannot decrypt reports the payload's key and its own, by names that reveal nothing of the keys."""
    payloads = await converter(NEW).encode([Ask("u")])
    with pytest.raises(WrongKeyError) as caught:
        await converter(*keys).decode(payloads)
    assert all(word in str(caught.value) for word in words)
    assert NEW.hex() not in str(caught.value)


async def test_a_tampered_payload_is_refused() -> None:
    """A payload whose bytes or key name were changed is no value."""
    (payload,) = await converter(NEW, OLD).encode([Ask("u")])
    changed = Payload(metadata=payload.metadata, data=payload.data[:-1] + bytes([payload.data[-1] ^ 1]))
    renamed = Payload(metadata={**payload.metadata, "key": name_of(OLD).encode()}, data=payload.data)
    for other in (changed, renamed):
        with pytest.raises(WrongKeyError, match="changed"):
            await converter(NEW, OLD).decode([other])


@pytest.mark.parametrize(
    ("mine", "theirs", "is_right"),
    [
        ((), (), True),
        ((NEW,), (NEW,), True),
        ((NEW, OLD), (OLD, NEW), True),
        ((NEW,), (), False),
        ((), (NEW,), False),
        ((NEW,), (OLD, NEW), False),
        ((NEW, OLD), (OLD,), False),
    ],
)
def test_both_sides_must_read_the_others_payloads(
    mine: tuple[bytes, ...], theirs: tuple[bytes, ...], *, is_right: bool
) -> None:
    """Two processes agree if each has the key with which the other encrypts."""
    found = mismatch(Encryption(mine).keys, Encryption(theirs).keys, "a worker")
    assert (found is None) is is_right


def write_keys(folder: Path, text: str, *, mode: int = 0o600) -> dict[str, str]:
    path = folder / "keys"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return {"ZCLONE_TEMPORAL_KEY_FILE": str(path)}


def test_a_key_file_has_a_key_in_each_line(tmp_path: Path) -> None:
    """Keys are read in their order; without the setting there is none."""
    assert read_keys(write_keys(tmp_path, f"{NEW.hex()}\n\n{OLD.hex().upper()}\n")) == (NEW, OLD)
    assert read_keys({}) == ()


@pytest.mark.parametrize(
    "text", ["secret\n", NEW.hex()[:-1], f"{NEW.hex()}\n{'x' * 64}\n", f"{NEW.hex()}00", "\n\n", ""]
)
def test_an_invalid_key_file_is_refused(tmp_path: Path, text: str) -> None:
    """An invalid line, and a file without a key, are reported with setting and file and never the line."""
    with pytest.raises(UsageError, match="ZCLONE_TEMPORAL_KEY_FILE") as caught:
        read_keys(write_keys(tmp_path, text))
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_key_file_is_private(tmp_path: Path) -> None:
    """A key file that others may read is refused, like any file of secrets."""
    with pytest.raises(UsageError, match="chmod 600"):
        read_keys(write_keys(tmp_path, NEW.hex(), mode=0o644))


async def test_no_part_of_a_body_is_in_temporals_database(server: Server) -> None:
    """A run with a key leaves no body, parameter or answer in the server's files; workflow ids stay readable."""
    planted, job = secrets.token_hex(12), secrets.token_hex(12)
    client = ScriptedClient(name=planted)
    found = await scene(server, client, 3, job=job, name=planted, keys=(NEW,))
    async with working(server, client, keys=(NEW,)):
        await found.begin()
        assert await asyncio.wait_for(found.follow(), 100) is None
    assert found.sheet.states == {State.CLONED: 3}
    stored = b"".join(path.read_bytes() for path in server.folder.glob("temporal.db*"))
    assert job.encode() in stored
    assert planted.encode() not in stored


async def test_a_missing_key_of_the_workers_is_reported(server: Server) -> None:
    """A command whose key no worker has ends before anything is sent, and says what to do."""
    client = ScriptedClient()
    found = await scene(server, client, 1, keys=(NEW,))
    async with working(server, client):
        with pytest.raises(WrongKeyError, match=name_of(NEW)):
            await asyncio.wait_for(found.run.ask_worker(lambda: None), 60)
    assert client.posts.total() == 0
