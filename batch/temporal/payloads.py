"""Payloads of command, workflows and workers: tagged JSON, encrypted with AES-256-GCM and the operator's key.

Inputs, results, signals, memos and failures are encrypted. Workflow ids, task queues, names of workflows and
activities, and times are not.

A history outlives the version that wrote it. A new field needs a default. Removing a field or changing its meaning
requires a new ``VERSION``, which is part of each payload's metadata, and a decoder for the old one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
    PayloadCodec,
)

from batch import model
from batch.errors import EndReason, UsageError
from batch.temporal import messages
from batch.zstack import answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.model import JsonValue

VERSION: Final = 1
_FORMAT: Final = "zclone"
_ENCODING: Final = "json/plain"
"""Encoding name that Temporal's own tools show."""
_SETTING: Final = "ZCLONE_TEMPORAL_KEY_FILE"
_ENCRYPTED: Final = b"binary/encrypted"
_NONCE: Final = 12
"""Nonce size in bytes; each payload gets a new nonce."""
_TAG: Final = "$"
_CONTENT: Final = "is"
_EXCHANGED: Final = (*vars(answers).values(), *vars(messages).values())
_CLASSES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        *(kind for kind in _EXCHANGED if isinstance(kind, type) and is_dataclass(kind)),
        model.Clone,
        model.HandOverRecord,
        model.HandOver,
        model.Intent,
        model.Limits,
        model.Record,
        model.SentJob,
        model.Wave,
    )
}


def _defaults_of(kind: Any) -> dict[str, object]:
    """Return the default of each field; MISSING if it has none or a factory."""
    if is_dataclass(kind):
        return {field.name: field.default for field in fields(kind)}
    return {name: kind._field_defaults.get(name, MISSING) for name in kind._fields}


_DEFAULTS: Final = {kind: _defaults_of(kind) for kind in _CLASSES.values()}


class PayloadError(ValueError):
    """A payload that this version cannot read or write."""


def dumps(value: object) -> bytes:
    """Return ``value`` as JSON. Raises PayloadError for a class that is not in the table."""
    return json.dumps(_encode(value), separators=(",", ":"), allow_nan=False).encode()


def loads(data: bytes) -> Any:
    """Return the value in ``data``. Raises PayloadError for a class or field that this version does not know."""
    return _decode(json.loads(data))


def _encode(value: object) -> JsonValue:
    if type(value) in _DEFAULTS:
        # Fields with their default value are omitted, so later versions must keep the defaults.
        defaults = _DEFAULTS[type(value)]
        changed = {name: item for name in defaults if (item := getattr(value, name)) != defaults[name]}
        return {_TAG: type(value).__name__, **{name: _encode(item) for name, item in changed.items()}}
    inner: JsonValue
    match value:
        case StrEnum():
            tag, inner = type(value).__name__, value.value
        case bytes():
            tag, inner = "bytes", value.decode()
        case float() if math.isinf(value):
            tag, inner = "float", str(value)
        case tuple():
            tag, inner = "tuple", [_encode(item) for item in value]
        case Mapping() if any(type(key) is not str or key == _TAG for key in value):
            tag, inner = "map", [[_encode(key), _encode(item)] for key, item in value.items()]
        case Mapping():
            return {key: _encode(item) for key, item in value.items()}
        case list():
            return [_encode(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _:
            raise PayloadError(f"{type(value).__name__} cannot be sent to Temporal")
    return {_TAG: tag, _CONTENT: inner}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {key: _decode(item) for key, item in value.items()}
    if tag in _READERS:
        return _READERS[tag](value[_CONTENT])
    kind = _CLASSES.get(tag)
    if kind is None or not value.keys() - {_TAG} <= _DEFAULTS[kind].keys():
        raise PayloadError(f"cannot read a {tag} of another version of zclone: update workers and command")
    return kind(**{name: _decode(item) for name, item in value.items() if name != _TAG})


_READERS: Final[dict[str, Callable[[Any], object]]] = {
    "bytes": lambda text: str(text).encode(),
    "float": float,
    "tuple": lambda items: tuple(_decode(item) for item in items),
    "map": lambda pairs: {_decode(key): _decode(item) for key, item in pairs},
    **{kind.__name__: kind for kind in (model.State, answers.ErrorClass, EndReason)},
}


class _TaggedJsonConverter(EncodingPayloadConverter):
    """Converter for all values."""

    @property
    def encoding(self) -> str:
        """Name of the encoding in a payload's metadata."""
        return _ENCODING

    def to_payload(self, value: Any) -> Payload | None:
        """Serialise a value."""
        return Payload(metadata={"encoding": _ENCODING.encode(), _FORMAT: str(VERSION).encode()}, data=dumps(value))

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:  # noqa: ARG002 - tags say it
        """Deserialise a payload. Raises PayloadError."""
        version = payload.metadata.get(_FORMAT, b"").decode()
        if version != str(VERSION):
            raise PayloadError(f"a payload of format {version}, this zclone reads {VERSION}: update both ends")
        return loads(payload.data)


class _ValueConverter(CompositePayloadConverter):
    def __init__(self) -> None:
        super().__init__(_TaggedJsonConverter())


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
        if payload.metadata.get("encoding") != _ENCRYPTED:
            return payload
        name = payload.metadata.get("key", b"").decode(errors="replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise WrongKeyError(
                f"a payload on Temporal is encrypted with the key {name:.16}: {_missing_key_hint(self.keys)}"
            )
        try:
            data = cipher.decrypt(payload.data[:_NONCE], payload.data[_NONCE:], name.encode())
        except InvalidTag:
            raise WrongKeyError(f"a payload on Temporal was changed after the key {name} encrypted it") from None
        return Payload.FromString(data)


def mismatch(mine: Sequence[str], theirs: Sequence[str], who: str) -> str | None:
    """Return why two processes with these key names cannot read each other's payloads; None if they can."""
    if theirs and theirs[0] not in mine:
        return f"{who} encrypts with the key {theirs[0]}: {_missing_key_hint(mine)}"
    if mine and mine[0] not in theirs:
        return f"{who} does not have the key {mine[0]}, with which this process encrypts: add it to its {_SETTING}"
    return None


def _missing_key_hint(mine: Sequence[str]) -> str:
    if not mine:
        return f"{_SETTING} is not set here: set it to a file with that key"
    return f"{_SETTING} has {' and '.join(mine)} only: add that key to the file"


def _name_of(key: bytes) -> str:
    return hashlib.sha256(b"zclone " + key).hexdigest()[:8]


def _encrypt(payload: Payload, name: str, cipher: AESGCM) -> Payload:
    nonce = os.urandom(_NONCE)
    data = nonce + cipher.encrypt(nonce, payload.SerializeToString(), name.encode())
    return Payload(metadata={"encoding": _ENCRYPTED, "key": name.encode()}, data=data)


def data_converter(encryption: Encryption | None = None) -> DataConverter:
    """Return the converter of a client or worker; with ``encryption`` failure texts are encrypted too."""
    return DataConverter(
        payload_converter_class=_ValueConverter,
        payload_codec=encryption,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
