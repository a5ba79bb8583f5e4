"""The server that a test scripts, and the operator who works against it: in one process, or on Temporal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.contract.scripted_node import GIVEN, Operator, ScriptedNode, serve
from tests.temporal.stage import Server, Stage, temporal_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the marked scenarios on both engines: on Temporal in the slow set."""
    if "operator" in metafunc.fixturenames:
        engines: list[object] = ["local"]
        if metafunc.definition.get_closest_marker("both_engines") is not None:
            engines.append(pytest.param("temporal", marks=[pytest.mark.slow, pytest.mark.timeout(600)]))
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """Return the engine of the runs."""
    return str(request.param)


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a Temporal server for the session."""
    with temporal_server(tmp_path_factory.mktemp("temporal")) as found:
        yield found


@pytest.fixture
def node() -> ScriptedNode:
    return ScriptedNode()


@pytest.fixture
async def operator(
    tmp_path: Path, child_env: dict[str, str], node: ScriptedNode, engine: str, request: pytest.FixtureRequest
) -> AsyncIterator[Operator]:
    async with serve(node) as served:
        if engine == "local":
            yield Operator(tmp_path, child_env, served.url)
            return
        server: Server = request.getfixturevalue("temporal")
        stage = Stage(tmp_path, served.url, server, others=GIVEN)
        try:
            await asyncio.to_thread(stage.work, rate="200/s")
            settings = {"TEMPORAL_ADDRESS": server.address, "ZCLONE_ENGINE": "temporal"}
            yield Operator(tmp_path, child_env | settings, served.url, patience=200.0)
        finally:
            await asyncio.to_thread(stage.end)
