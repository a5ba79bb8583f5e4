"""Contexts of zstack-cli's config file: named endpoints with their credentials."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import UsageError
from batch.jobfile.events import walk
from batch.jobfile.input_files import open_regular, read_content
from batch.jobfile.nodes import text_tree
from batch.jobfile.problems import Problems
from batch.redaction import SECRETS
from batch.settings.sources import CONFIG
from batch.text import shell_path
from batch.zstack.settings import Auth, PasswordAuth, SessionAuth, endpoint_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batch.model import JsonValue


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
    found = []
    if status.st_mode & 0o077:
        shown = shell_path(path)
        found.append(f"{path}: others on this machine can read it, and it holds credentials: chmod 600 {shown}")
    if status.st_uid not in {os.geteuid(), 0}:
        found.append(f"{path}: belongs to another user ({status.st_uid}), who can redirect your calls: chown it")
    return tuple(found)


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
