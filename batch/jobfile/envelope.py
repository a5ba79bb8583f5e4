"""The structure of the envelope, as pydantic models: the only place where pydantic is used.

Values arrive as texts (the loader returns nothing else), so every field defines how it parses one.
"""

from __future__ import annotations

import re
from datetime import UTC, tzinfo
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

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

from batch.jobfile import values
from batch.jobfile.problems import unknown
from batch.model import Wave

NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_RUN_NAME: Final = r"\$\{(date|time|name)\}"
_LETTERS: Final = r"A-Za-z_\u00c0-\u024f\u0370-\u1fff\u3041-\u9fff\uac00-\ud7a3"
VARIABLE_PATTERN: Final = rf"[{_LETTERS}][0-9{_LETTERS}-]*(?:\.[0-9{_LETTERS}-]+)*"
"""Names for ``${…}``, in letters of any script that Python, editors and pydantic all accept as such."""


def _whole_number(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(values.WHOLE, value):
        raise ValueError(f"must be a whole number, not {value!r:.60}")
    return int(float(value))


def _boolean(value: Any) -> bool:
    if not isinstance(value, str) or value not in values.BOOLEANS:
        raise ValueError(f"must be true or false, not {value!r:.60}")
    return values.BOOLEANS[value]


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port_ok = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("must be a URL such as https://zstack.example.com:8080/zstack") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_ok or re.search(r"\s", text):
        raise ValueError("must be a URL such as https://zstack.example.com:8080/zstack")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not contain a user or password: use endpoint.auth")
    if parts.query or parts.fragment:
        raise ValueError("must not have a query or fragment")
    return text.rstrip("/")


def _timezone(text: str) -> tzinfo:
    try:
        return UTC if text == "UTC" else ZoneInfo(text)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        problem = unknown(text, sorted(available_timezones()), what="time zone")
        raise ValueError(f"{problem}: it takes an IANA name such as Asia/Shanghai") from None


def _secret_variable(text: str) -> str:
    if not re.fullmatch(r"ZSTACK_[A-Za-z0-9_]+", text):
        raise ValueError("must be a ZSTACK_* variable, such as ZSTACK_SESSION_ID: a job file may name no other one")
    return text


def _text(reader: Any) -> Any:
    """Return a validator that parses a text and rejects lists and maps."""
    return BeforeValidator(_text_of(reader))


def _text_of(reader: Any) -> Any:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be one value, not a list or map")  # noqa: TRY004 - pydantic collects ValueError
        return reader(value)

    return read


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


Rate = Annotated[
    float,
    _text(values.read_rate),
    _schema(type="string", pattern=r"^(?=[0-9.]*[1-9])[0-9]+(\.[0-9]+)?/(s|min|h)$", examples=["20/s", "600/min"]),
]
Duration = Annotated[
    float,
    _text(values.read_duration),
    _schema(type="string", pattern=r"^(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$", examples=["45m", "2h"]),
]
MaybeNoTime = Annotated[
    float,
    _text(values.read_time),
    _schema(
        anyOf=[
            {"type": "integer", "const": 0},
            {"type": "string", "pattern": r"^0$|^(?=[0-9])([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"},
        ]
    ),
]
TimeZone = Annotated[
    tzinfo,
    PlainValidator(_text_of(_timezone)),
    _schema(
        type="string",
        pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        examples=["Asia/Shanghai", "Europe/Berlin"],
    ),
]
MaxFailures = Annotated[
    float | None,
    _text(values.read_max_failures),
    _schema(
        anyOf=[
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": rf"^{values.WHOLE}$|^[0-9]{{1,3}}(\.[0-9]+)?%$"},
        ]
    ),
]
Waves = Annotated[
    tuple[Wave, ...],
    PlainValidator(values.read_waves),
    _schema(
        type="array",
        minItems=1,
        items={
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": rf"^(?=.*[1-9]){values.WHOLE}$|^{values.PERCENTAGE}$|^rest$"},
            ]
        },
        examples=[[1, 5, "20%", "rest"]],
    ),
]
Flag = Annotated[
    bool, BeforeValidator(_boolean), _schema(type=["boolean", "string"], enum=[True, False, *values.BOOLEANS])
]
Url = Annotated[str, _text(_url), _schema(type="string", pattern=r"^[hH][tT][tT][pP][sS]?://[^\s@?#]+$")]
Text = Annotated[str, StringConstraints(min_length=1), _schema(type=["string", "number", "boolean"], minLength=1)]
Name = Annotated[
    str,
    StringConstraints(pattern=f"^{NAME_PATTERN}$"),
    _schema(type=["string", "number"], pattern=f"^{NAME_PATTERN}$", minimum=0),
]
Run = Annotated[
    str,
    StringConstraints(min_length=1),
    _schema(
        type=["string", "number", "boolean"],
        minLength=1,
        minimum=0,
        pattern=rf"^([A-Za-z0-9]|{_RUN_NAME})([A-Za-z0-9._-]|{_RUN_NAME})*$",
    ),
]
SecretVariable = Annotated[str, _text(_secret_variable), _schema(type="string", pattern=r"^ZSTACK_[A-Za-z0-9_]+$")]
VarText = Annotated[str, _text(str)]
Vars = Annotated[
    dict[Annotated[str, StringConstraints(pattern=f"^{VARIABLE_PATTERN}$")], VarText],
    _schema(
        type="object",
        patternProperties={f"^{VARIABLE_PATTERN}$": {"type": ["string", "number", "boolean", "null"]}},
        additionalProperties=False,
    ),
]


