"""Files that settings name: zstack-cli's contexts, secrets, which no other user may read, and certificates."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.jobfile.events import walk
from batch.jobfile.input_files import open_regular, read_content
from batch.jobfile.problems import Problems
from batch.jobfile.values import text_tree
from batch.redaction import SECRETS
from batch.settings.sources import CONFIG
from batch.text import shell_path
from batch.zstack.settings import Auth, PasswordAuth, SessionAuth, endpoint_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue

LARGEST_SECRET: Final = 65536
"""Bytes."""
LARGEST_CERTIFICATES: Final = 16 << 20
"""Maximum size in bytes; the CA bundle of a distribution is under 1 MiB."""
_DOCKER: Final = Path("/run/secrets")
_OTHERS_WRITE: Final = 0o022
_OTHERS: Final = 0o077


def read_secret(name: str, path: Path, environ: Mapping[str, str]) -> str:
    """Read a secret file, without a trailing line break.

    Raises UsageError, with setting, file and remedy, if it is unreadable or accessible to others.
    """
    try:
        # O_NONBLOCK, so that opening a pipe without a writer does not block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as stream:
            wrong = _exposure(path, os.fstat(stream.fileno()), is_mounted=_is_mounted(path, environ))
            if wrong:
                raise UsageError(f"{name}: {path} {wrong}")
            text = stream.read(LARGEST_SECRET + 1).decode()
    except OSError as error:
        raise UsageError(f"{name}: {path} cannot be read: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name}: {path} is not UTF-8 text") from None
    secret = text.removesuffix("\n").removesuffix("\r")
    if not secret or len(secret) > LARGEST_SECRET:
        raise UsageError(f"{name}: {path} is {'too large' if secret else 'empty'}")
    return secret


def check_certificates(path: Path) -> None:
    """Raise UsageError if ``path`` is not a completely readable file."""
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"the CA file {path} cannot be used: {error.strerror or type(error).__name__}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"the CA file {path} cannot be used: it is not a regular file")
    if status.st_size > LARGEST_CERTIFICATES:
        raise UsageError(f"the CA file {path} cannot be used: it is larger than 16 MiB")


def _exposure(path: Path, status: os.stat_result, *, is_mounted: bool) -> str:
    """Return the problem with the file's owner or mode and the command that fixes it; empty if there is none."""
    mode = status.st_mode
    if not stat.S_ISREG(mode):
        return "is not a regular file"
    chmod = f"chmod 600 {shell_path(path)}"
    if is_mounted:
        return f"can be changed by others (mode {mode & 0o777:04o}): {chmod}" if mode & _OTHERS_WRITE else ""
    user = os.geteuid()
    if status.st_uid not in {user, 0}:
        return f"belongs to another user ({status.st_uid}): chown {user} {shell_path(path)} && {chmod}"
    return f"is open to others on this machine (mode {mode & 0o777:04o}): {chmod}" if mode & _OTHERS else ""


def is_operators(path: Path, environ: Mapping[str, str]) -> bool:
    """Return whether a service manager provides the file: systemd's credentials, Docker's secrets."""
    folders = [_DOCKER]
    if environ.get("CREDENTIALS_DIRECTORY"):
        folders.append(Path(environ["CREDENTIALS_DIRECTORY"]))
    return any(is_below(path, folder) for folder in folders)


def is_below(path: Path, folder: Path) -> bool:
    """Return whether ``path``, with links resolved, is below ``folder``."""
    return path.resolve().is_relative_to(folder.resolve())


def _is_mounted(path: Path, environ: Mapping[str, str]) -> bool:
    """Return whether a service manager mounted the file for this service, with owner and mode of its own choice.

    systemd's credentials are root's with mode 0440 if an ACL grants access to the service's user; Docker's secrets have
    0444, Kubernetes' 0644 by default.
    """
    return is_operators(path, environ) or _is_in_secret_volume(path.resolve())


def _is_in_secret_volume(real: Path) -> bool:
    """Return whether a file is in a Kubernetes secret volume.

    Such a volume is a tmpfs in which the link ``..data`` and its target folder, such as ``..2026_11_23``, are root's.
    """
    folder = real.parent
    link = folder.parent / "..data"
    try:
        statuses = (real.stat(), folder.stat(), link.lstat())
        leads_here = link.is_symlink() and link.resolve() == folder
    except OSError:
        return False
    is_roots = all(status.st_uid == 0 for status in statuses) and not statuses[1].st_mode & _OTHERS_WRITE
    return folder.name.startswith("..") and leads_here and is_roots and _is_tmpfs(statuses[0].st_dev)


