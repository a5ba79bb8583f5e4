"""Options of the random schedules, and logging switched off."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.simulation.ranges import CHUNK, DEFAULT_SCHEDULES, chunks, seeds_on_record

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add both options only if this folder is named on the command line; the whole suite runs with the defaults."""
    parser.addoption("--schedules", type=int, default=DEFAULT_SCHEDULES, help="how many random schedules")
    parser.addoption("--seed", type=int, default=0, help="seed of the first one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Cut the seeds into chunks that share the cores; recorded failures come first."""
    if "seeds" not in metafunc.fixturenames:
        return
    count = int(metafunc.config.getoption("--schedules", DEFAULT_SCHEDULES))
    first = int(metafunc.config.getoption("--seed", 0))
    wanted = {"on record": tuple(seeds_on_record())} if seeds_on_record() else {}
    wanted |= {f"{chunk.start}-{chunk.stop - 1}": tuple(chunk) for chunk in chunks(first, count, CHUNK)}
    metafunc.parametrize("seeds", wanted.values(), ids=wanted.keys())


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Log nothing: the schedule already knows it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)
