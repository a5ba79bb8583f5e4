"""Read endpoint and credentials from environment, job file and zstack-cli's contexts.

Files are read only if a setting names them. Errors and warnings name settings and never contain a secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.redaction import SECRETS
from batch.settings.files import check_certificates, check_url, find_context, is_below, is_operators, read_secret
from batch.settings.sources import (
    ACCOUNT,
    KEY_ID,
    KEY_SECRET,
    PASSWORD,
    SECRET_NAMES,
    SESSION,
    URL,
    Endpoint,
    find_endpoint,
    tls_warnings,
    unknown_names,
)
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batch.jobfile.job import EndpointSettings, SecretRef
    from batch.settings.files import Context
    from batch.settings.sources import EndpointOptions

_DEFAULT_PORT = "8080"
_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True)
class SettingsResult:
    """The settings, with warnings for the operator."""

    settings: Settings
    warnings: tuple[str, ...]


def read_settings(options: EndpointOptions, job: EndpointSettings | None = None) -> SettingsResult:
    """Combine the settings: a named context overrides the environment, which overrides the ``job`` file.

    Every secret that is read is redacted from then on. Raises UsageError for missing, invalid or contradictory
    settings, UntrustedEndpointError.
    """
    reader = _Reader(options)
    endpoint = reader.endpoint(job)
    if endpoint is None:
        # Contradictory credentials are reported first.
        reader.auth()
        raise UsageError(
            "no endpoint: set ZSTACK_API_URL, or endpoint.url in the job file, or rehearse with --simulate"
        )
    auth = _auth(endpoint, job, reader, is_context_named=options.context is not None)
    if auth is None:
        raise UsageError(
            "no credentials: set ZSTACK_SESSION_ID, or ZSTACK_ACCESS_KEY_ID and ZSTACK_ACCESS_KEY_SECRET, or "
            "ZSTACK_ACCOUNT and ZSTACK_PASSWORD (each secret also as NAME_FILE)"
        )
    tls = job if endpoint.is_from_job else None
    ca_file = options.ca_file or (None if tls is None else tls.ca_file)
    if ca_file is not None:
        check_certificates(ca_file)
    is_insecure = options.insecure or (tls is not None and tls.insecure)
    warnings = (*reader.warnings, *tls_warnings(job, endpoint), *unknown_names(options.environ, job))
    return SettingsResult(Settings(endpoint.url, auth, ca_file, is_insecure), warnings)


def endpoint_for_shell(options: EndpointOptions, job: EndpointSettings | None) -> str | None:
    """Return the endpoint to which printed commands may send the shell's ZSTACK_SESSION_ID; None if none is named.

    Raises UntrustedEndpointError.
    """
    endpoint = _Reader(options).endpoint(job)
    if endpoint is None:
        return None
    endpoint.require_trusted("ZSTACK_SESSION_ID of the shell that runs the printed commands")
    return endpoint.url


class _Reader:
    """Reads contexts, and variables with their aliases and _FILE variants; collects warnings."""

    def __init__(self, options: EndpointOptions) -> None:
        self._options = options
        self._environ = options.environ
        self._context = cache(partial(find_context, options.environ))
        self._warnings: list[str] = []
        self._used: Context | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about unused variables and about the config file in use."""
        return (*self._warnings, *(() if self._used is None else self._used.warnings))

    def endpoint(self, job: EndpointSettings | None) -> Endpoint | None:
        """Return the endpoint and its source. Raises UsageError for an invalid URL."""
        context, url = self._options.context, self._options.trust_endpoint
        trusted = None if url is None else check_url("--trust-endpoint", url)
        named = None if context is None else self._context(context)
        if named is not None:
            self._used = named
            return Endpoint(named.url, context=named)
        endpoint = find_endpoint(self.url(), _job_url(job), trusted=trusted, current=partial(self._context, None))
        self._used = None if endpoint is None else endpoint.context
        return endpoint

    def context_auth(self, endpoint: Endpoint) -> Auth | None:
        """Return the current context's credentials if ``endpoint`` is the context's own."""
        context = endpoint.context or (self._context(None) if not endpoint.is_from_job else None)
        if context is None or context.url != endpoint.url:
            return None
        self._used = context
        return context.auth

    def url(self) -> str | None:
        """Return the endpoint; host and port count as one more alias."""
        given = [(name, check_url(name, self._environ[name])) for name in URL if self._environ.get(name)]
        host = self._environ.get("ZSTACK_HOST")
        port = self._environ.get("ZSTACK_PORT") or _DEFAULT_PORT
        if host:
            bare = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
            given.append(("ZSTACK_HOST", check_url("ZSTACK_HOST", f"http://{bare}:{port}")))
        return _common_value(given)

    def auth(self) -> tuple[str, Auth] | None:
        """Return the first credentials that are set, with their name: session, access key, account."""
        readers = (
            ("ZSTACK_SESSION_ID", self._session),
            ("ZSTACK_ACCESS_KEY_ID", self._key),
            (ACCOUNT[0], self._account),
        )
        credentials = [(name, auth) for name, read in readers if (auth := read()) is not None]
        for name, _ in credentials[1:]:
            self.warn(f"{name} is not used: {credentials[0][0]} is set")
        return credentials[0] if credentials else None

    def warn(self, text: str) -> None:
        """Add a warning."""
        self._warnings.append(text)

    def text(self, names: Sequence[str]) -> str | None:
        """Return the value that all set variables agree on; None if none is set."""
        values = [(name, self._value(name)) for name in names if self._environ.get(name)]
        files = [f"{name}_FILE" for name in names if name in SECRET_NAMES]
        values += [
            (name, self._secret(name, read_secret(name, Path(self._environ[name]), self._environ)))
            for name in files
            if self._environ.get(name)
        ]
        if names not in (KEY_ID, ACCOUNT):
            SECRETS.add_all(value for _, value in values)
        return _common_value(values)

    def _value(self, name: str) -> str:
        value = self._environ[name]
        return self._secret(name, value) if name in SECRET_NAMES else value

    def _secret(self, name: str, value: str) -> str:
        """Remove a trailing line break and a leading byte order mark, which no secret has, with a warning."""
        secret = value.removeprefix(_BOM).rstrip("\r\n")
        if not secret:
            raise UsageError(f"{name}: is empty")
        if secret != value:
            what = "a byte order mark at the start" if value.startswith(_BOM) else "a line break at the end"
            self._warnings.append(f"{name}: {what} of the secret was removed")
        return secret

    def read_reference(self, name: str, ref: SecretRef, *, folder: Path, endpoint: Endpoint) -> str:
        """Read the secret from the variable or file that a job file in ``folder`` gives at the path ``name``.

        Raises UsageError for a source that belongs to neither job nor operator, UntrustedEndpointError for one of the
        operator.
        """
        if ref.file is None:
            secret = self._variable(name, ref.env or "", endpoint)
        elif is_operators(ref.file, self._environ):
            endpoint.require_trusted(f"{name}, {ref.file}")
            secret = read_secret(name, ref.file, self._environ)
        elif is_below(ref.file, folder):
            secret = read_secret(name, ref.file, self._environ)
        else:
            raise UsageError(
                f"{name}: {ref.file} is neither below the job file's folder nor below $CREDENTIALS_DIRECTORY or "
                "/run/secrets: put it there, or name it yourself, such as in ZSTACK_SESSION_ID_FILE"
            )
        SECRETS.add(secret)
        return secret

    def _variable(self, name: str, variable: str, endpoint: Endpoint) -> str:
        if not variable.startswith("ZSTACK_"):
            raise UsageError(f"{name}: a job file may name ZSTACK_* variables only, not {variable}")
        endpoint.require_trusted(f"{name}, {variable}")
        value = self._environ.get(variable)
        if not value:
            raise UsageError(f"{variable}: is not set, and the job file reads a secret from it")
        return value

    def _session(self) -> Auth | None:
        uuid = self.text(SESSION)
        return None if uuid is None else SessionAuth(uuid)

    def _key(self) -> Auth | None:
        pair = self._pair(KEY_ID, KEY_SECRET)
        return None if pair is None else AccessKeyAuth(*pair)

    def _account(self) -> Auth | None:
        pair = self._pair(ACCOUNT, PASSWORD)
        return None if pair is None else PasswordAuth(*pair)

    def _pair(self, first: Sequence[str], second: Sequence[str]) -> tuple[str, str] | None:
        one, other = self.text(first), self.text(second)
        if one is None and other is None:
            return None
        if one is None or other is None:
            present, absent = (first[0], second[0]) if other is None else (second[0], first[0])
            raise UsageError(f"{present} is set, but {absent} is not")
        return one, other