def _is_tmpfs(device: int) -> bool:
    """Return whether a device number is that of a tmpfs in this process's mount table."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    rows = (line.partition(" - ") for line in lines)
    return any(head.split()[2] == number and kind.split()[0] == "tmpfs" for head, _, kind in rows)


@dataclass(frozen=True, slots=True)
class Context:
    """One context of zstack-cli's config file."""

    name: str
    url: str
    auth: Auth | None = field(repr=False)
    warnings: tuple[str, ...] = ()


def read_config(path: Path) -> JsonValue:
    """Read a YAML file as maps, lists and texts. Raises UsageError with the positions of errors in it."""
    problems = Problems()
    try:
        # Opening a pipe must not block the command.
        open_regular(path).close()
    except OSError as error:
        raise UsageError(f"{path}: cannot be used: {error.strerror or error}") from None
    tree: dict[str, JsonValue] = {
        key.text: text_tree(node) for key, node in walk(read_content(path), str(path), problems)
    }
    problems.raise_any()
    return tree


def check_url(name: str, text: str) -> str:
    """Validate an endpoint as ``endpoint_url`` does. Raises UsageError that names the setting."""
    try:
        return endpoint_url(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def find_context(environ: Mapping[str, str], name: str | None) -> Context | None:
    """Return the context ``name``, or the config file's current one; None if there is no config file."""
    path = config_path(environ)
    if path is None or (not environ.get(CONFIG) and name is None and not path.is_file()):
        return None
    tree = read_config(path)
    config = tree if isinstance(tree, dict) else {}
    wanted = name or config.get("current-context")
    if wanted is None:
        return None
    contexts = _contexts(config.get("contexts"))
    fields = contexts.get(str(wanted))
    if fields is None:
        known = ", ".join(sorted(contexts)) or "none"
        raise UsageError(f"{path}: has no context {wanted}; it has: {known}")
    return replace(_context(f"{path}: context {wanted}", str(wanted), fields), warnings=_exposure_warnings(path))


def context_names(environ: Mapping[str, str]) -> list[str]:
    """Return the names of all contexts; none if there is no file. Raises UsageError as ``read_config`` does."""
    path = config_path(environ)
    if path is None or not path.is_file():
        return []
    tree = read_config(path)
    return sorted(_contexts(tree.get("contexts"))) if isinstance(tree, dict) else []


def config_path(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the config file; None if no variable gives it and there is no home directory."""
    given, home = environ.get(CONFIG), environ.get("HOME")
    return Path(given) if given else Path(home, ".zstack-cli", "config.yaml") if home else None


def _exposure_warnings(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    status = path.stat()
    warnings = []
    if status.st_mode & 0o077:
        shown = shell_path(path)
        warnings.append(f"{path}: others on this machine can read it, and it holds credentials: chmod 600 {shown}")
    if status.st_uid not in {os.geteuid(), 0}:
        warnings.append(f"{path}: belongs to another user ({status.st_uid}), who can redirect your calls: chown it")
    return tuple(warnings)


def _contexts(value: JsonValue) -> dict[str, Mapping[str, JsonValue]]:
    """Return the contexts, given as a map by name or as a list of maps with a name."""
    if isinstance(value, dict):
        return {name: fields for name, fields in value.items() if isinstance(fields, dict)}
    rows = value if isinstance(value, list) else []
    return {str(row.get("name")): row for row in rows if isinstance(row, dict)}


def _context(where: str, name: str, fields: Mapping[str, JsonValue]) -> Context:
    texts = {key: value for key, value in fields.items() if isinstance(value, str) and value}
    url = check_url(f"{where}: endpoint", texts.get("endpoint", ""))
    auth: Auth | None = None
    SECRETS.add_all(texts[key] for key in ("session_uuid", "password") if key in texts)
    if "session_uuid" in texts:
        auth = SessionAuth(texts["session_uuid"])
    elif "username" in texts and "password" in texts:
        auth = PasswordAuth(texts["username"], texts["password"])
    return Context(name, url, auth)
