"""Contexts of zstack-cli's config file: endpoints with their credentials, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.errors import UsageError
from batch.jobfile.content import read_content
from batch.jobfile.events import walk
from batch.jobfile.inputs import InputFiles
from batch.jobfile.nodes import text_tree
from batch.jobfile.problems import Problems
from batch.zstack.settings import Auth, PasswordAuth, SessionAuth, endpoint_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batch.model import JsonValue

CONFIG: Final = "ZSTACK_CONFIG"


@dataclass(frozen=True, slots=True)
class Context:
    """One context of zstack-cli's config file."""

    name: str
    url: str
    auth: Auth | None = field(repr=False)
    warnings: tuple[str, ...] = ()


def read_config(path: Path) -> JsonValue:
    """Read a YAML file as maps, lists and texts. Raises UsageError with the places of what is wrong in it."""
    problems = Problems()
    tree: dict[str, JsonValue] = {
        key.text: text_tree(node) for key, node in walk(read_content(path, InputFiles()), str(path), problems)
    }
    problems.raise_any()
    return tree


def checked_url(name: str, text: str) -> str:
    """Check an endpoint as ``endpoint_url`` does. Raises UsageError that names the setting."""
    try:
        return endpoint_url(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def find_context(
    environ: Mapping[str, str], name: str | None, read_yaml: Callable[[Path], JsonValue]
) -> Context | None:
    """Take the context called ``name``, or the config file's current one; None where there is no such file."""
    given = environ.get(CONFIG)
    home = environ.get("HOME")
    path = Path(given) if given else Path(home, ".zstack-cli", "config.yaml") if home else None
    if path is None or (not given and name is None and not path.is_file()):
        return None
    tree = read_yaml(path)
    config = tree if isinstance(tree, dict) else {}
    wanted = name or config.get("current-context")
    if wanted is None:
        return None
    contexts = _contexts(config.get("contexts"))
    fields = contexts.get(str(wanted))
    if fields is None:
        known = ", ".join(sorted(contexts)) or "none"
        raise UsageError(f"{path}: there is no context {wanted}; there is: {known}")
    return replace(_context(f"{path}: context {wanted}", str(wanted), fields), warnings=_exposed(path))


def _exposed(path: Path) -> tuple[str, ...]:
    is_open = path.is_file() and path.stat().st_mode & 0o077
    return (f"{path}: others on this machine can read it, and it holds credentials: chmod 600",) if is_open else ()


def _contexts(value: JsonValue) -> dict[str, Mapping[str, JsonValue]]:
    """Read the contexts, written as a map by name or as a list of maps with a name."""
    if isinstance(value, dict):
        return {name: fields for name, fields in value.items() if isinstance(fields, dict)}
    rows = value if isinstance(value, list) else []
    return {str(row.get("name")): row for row in rows if isinstance(row, dict)}


def _context(where: str, name: str, fields: Mapping[str, JsonValue]) -> Context:
    texts = {key: value for key, value in fields.items() if isinstance(value, str) and value}
    url = checked_url(f"{where}: endpoint", texts.get("endpoint", ""))
    auth: Auth | None = None
    if "session_uuid" in texts:
        auth = SessionAuth(texts["session_uuid"])
    elif "username" in texts and "password" in texts:
        auth = PasswordAuth(texts["username"], texts["password"])
    return Context(name, url, auth)
