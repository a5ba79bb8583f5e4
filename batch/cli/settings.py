"""Where ZStack is and who asks, from environment, job file and zstack-cli's contexts: CONTRACT section 5.

A pure function over an environ mapping; files are read only where a setting names them. Errors and warnings name
settings and never repeat a secret.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.cli.contexts import CONFIG, Context, checked_url, find_context, read_config
from batch.cli.named_files import check_certificates, read_secret
from batch.errors import UsageError
from batch.zstack.settings import AccessKeyAuth, Auth, PasswordAuth, SessionAuth, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from batch.jobfile.job import AuthSettings, EndpointSettings, SecretRef
    from batch.model import JsonValue

URL: Final = ("ZSTACK_API_URL", "ZSTACK_ENDPOINT")
SESSION: Final = ("ZSTACK_SESSION_ID",)
KEY_ID: Final = ("ZSTACK_ACCESS_KEY_ID",)
KEY_SECRET: Final = ("ZSTACK_ACCESS_KEY_SECRET",)
ACCOUNT: Final = ("ZSTACK_ACCOUNT", "ZSTACK_ACCOUNT_NAME")
PASSWORD: Final = ("ZSTACK_PASSWORD", "ZSTACK_ACCOUNT_PASSWORD")
_SECRETS: Final = (*SESSION, *KEY_ID, *KEY_SECRET, *PASSWORD)
NAMES: Final = (
    *URL,
    "ZSTACK_HOST",
    "ZSTACK_PORT",
    *ACCOUNT,
    CONFIG,
    *_SECRETS,
    *(f"{name}_FILE" for name in _SECRETS),
)
"""Every variable that is read."""
_DEFAULT_PORT = "8080"


@dataclass(frozen=True, slots=True)
class Found:
    """What the settings come to, and what the operator should know of them."""

    settings: Settings
    warnings: tuple[str, ...]


def read_settings(
    environ: Mapping[str, str],
    *,
    job: EndpointSettings | None = None,
    context: str | None = None,
    insecure: bool = False,
    read_yaml: Callable[[Path], JsonValue] = read_config,
) -> Found:
    """Put the settings together; a named ``context`` goes over the environment, which goes over the ``job`` file.

    Raises UsageError naming what is missing, cannot be used, or disagrees.
    """
    reader = _Reader(environ)
    chosen = None if context is None else find_context(environ, context, read_yaml)
    if chosen is None:
        url, auth = reader.url() or _job_url(job), reader.auth() or _job_auth(job, reader)
        chosen = find_context(environ, None, read_yaml) if url is None or auth is None else None
    else:
        url, auth = chosen.url, chosen.auth or reader.auth()
    url, auth = _completed(url, auth, chosen)
    if url is None:
        raise UsageError(
            "no endpoint: set ZSTACK_API_URL, or endpoint.url in the job file, or rehearse with --simulate"
        )
    if auth is None:
        raise UsageError(
            "no credentials: set ZSTACK_SESSION_ID, or ZSTACK_ACCESS_KEY_ID and ZSTACK_ACCESS_KEY_SECRET, or "
            "ZSTACK_ACCOUNT and ZSTACK_PASSWORD (each secret also as NAME_FILE)"
        )
    ca_file = None if job is None else job.ca_file
    if ca_file is not None:
        check_certificates(ca_file)
    is_insecure = insecure or (job is not None and job.insecure)
    warnings = (*reader.warnings, *(chosen.warnings if chosen is not None else ()), *unknown_names(environ, job))
    return Found(Settings(url, auth, ca_file, is_insecure), warnings)


def unknown_names(environ: Mapping[str, str], job: EndpointSettings | None = None) -> tuple[str, ...]:
    """One warning for each ZSTACK_* variable that nothing reads."""
    known = {*NAMES, *_job_names(job)}
    return tuple(_unknown(name) for name in sorted(environ) if name.startswith("ZSTACK_") and name not in known)


class _Reader:
    """Reads variables with their aliases and _FILE twins; collects warnings."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.warnings: list[str] = []

    def url(self) -> str | None:
        """Read the endpoint; the host and port pair counts as one more name for it."""
        given = [(name, checked_url(name, self._environ[name])) for name in URL if self._environ.get(name)]
        host = self._environ.get("ZSTACK_HOST")
        port = self._environ.get("ZSTACK_PORT") or _DEFAULT_PORT
        if host:
            bare = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
            given.append(("ZSTACK_HOST", checked_url("ZSTACK_HOST", f"http://{bare}:{port}")))
        return _agreed(given)

    def auth(self) -> Auth | None:
        """Read the first credentials that are there: session, AccessKey, account."""
        readers = (
            ("ZSTACK_SESSION_ID", self._session),
            ("ZSTACK_ACCESS_KEY_ID", self._key),
            (ACCOUNT[0], self._account),
        )
        found = [(name, auth) for name, read in readers if (auth := read()) is not None]
        for name, _ in found[1:]:
            self.warnings.append(f"{name} is not used: {found[0][0]} is set")
        return found[0][1] if found else None

    def text(self, names: Sequence[str]) -> str | None:
        """Read the value on which all set names agree; None where none is set."""
        values = [(name, self._environ[name]) for name in names if self._environ.get(name)]
        files = [f"{name}_FILE" for name in names if name in _SECRETS]
        values += [
            (name, read_secret(name, Path(self._environ[name]), self._environ))
            for name in files
            if self._environ.get(name)
        ]
        return _agreed(values)

    def referred(self, name: str, ref: SecretRef) -> str:
        """Read the secret whose variable or file a job file names; ``name`` is its path in the job file."""
        return read_secret(name, ref.file, self._environ) if ref.file is not None else self._variable(ref.env or "")

    def _variable(self, name: str) -> str:
        value = self._environ.get(name)
        if not value:
            raise UsageError(f"{name}: the job file takes a secret from it, and it is not set")
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
            raise UsageError(f"{present} is set and {absent} is not")
        return one, other


