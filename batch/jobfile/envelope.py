"""The envelope's shape, as pydantic models: the only place where pydantic is used.

Values arrive as texts (the loader gives nothing else), so every field says how it reads one.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from batch.model import Wave

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(s|min|h)")
_RATE_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}
_DURATION: Final = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_DURATION_SECONDS: Final = (86400, 3600, 60, 1)
_SHARE: Final = r"(?=[^%]*[1-9])(100(\.0+)?|[0-9]{1,2}(\.[0-9]{1,9})?)%"
MAX_RATE: Final = 100_000.0


def read_rate(text: str) -> float:
    """Return calls per second of a text such as 20/s, 600/min or 5000/h. Raises ValueError."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"must be calls per time, such as 20/s or 600/min, not {text!r:.60}")
    rate = float(match[1]) / _RATE_SECONDS[match[2]]
    if not 0 < rate <= MAX_RATE:
        raise ValueError(f"must be above 0 and at most {MAX_RATE:.0f}/s, not {text!r:.60}")
    return rate


def read_duration(text: str) -> float:
    """Return seconds of a text such as 90s, 45m, 2h or 1h30m. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"must be a duration such as 90s, 45m, 2h or 1h30m, not {text!r:.60}")
    seconds = sum(int(part or 0) * unit for part, unit in zip(match.groups(), _DURATION_SECONDS, strict=True))
    if not 0 < seconds <= 365 * 86400:
        raise ValueError(f"must be above 0 and at most 365d, not {text!r:.60}")
    return float(seconds)


def read_max_failures(text: str) -> float:
    """Return a count as it is, a percentage as a share below 1, inf where nothing can exceed it. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?%", text) and float(text[:-1]) <= 100:
        share = float(text[:-1]) / 100
        return math.inf if share >= 1 else share
    raise ValueError(f"must be a number or 0% to 100%, not {text!r:.60}")


def read_waves(value: Any) -> tuple[Wave, ...]:
    """Return the waves without ``rest``, which is what is left anyway. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError("must be a list such as [1, 5, 20%, rest]")
    if "rest" in value[:-1]:
        raise ValueError("`rest` must stand last, and once")
    return tuple(map(_wave, value[:-1] if value[-1] == "rest" else value))


def _wave(text: Any) -> Wave:
    if isinstance(text, str) and re.fullmatch(r"[1-9][0-9]{0,8}", text):
        return Wave(count=int(text))
    if isinstance(text, str) and re.fullmatch(_SHARE, text):
        return Wave(share=float(text[:-1]) / 100)
    raise ValueError(f"a wave must be a number from 1, a percentage of the targets above 0%, or rest, not {text!r:.60}")


def _whole_number(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,9}", value):
        raise ValueError(f"must be a whole number, not {value!r:.60}")
    return int(value)


def _boolean(value: Any) -> bool:
    if value not in {"true", "false"}:
        raise ValueError(f"must be true or false, not {value!r:.60}")
    return bool(value == "true")


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("must be a URL such as https://zstack.example.com:8080/zstack") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_ok or re.search(r"\s", text):
        raise ValueError("must be a URL such as https://zstack.example.com:8080/zstack")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or password: use endpoint.auth")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return text.rstrip("/")


def _text(reader: Any) -> Any:
    """Make a validator that reads a text and refuses lists and maps."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be one value, not a list or map")  # noqa: TRY004 - pydantic collects ValueError
        return reader(value)

    return BeforeValidator(read)


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


Rate = Annotated[
    float,
    _text(read_rate),
    _schema(type="string", pattern=r"^[0-9]+(\.[0-9]+)?/(s|min|h)$", examples=["20/s", "600/min"]),
]
Duration = Annotated[
    float,
    _text(read_duration),
    _schema(type="string", pattern=r"^(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", examples=["45m", "2h"]),
]
MaxFailures = Annotated[
    float | None,
    _text(read_max_failures),
    _schema(
        anyOf=[
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^[0-9]{1,9}$|^[0-9]{1,3}(\.[0-9]+)?%$"},
        ]
    ),
]
Waves = Annotated[
    tuple[Wave, ...],
    PlainValidator(read_waves),
    _schema(
        type="array",
        minItems=1,
        items={
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": rf"^[1-9][0-9]{{0,8}}$|^{_SHARE}$|^rest$"},
            ]
        },
        examples=[[1, 5, "20%", "rest"]],
    ),
]
Flag = Annotated[bool, BeforeValidator(_boolean), _schema(type="boolean")]
Url = Annotated[str, _text(_url), _schema(type="string", pattern=r"^https?://[^\s@?#]+$")]
Text = Annotated[str, StringConstraints(min_length=1)]
VarText = Annotated[str, _text(str), _schema(type=["string", "number", "boolean"])]