def _count(minimum: int, maximum: int) -> Any:
    return Annotated[
        int,
        BeforeValidator(_whole_number),
        Field(ge=minimum, le=maximum),
        _schema(
            anyOf=[
                {"type": "integer", "minimum": minimum, "maximum": maximum},
                {"type": "string", "pattern": rf"^(?=.*[1-9]){values.WHOLE}$"},
            ]
        ),
    ]


_LOGINS: Final = ({"session"}, {"account", "password"}, {"access_key_id", "access_key_secret"})


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _only(*forms: set[str]) -> ConfigDict:
    """Return a schema in which exactly the keys of one of ``forms`` have a value."""
    null, names = {"type": "null"}, sorted(set().union(*forms))
    values = [{name: {"not": null} if name in form else null for name in names} for form in forms]
    options: list[Any] = [
        {"required": sorted(form), "properties": each} for form, each in zip(forms, values, strict=True)
    ]
    return ConfigDict(json_schema_extra={"anyOf": options})


class SecretModel(_Strict):
    """Location of a secret: `{env: NAME}` or `{file: PATH}`; never the secret itself."""

    model_config = _only({"env"}, {"file"})

    env: SecretVariable | None = Field(
        None, description="ZSTACK_* variable that holds the secret: the operator's, see --trust-endpoint"
    )
    file: Text | None = Field(
        None,
        description="file that holds the secret: below the job file's folder, or the operator's below "
        "$CREDENTIALS_DIRECTORY or /run/secrets",
    )

    @model_validator(mode="after")
    def _one(self) -> SecretModel:
        if (self.env is None) == (self.file is None):
            raise ValueError("must be either {env: NAME} or {file: PATH}")
        return self


class AuthModel(_Strict):
    """How to log in: session, or account and password, or access_key_id and access_key_secret."""

    model_config = _only(*_LOGINS)

    session: SecretModel | None = Field(None, description="session uuid")
    account: Text | None = Field(None, description="account name, with password")
    password: SecretModel | None = Field(None, description="the account's password")
    access_key_id: Text | None = Field(None, description="access key, with access_key_secret")
    access_key_secret: SecretModel | None = Field(None, description="the access key's secret")

    @model_validator(mode="after")
    def _one_form(self) -> AuthModel:
        names = {name for name in AuthModel.model_fields if getattr(self, name) is not None}
        if names not in _LOGINS:
            raise ValueError("must be session, or account and password, or access_key_id and access_key_secret")
        return self


class EndpointModel(_Strict):
    """Address of ZStack; the ZSTACK_* settings override it. Never a secret."""

    url: Url | None = Field(None, description="base URL, such as https://zstack.example.com:8080/zstack")
    ca_file: Text | None = Field(None, description="PEM file of the certificate authority; relative to the job file")
    insecure: Flag = Field(False, description="do not verify the server's certificate")
    auth: AuthModel | None = Field(None, description="how to log in")


class LimitsModel(_Strict):
    """Limits of the run's calls to the server."""

    rate: Rate = Field(
        10.0,
        description="calls: submit, poll, query and retry together; default 10/s",
        json_schema_extra={"default": "10/s"},
    )
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

    version: Annotated[Literal["1"], _schema(enum=[1, "1"])] = Field(description="format of this file: 1")
    name: Name = Field(description="identity of the job: letters, digits, . _ -")
    run: Run = Field("default", description="identity of this run; may hold ${date}, ${time}, ${name}")
    resume_within: MaybeNoTime | None = Field(
        None,
        description="where run holds ${date} or ${time}: an unfinished run that began less long ago is resumed; "
        "default 12h, 0 with ${time}",
    )
    timezone: TimeZone = Field(
        "UTC", validate_default=True, description="of ${date} and ${time}, an IANA name; default UTC"
    )
    tag: Flag = Field(
        False, description="give each clone a user tag of this job, run and key, by which `zclone verify` finds it"
    )
    endpoint: EndpointModel | None = Field(None, description="where ZStack is; the ZSTACK_* settings override it")
    vars: Vars = Field(default_factory=dict, description="values for ${…}")
    limits: LimitsModel = Field(default_factory=LimitsModel, description="limits of the run's calls to the server")