def _agreed(values: Sequence[tuple[str, str]]) -> str | None:
    for name, value in values[1:]:
        if value != values[0][1]:
            raise UsageError(f"{values[0][0]} and {name} disagree: unset one of them")
    return values[0][1] if values else None


def _job_url(job: EndpointSettings | None) -> str | None:
    return None if job is None or job.url is None else checked_url("endpoint.url", job.url)


def _job_auth(job: EndpointSettings | None, reader: _Reader) -> Auth | None:
    auth = None if job is None else job.auth
    if auth is None:
        return None
    if auth.session is not None:
        return SessionAuth(reader.referred("endpoint.auth.session", auth.session))
    if auth.account is not None and auth.password is not None:
        return PasswordAuth(auth.account, reader.referred("endpoint.auth.password", auth.password))
    if auth.access_key_id is not None and auth.access_key_secret is not None:
        secret = reader.referred("endpoint.auth.access_key_secret", auth.access_key_secret)
        return AccessKeyAuth(auth.access_key_id, secret)
    raise UsageError("endpoint.auth: half of the credentials is missing")


def _job_names(job: EndpointSettings | None) -> tuple[str, ...]:
    auth: AuthSettings | None = None if job is None else job.auth
    refs = () if auth is None else (auth.session, auth.password, auth.access_key_secret)
    return tuple(ref.env for ref in refs if ref is not None and ref.env is not None)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.75)
    return f"{name} is not read by anything" + (f": did you mean {near[0]}?" if near else "")


def _completed(url: str | None, auth: Auth | None, chosen: Context | None) -> tuple[str | None, Auth | None]:
    """Add what is missing; a context's credentials go to its own endpoint only, whatever a job file says."""
    if chosen is None or url not in {None, chosen.url}:
        return url, auth
    return chosen.url, auth or chosen.auth
