"""All APIs of the node."""

from __future__ import annotations

from typing import Final

from batch.simulator import administration, catalogue, ownership, service_changes, services, tags

APIS: Final = (
    *services.APIS,
    *service_changes.APIS,
    *catalogue.APIS,
    *tags.APIS,
    *ownership.APIS,
    *administration.APIS,
)
BY_NAME: Final = {api.name: api for api in reversed(APIS)}
