"""Job files: check them, and write new ones from examples or from the model services that match query conditions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch import outputs
from batch.app.messages import say
from batch.app.options import DiscoverOutput, Example, ProblemFormat
from batch.errors import JobFileError, UsageError
from batch.jobfile.schema import job_schema
from batch.jobfile.targets import LONG_LIST
from batch.text import to_json
from batch.zstack.params import split_condition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.model import JsonValue
    from batch.settings.sources import EndpointOptions
    from batch.zstack.answers import Service

SCHEMA: Final = "job.schema.json"
"""File name of the schema, as the modeline of job files gives it."""
_HERE: Final = Path(__file__).resolve()
_STARTER: Final = _HERE.with_name("starter.yaml")
_DEFAULT: Final = Path("job.yaml")
_FILES: Final = {
    Example.MIGRATE: ("migrate-arm64.yaml", "migrate-arm64.jsonl"),
    Example.NIGHTLY: ("nightly.yaml",),
    Example.TENANTS: ("onboard-tenants.yaml", "tenants.csv"),
}
"""Files of each example: the job file, then the files it refers to."""
_QUERY_RATE: Final = 10.0
"""Calls per second; each returns a page of 200 services."""


def write_example(example: Example | None, file: Path | None) -> list[Path]:
    """Write an example's job file to ``file``, with its other files and the schema beside it; return the paths.

    ``example``: None for the commented starter job file. ``file``: None for the default name in this folder. An
    existing schema is kept. Raises UsageError, and writes nothing, if another of the files exists.
    """
    if example is None:
        texts = {file or _DEFAULT: _STARTER.read_text(encoding="utf-8")}
    else:
        name, *others = _FILES[example]
        main = file or Path(name)
        texts = {main: _read(name), **{main.parent / other: _read(other) for other in others}}
    folder = next(iter(texts)).parent
    for path in texts:
        if path.exists():
            raise UsageError(f"{path}: File exists: name another, as in zclone init FILE, or move it away")
    for path, text in texts.items():
        outputs.write_new(path, text, mode=outputs.PUBLIC)
    return [*texts, *_write_schema(folder)]


def _write_schema(folder: Path) -> list[Path]:
    """Write the job file schema into ``folder`` unless it exists; return the paths written. Raises UsageError."""
    path = folder / SCHEMA
    if path.exists():
        return []
    outputs.write_new(path, to_json(job_schema(), indent=2) + "\n", mode=outputs.PUBLIC)
    return [path]


def _read(name: str) -> str:
    """Return the text of a file in ``jobs/``, which a wheel ships as ``batch/examples/``."""
    package = _HERE.parents[1]
    shipped = package / "examples"
    folder = shipped if shipped.is_dir() else package.parent / "jobs"
    return (folder / name).read_text(encoding="utf-8")


def check_job_file(path: Path, form: ProblemFormat) -> list[str]:
    """Return the problems of a job file, line by line; if there are none, report its warnings and its targets."""
    from batch.jobfile.render_problems import render_github, render_text, source_line
    from batch.plan import Planning, load_job

    try:
        plan = Planning(load_job(path), run=None, started_at=time.time()).draft().plan
    except JobFileError as error:
        is_text = form is ProblemFormat.TEXT
        return (render_text(error.problems, source_line) if is_text else render_github(error.problems)).split("\n")
    for warning in plan.warnings:
        say(str(warning))
    say(f"{path}: ok, {plan.count} targets")
    return []


@dataclass(frozen=True, slots=True)
class DiscoveredJob:
    """A generated job file."""

    count: int
    """Number of its services."""
    lines: list[str]


def discover_job(
    conditions: Sequence[str], options: EndpointOptions, *, form: DiscoverOutput | None, out: Path | None
) -> DiscoveredJob:
    """Generate a job file of the services that match all conditions, and write it to ``out`` unless that is None.

    ``form``: None for the format by the ending of ``out``. Raises UsageError.
    """
    is_json = out is not None and out.suffix.lower() == ".json"
    if is_json and form is DiscoverOutput.YAML:
        raise UsageError(f"{out}: a job file that ends in .json is read as JSON: use -o json or another ending")
    is_json = is_json or form is DiscoverOutput.JSON
    # Imported here, because the check of a job file and a new one need no event loop.
    import asyncio

    services = asyncio.run(_find_services(conditions, options))
    lines = [*(_json_job(services) if is_json else _yaml_job(services, conditions, has_schema=out is not None))]
    if out is not None:
        outputs.write_new(out, "\n".join(lines) + "\n", mode=outputs.PRIVATE)
        for path in () if is_json else _write_schema(out.parent):
            say(f"wrote {path}")
    return DiscoveredJob(len(services), lines)


async def _find_services(conditions: Sequence[str], options: EndpointOptions) -> list[Service]:
    """Return uuid and name of every service that matches all conditions. Raises UsageError for none or too many."""
    # Imported here, because examples need no server.
    from batch.app.server import Server, say_warnings
    from batch.settings.reader import read_settings
    from batch.zstack.queries import QueryApi

    found = read_settings(options)
    say_warnings(found.warnings)
    for condition in conditions:
        if split_condition(condition) is None:
            raise UsageError(
                f"the query condition {condition!r} has no operator: write it like name=value or name~=qwen%"
            )
    async with Server(found.settings, rate=_QUERY_RATE, environ=options.environ, warn_of=say_warnings) as server:
        query_api = QueryApi(await server.client())
        services = [service async for service in query_api.query(conditions, fields=("uuid", "name"))]
    if not services:
        raise UsageError("no model service matches the conditions")
    if len(services) > LONG_LIST:
        raise UsageError(
            f"{len(services):,} services are more than the {LONG_LIST:,} that one list may hold: "
            "write a job with `query`, or narrow the conditions"
        )
    return services


def _yaml_job(services: Sequence[Service], conditions: Sequence[str], *, has_schema: bool) -> Iterator[str]:
    """Yield the lines of a YAML job file; ``has_schema``: whether the schema is in the same folder."""
    day = _today()
    if has_schema:
        yield f"# yaml-language-server: $schema=./{SCHEMA}"
    yield f"# {len(services)} model services of {day} with {to_json([*conditions])}"
    yield "version: 1"
    yield f"name: discovered-{day}"
    yield "targets:"
    for service in services:
        # JSON, because a name may contain line breaks.
        name = f"  # {to_json(service.name)}" if service.name else ""
        yield f'  - "{service.uuid}"{name}'


def _json_job(services: Sequence[Service]) -> Iterator[str]:
    """Yield the lines of a JSON job file."""
    targets: list[JsonValue] = [service.uuid for service in services]
    yield from to_json({"version": 1, "name": f"discovered-{_today()}", "targets": targets}, indent=2).split("\n")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
