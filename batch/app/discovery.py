"""A job file generated from the model services that match query conditions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from batch.app.examples import SCHEMA
from batch.app.server import Server, say_warnings
from batch.errors import UsageError
from batch.jobfile.targets import LONG_LIST
from batch.settings.reader import read_settings
from batch.text import to_json
from batch.zstack.params import split_condition
from batch.zstack.queries import QueryApi

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.model import JsonValue
    from batch.settings.sources import EndpointOptions
    from batch.zstack.answers import Service

RATE: Final = 10.0
"""Calls per second; each returns a page of 200 services."""


async def find_services(conditions: Sequence[str], options: EndpointOptions) -> list[Service]:
    """Return uuid and name of every service that matches all conditions. Raises UsageError for none or too many."""
    found = read_settings(options)
    say_warnings(found.warnings)
    for condition in conditions:
        if split_condition(condition) is None:
            raise UsageError(
                f"the query condition {condition!r} has no operator: write it like name=value or name~=qwen%"
            )
    async with Server(found.settings, rate=RATE, environ=options.environ, warn_of=say_warnings) as server:
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


def yaml_job(services: Sequence[Service], conditions: Sequence[str], *, has_schema: bool) -> Iterator[str]:
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


def json_job(services: Sequence[Service]) -> Iterator[str]:
    """Yield the lines of a JSON job file."""
    targets: list[JsonValue] = [service.uuid for service in services]
    yield from to_json({"version": 1, "name": f"discovered-{_today()}", "targets": targets}, indent=2).split("\n")


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
