"""Shell completion of files, contexts, keys and error codes; on any error there are no candidates."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

from batch.errors import ZcloneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MANIFESTS: Final = (".manifest.jsonl",)
JOBS: Final = (".yaml", ".yml", ".json")
_SCHEMA: Final = ".schema.json"
_MAX_CANDIDATES: Final = 200
_HARMLESS: Final = re.compile(r"[A-Za-z0-9._:@%+,=\[\]/-]+")
"""Characters that the shell never interprets, in any position of a word.

Completion scripts evaluate the candidates, and not all of them quote. Candidates with other characters are left out;
otherwise the author of a manifest or a file name could run code when TAB is pressed.
"""


def files(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Return the files with one of ``endings``, and the folders, whose paths begin with ``incomplete``."""
    folder, slash, start = incomplete.rpartition("/")
    found: list[str] = []
    with suppress(OSError), os.scandir(folder or slash or ".") as entries:
        for entry in entries:
            is_folder = entry.is_dir()
            is_wanted = is_folder or (entry.name.endswith(endings) and not entry.name.endswith(_SCHEMA))
            is_hidden = entry.name.startswith(".") and not start.startswith(".")
            if is_wanted and not is_hidden and _is_offered(entry.name, start):
                found.append(f"{folder}{slash}{entry.name}{'/' if is_folder else ''}")
    return sorted(found)[:_MAX_CANDIDATES]


def contexts(incomplete: str, environ: Mapping[str, str]) -> list[str]:
    """Return the contexts of zstack-cli's config that begin with ``incomplete``."""
    from batch.settings.contexts import context_names

    with suppress(ZcloneError):
        return [name for name in context_names(environ) if _is_offered(name, incomplete)]
    return []


def keys(incomplete: str, manifests: Iterable[Path]) -> list[str]:
    """Return the keys in the manifests that begin with ``incomplete``."""
    from batch.manifest import rows

    found: list[str] = []
    for path in manifests:
        with suppress(ZcloneError):
            found += islice((row.key for row in rows(path) if _is_offered(row.key, incomplete)), _MAX_CANDIDATES)
    return found


def codes(incomplete: str, manifests: Iterable[Path]) -> list[str]:
    """Return the error codes in the manifests that begin with ``incomplete``."""
    from batch.manifest import summary

    found: set[str] = set()
    for path in manifests:
        with suppress(ZcloneError):
            found |= {cluster.code for cluster in summary(path).clusters if _is_offered(cluster.code, incomplete)}
    return sorted(found)


def _is_offered(candidate: str, incomplete: str) -> bool:
    return candidate.startswith(incomplete) and _HARMLESS.fullmatch(candidate) is not None
