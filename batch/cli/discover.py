"""``zclone discover``: the model services that meet conditions, as a job file to start from."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from batch.cli import options
from batch.cli.terminal import emit, say
from batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.zstack.answers import Service
    from batch.zstack.settings import Settings

RATE: Final = 10.0
"""Calls a second: a page of 200 services each."""


def discover(
    conditions: options.Conditions = None,
    *,
    output: options.NewJobFile = None,
    insecure: options.Insecure = False,
    context: options.Context = None,
) -> None:
    """Write a job file of all model services that meet every CONDITION, such as type=Endpoint 'name~=qwen%'.

    The services of this moment are listed; a job with `query` asks anew at the start of each run.
    """
    import asyncio

    from batch.cli.server import say_warnings
    from batch.cli.settings import read_settings

    settings = read_settings(os.environ, job=None, context=context, insecure=insecure)
    asked = list(conditions or ())
    say_warnings(settings.warnings)
    services = asyncio.run(_ask(settings.settings, asked))
    lines = list(job_lines(services, asked))
    if output is None:
        emit(lines)
    else:
        _write(output, lines)
    say(f"{len(services)} model services found")


async def _ask(settings: "Settings", conditions: list[str]) -> "list[Service]":
    from batch.cli.server import Server, say_warnings
    from batch.zstack.surroundings import Surroundings, split_condition

    for condition in conditions:
        split_condition(condition)
    async with Server(settings, rate=RATE, tell=say_warnings) as server:
        surroundings = Surroundings(await server.client())
        return [service async for service in surroundings.query(conditions, fields=("uuid", "name"))]


def job_lines(services: "list[Service]", conditions: list[str]) -> "Iterator[str]":
    """Yield the lines of the job file. Raises UsageError where there are none or more than a list may hold."""
    from batch.jobfile.targets import LONG_LIST

    if not services:
        raise UsageError("no model service meets the conditions")
    if len(services) > LONG_LIST:
        raise UsageError(
            f"{len(services):,} services are more than the {LONG_LIST:,} of a YAML list: "
            "write a job with `query`, or ask for fewer"
        )
    day = datetime.now(UTC).date().isoformat()
    yield "# yaml-language-server: $schema=./job.schema.json"
    yield f"# {len(services)} model services of {day} with {json.dumps(conditions)}"
    yield "version: 1"
    yield f"name: discovered-{day}"
    yield "targets:"
    for service in services:
        # As JSON, ASCII only: a name may hold line breaks.
        name = f"  # {json.dumps(service.name)}" if service.name else ""
        yield f'  - "{service.uuid}"{name}'


def _write(file: Path, lines: list[str]) -> None:
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write("\n".join(lines) + "\n")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