def _common_value(values: Sequence[tuple[str, str]]) -> str | None:
    for name, value in values[1:]:
        if value != values[0][1]:
            raise UsageError(f"{values[0][0]} and {name} disagree: unset one of them")
    return values[0][1] if values else None


def _job_url(job: EndpointSettings | None) -> str | None:
    return None if job is None or job.url is None else check_url("endpoint.url", job.url)


def _auth(endpoint: Endpoint, job: EndpointSettings | None, reader: _Reader, *, is_context_named: bool) -> Auth | None:
    """Return the operator's credentials, else those of the job file. Raises UntrustedEndpointError."""
    of_context = reader.context_auth(endpoint) if is_context_named else None
    credentials = ("--context", of_context) if of_context is not None else reader.auth()
    if not endpoint.is_trusted:
        own = _job_auth(job, reader, endpoint)
        if credentials is not None and own is None:
            endpoint.require_trusted(credentials[0])
        if credentials is not None:
            reader.warn(f"{credentials[0]} is not used: only the job file names {endpoint.url}")
        return own
    auth = reader.context_auth(endpoint) if credentials is None else credentials[1]
    auth = auth or _job_auth(job, reader, endpoint)
    if isinstance(auth, AccessKeyAuth):
        SECRETS.add_key_id(auth.key_id)
    return auth


def _job_auth(job: EndpointSettings | None, reader: _Reader, endpoint: Endpoint) -> Auth | None:
    auth = None if job is None else job.auth
    if job is None or auth is None:
        return None
    read = partial(reader.read_reference, folder=job.folder, endpoint=endpoint)
    if auth.session is not None:
        return SessionAuth(read("endpoint.auth.session", auth.session))
    if auth.account is not None and auth.password is not None:
        return PasswordAuth(auth.account, read("endpoint.auth.password", auth.password))
    if auth.access_key_id is not None and auth.access_key_secret is not None:
        return AccessKeyAuth(auth.access_key_id, read("endpoint.auth.access_key_secret", auth.access_key_secret))
    raise UsageError("endpoint.auth: half of the credentials is missing")
