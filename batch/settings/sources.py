"""Sources of settings: names of variables, and the source of the endpoint, which decides where credentials may go."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from batch.jobfile.job import AuthSettings, EndpointSettings
    from batch.settings.files import Context

CONFIG: Final = "ZSTACK_CONFIG"
URL: Final = ("ZSTACK_API_URL", "ZSTACK_ENDPOINT")
SESSION: Final = ("ZSTACK_SESSION_ID",)
KEY_ID: Final = ("ZSTACK_ACCESS_KEY_ID",)
KEY_SECRET: Final = ("ZSTACK_ACCESS_KEY_SECRET",)
ACCOUNT: Final = ("ZSTACK_ACCOUNT", "ZSTACK_ACCOUNT_NAME")
PASSWORD: Final = ("ZSTACK_PASSWORD", "ZSTACK_ACCOUNT_PASSWORD")
SECRET_NAMES: Final = (*SESSION, *KEY_ID, *KEY_SECRET, *PASSWORD)
TEMPORAL_KEY_FILE: Final = "ZCLONE_TEMPORAL_KEY_FILE"
"""Path of the file with the keys for payloads on Temporal."""
NAMES: Final = (
    *URL,
    "ZSTACK_HOST",
    "ZSTACK_PORT",
    *ACCOUNT,
    CONFIG,
    *SECRET_NAMES,
    *(f"{name}_FILE" for name in SECRET_NAMES),
)
"""All variables that are read."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Endpoint settings of environment and command line."""

    environ: Mapping[str, str]
    context: str | None = None
    """The context of zstack-cli's config file; it overrides the environment."""
    insecure: bool = False
    ca_file: Path | None = None
    trust_endpoint: str | None = None


class UntrustedEndpointError(UsageError):
    """The operator's credentials would be sent to an endpoint that only the job file names; nothing was sent."""

    def __init__(self, url: str, what: str) -> None:
        """Name the credentials as ``what`` in the message."""
        super().__init__(
            f"{what}: not sent to {url}, which only the job file names (endpoint.url); if you trust it, add "
            f"--trust-endpoint {url} or set ZCLONE_TRUST_ENDPOINT to it"
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of ZStack and the source that names it."""

    url: str
    is_from_job: bool = False
    """Whether only the job file, possibly with ``--trust-endpoint``, names it; then the file's TLS settings apply."""
    is_trusted: bool = True
    """Whether environment, context or flag names it; then the operator's credentials may be sent there."""
    context: Context | None = None
    """The context that names it, if it was read."""

    def require_trusted(self, what: str) -> None:
        """Raise UntrustedEndpointError if the operator's credentials, called ``what``, may not be sent there."""
        if not self.is_trusted:
            raise UntrustedEndpointError(self.url, what)


def find_endpoint(
    own: str | None, of_job: str | None, *, trusted: str | None, current: Callable[[], Context | None]
) -> Endpoint | None:
    """Return the endpoint of the environment, else of the job file, else of the current context, else None.

    ``own``, ``of_job`` and ``trusted`` (by flag) are urls as ``endpoint_url`` returns them; ``current`` reads
    zstack-cli's config and is called only if needed.
    """
    if own is not None:
        return Endpoint(own)
    if of_job is not None and of_job == trusted:
        return Endpoint(of_job, is_from_job=True)
    context = current()
    if of_job is None:
        return None if context is None else Endpoint(context.url, context=context)
    if context is not None and context.url == of_job:
        return Endpoint(of_job, context=context)
    return Endpoint(of_job, is_from_job=True, is_trusted=False)


def tls_warnings(job: EndpointSettings | None, endpoint: Endpoint) -> tuple[str, ...]:
    """Return a warning for each TLS setting of a job file that is ignored because another source names the endpoint."""
    if job is None or endpoint.is_from_job:
        return ()
    why = f"of the job file is ignored for {endpoint.url}, which environment, context or flag set"
    mine = "use --ca-file FILE (ZCLONE_CA_FILE)"
    warnings = []
    if job.ca_file is not None:
        warnings.append(f"endpoint.ca_file {why}: {mine}")
    if job.insecure:
        warnings.append(f"endpoint.insecure {why}: {mine}, or --insecure")
    return tuple(warnings)


def unknown_names(environ: Mapping[str, str], job: EndpointSettings | None = None) -> tuple[str, ...]:
    """Return a warning for each unknown ZSTACK_* variable."""
    known = {*NAMES, *_job_names(job)}
    return tuple(_unknown(name) for name in sorted(environ) if name.startswith("ZSTACK_") and name not in known)


def _job_names(job: EndpointSettings | None) -> tuple[str, ...]:
    auth: AuthSettings | None = None if job is None else job.auth
    refs = () if auth is None else (auth.session, auth.password, auth.access_key_secret)
    return tuple(ref.env for ref in refs if ref is not None and ref.env is not None)


def unknown_flags(environ: Mapping[str, str], known: Collection[str]) -> tuple[str, ...]:
    """Return a warning for each ZCLONE_* variable that is not in ``known``, the options of all commands."""
    known = {*known, TEMPORAL_KEY_FILE}
    return tuple(_unknown(name, known) for name in sorted(environ) if name.startswith("ZCLONE_") and name not in known)


def _unknown(name: str, known: Collection[str] = NAMES) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"{name} is not a variable of zclone" + (f": did you mean {near[0]}?" if near else "")
