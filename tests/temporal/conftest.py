"""One Temporal server for all tests of a process that do not kill it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.temporal.stage import temporal_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.temporal.stage import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server for the session."""
    with temporal_server(tmp_path_factory.mktemp("temporal")) as found:
        yield found
