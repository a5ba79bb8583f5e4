"""The conformance table: request and answer for each fact of the wire description, over a socket."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from tests.contract import wire_rows_newer, wire_rows_queries, wire_rows_requests
from tests.contract.wire_table import Row, check, play

ROWS: Final[tuple[Row, ...]] = (*wire_rows_requests.ROWS, *wire_rows_queries.ROWS, *wire_rows_newer.ROWS)


@pytest.mark.parametrize("one", ROWS, ids=lambda one: one.id)
def test_the_node_answers_as_the_server(one: Row) -> None:
    """After the row's requests the node's last answer is the one that the wire description states."""
    check(one, asyncio.run(play(one)))


def test_every_section_has_rows() -> None:
    """Each section about the server's answers is in the table; web hooks need a listener and are tested elsewhere."""
    present = {one.section for one in ROWS}
    expected = {"1", "2.1", "2.2", "2.3", "3.1", "3.2", "3.3", "3.4", "4", "6", "6.1", "7"}
    newer = {f"13.{number}" for number in range(1, 17)} - {"13.14"}
    assert expected | newer <= present


def test_each_row_has_a_unique_name() -> None:
    """A failing row is found by its section and fact."""
    assert len({one.id for one in ROWS}) == len(ROWS)
