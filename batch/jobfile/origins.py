"""Where what a job says stands in its files, so that a problem can be told with its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batch.jobfile.nodes import Node, find
from batch.model import Place, Problem

if TYPE_CHECKING:
    from batch.jobfile.problems import Complaint


class NodeOrigin(NamedTuple):
    """Where a layer stands in a YAML file."""

    file: str
    node: Node
    path: str

    def problem(self, complaint: Complaint) -> Problem:
        """Place ``complaint`` at the value, or the key, that it is about."""
        line, column = find(self.node, complaint.path, at_key=complaint.at_key)
        path = ".".join(part for part in (self.path, complaint.path) if part)
        return Problem(Place(self.file, line, column), path, complaint.message)


class RowOrigin(NamedTuple):
    """Where a row stands in a JSON Lines or CSV file."""

    file: str
    line: int
    text: str
    """The JSON text; empty for CSV, whose rows are placed at their first column."""

    def problem(self, complaint: Complaint) -> Problem:
        """Place ``complaint`` at the innermost key of its path that stands in the row."""
        steps = complaint.path.replace("[", ".").replace("]", "").split(".")
        found = (self.text.find(f'"{step}"') for step in reversed(steps))
        column = complaint.column or next((offset for offset in found if offset >= 0), 0) + 1
        return Problem(Place(self.file, self.line, column), complaint.path, complaint.message)
