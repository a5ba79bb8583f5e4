"""Tagged JSON for the values exchanged between command, workflows and workers and stored in histories.

A history outlives the version that wrote it. A new field needs a default. Removing a field or changing its meaning
requires a new ``VERSION``, which is part of each payload's metadata, and a decoder for the old one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from temporalio.api.common.v1 import Payload
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverterWithEncodedAttributes,
    EncodingPayloadConverter,
)

from batch import model
from batch.errors import EndReason
from batch.temporal import messages
from batch.zstack import answers

if TYPE_CHECKING:
    from batch.model import JsonValue
    from batch.temporal.encryption import Encryption

VERSION: Final = 1
_FORMAT: Final = "zclone"
_ENCODING: Final = "json/plain"
"""Encoding name that Temporal's own tools show."""
_TAG: Final = "$"
_IS: Final = "is"
_OURS: Final = (*vars(answers).values(), *vars(messages).values())
_CLASSES: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        *(kind for kind in _OURS if isinstance(kind, type) and is_dataclass(kind)),
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
    return {_TAG: tag, _IS: inner}


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = value.get(_TAG)
    if tag is None:
        return {key: _decode(item) for key, item in value.items()}
    if tag in _READERS:
        return _READERS[tag](value[_IS])
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


def data_converter(encryption: Encryption | None = None) -> DataConverter:
    """Return the converter of a client or worker; with ``encryption`` failure texts are encrypted too."""
    return DataConverter(
        payload_converter_class=_ValueConverter,
        payload_codec=encryption,
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