def _count(minimum: int, maximum: int) -> Any:
    return Annotated[
        int,
        BeforeValidator(_whole_number),
        Field(ge=minimum, le=maximum),
        _schema(type="integer", minimum=minimum, maximum=maximum),
    ]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretModel(_Strict):
    """Where a secret is kept: `{env: NAME}` or `{file: PATH}`; never the secret itself."""

    env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        None, description="environment variable that holds the secret"
    )
    file: Text | None = Field(None, description="file that holds the secret; relative to the job file")

    @model_validator(mode="after")
    def _one(self) -> SecretModel:
        if (self.env is None) == (self.file is None):
            raise ValueError("must be either {env: NAME} or {file: PATH}")
        return self


class AuthModel(_Strict):
    """How to log in: session, or account and password, or access_key_id and access_key_secret."""

    session: SecretModel | None = Field(None, description="session uuid")
    account: Text | None = Field(None, description="account name, with password")
    password: SecretModel | None = Field(None, description="the account's password")
    access_key_id: Text | None = Field(None, description="access key, with access_key_secret")
    access_key_secret: SecretModel | None = Field(None, description="the access key's secret")

    @model_validator(mode="after")
    def _one_form(self) -> AuthModel:
        given = {name for name in AuthModel.model_fields if getattr(self, name) is not None}
        if given not in ({"session"}, {"account", "password"}, {"access_key_id", "access_key_secret"}):
            raise ValueError("must be session, or account and password, or access_key_id and access_key_secret")
        return self


class EndpointModel(_Strict):
    """Where ZStack is; the ZSTACK_* settings go over it. Never a secret."""

    url: Url | None = Field(None, description="base URL, such as https://zstack.example.com:8080/zstack")
    ca_file: Text | None = Field(None, description="PEM file of the certificate authority; relative to the job file")
    insecure: Flag = Field(False, description="do not verify the server's certificate")
    auth: AuthModel | None = Field(None, description="how to log in")


class LimitsModel(_Strict):
    """What the run may ask of the server."""

    rate: Rate = Field(10.0, description="calls: submit, poll, query and retry together; default 10/s")
    concurrency: _count(1, 10_000) = Field(8, description="clones in flight on the server; default 8")  # type: ignore[valid-type]
    max_failures: MaxFailures = Field(
        None, description="stop once more failed, after at least 10 settled; default none"
    )
    attempts: _count(1, 100) = Field(4, description="POSTs per target, over all resumes; default 4")  # type: ignore[valid-type]
    timeout: Duration | None = Field(None, description="per clone, from its first POST; default apiTimeout + 1 min")
    deadline: Duration | None = Field(None, description="of the whole run: stop sending in time, exit 4")
    waves: Waves = Field(
        (), description="numbers or percentages of the targets, then rest: each waits until the one before it went well"
    )


class EnvelopeModel(_Strict):
    """A zclone job file without its defaults and targets, which the parameter table checks."""

    version: Annotated[Literal["1"], _schema(const=1)] = Field(description="format of this file: 1")
    name: Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")] = Field(
        description="identity of the job: letters, digits, . _ -"
    )
    run: Text = Field("default", description="identity of this run; may hold ${date}, ${time}, ${name}")
    endpoint: EndpointModel | None = Field(None, description="where ZStack is; the ZSTACK_* settings go over it")
    vars: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$")], VarText] = (
        Field(default_factory=dict, description="values for ${…}")
    )
    limits: LimitsModel = Field(default_factory=LimitsModel, description="what the run may ask of the server")
