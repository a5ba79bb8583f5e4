"""Names of environment variables for settings, and warnings about unknown ones."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from batch.jobfile.job import AuthSettings, EndpointSettings

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
