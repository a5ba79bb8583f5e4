"""What the shell may complete from a manifest: keys and error codes. Whatever goes wrong completes nothing."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import typer

from batch.errors import ZcloneError

_MOST: Final = 200


def keys(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the keys of the manifest named before that begin so."""
    from batch.manifest import rows

    found: list[str] = []
    for path in _manifests(ctx):
        with suppress(ZcloneError):
            found += islice((row.key for row in rows(path) if row.key.startswith(incomplete)), _MOST)
    return found


def codes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the error codes in the manifest named before, or in those of the job file named before."""
    from batch.manifest import summary

    found: set[str] = set()
    for path in _manifests(ctx):
        with suppress(ZcloneError):
            found |= {cluster.code for cluster in summary(path).clusters if cluster.code.startswith(incomplete)}
    return sorted(found)


def _manifests(ctx: typer.Context) -> Iterator[Path]:
    # Words before an unfinished option are not parsed yet: the first of them is the command's one argument.
    first = next(iter(ctx.args), None)
    is_of_job = "job" in ctx.params
    job = (ctx.params["job"] or first) if is_of_job else None
    manifest = ctx.params.get("manifest") or (None if is_of_job else first)
    if manifest is not None:
        yield Path(manifest)
    elif job is not None:
        yield from sorted(Path().glob(f"{Path(job).stem}.*manifest.jsonl"))
