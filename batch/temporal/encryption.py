"""Encryption of payloads with AES-256-GCM and the operator's key, before they leave a command or worker.

Inputs, results, signals, memos and failures are encrypted. Workflow ids, task queues, names of workflows and
activities, and times are not.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SETTING: Final = "ZCLONE_TEMPORAL_KEY_FILE"
_ENCODING: Final = b"binary/encrypted"
_NONCE: Final = 12
"""Nonce size in bytes; each payload gets a new nonce."""


class WrongKeyError(UsageError):
    """A payload that none of this process's keys decrypts."""


class Encryption(PayloadCodec):
    """Encrypts with the first key and decrypts with any; without a key payloads stay as they are."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """``keys``: 32 bytes each."""
        self._ciphers = {_name_of(key): AESGCM(key) for key in keys}

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the keys, which reveal nothing about them; the first encrypts."""
        return tuple(self._ciphers)

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt the payloads."""
        if not self._ciphers:
            return list(payloads)
        name, cipher = next(iter(self._ciphers.items()))
        return [_encrypt(payload, name, cipher) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt the payloads; unencrypted ones are returned unchanged. Raises WrongKeyError."""
        return [self._decrypt(payload) for payload in payloads]

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != _ENCODING:
            return payload
        name = payload.metadata.get("key", b"").decode(errors="replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise WrongKeyError(f"a payload on Temporal is encrypted with the key {name:.16}: {_lack(self.keys)}")
        try:
            data = cipher.decrypt(payload.data[:_NONCE], payload.data[_NONCE:], name.encode())
        except InvalidTag:
            raise WrongKeyError(f"a payload on Temporal was changed after the key {name} encrypted it") from None
        return Payload.FromString(data)


def mismatch(mine: Sequence[str], theirs: Sequence[str], who: str) -> str | None:
    """Return why two processes with these key names cannot read each other's payloads; None if they can."""
    if theirs and theirs[0] not in mine:
        return f"{who} encrypts with the key {theirs[0]}: {_lack(mine)}"
    if mine and mine[0] not in theirs:
        return f"{who} does not have the key {mine[0]}, with which this process encrypts: add it to its {_SETTING}"
    return None


def _lack(mine: Sequence[str]) -> str:
    if not mine:
        return f"{_SETTING} is not set here: set it to a file with that key"
    return f"{_SETTING} has {' and '.join(mine)} only: add that key to the file"


def _name_of(key: bytes) -> str:
    return hashlib.sha256(b"zclone " + key).hexdigest()[:8]


def _encrypt(payload: Payload, name: str, cipher: AESGCM) -> Payload:
    nonce = os.urandom(_NONCE)
    data = nonce + cipher.encrypt(nonce, payload.SerializeToString(), name.encode())
    return Payload(metadata={"encoding": _ENCODING, "key": name.encode()}, data=data)
