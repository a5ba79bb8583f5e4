"""Reports: pure folds of a manifest's rows and figures into text, and the exit code they mean."""

from batch.report.exits import exit_code
from batch.report.listing import COLUMNS, ListFormat, render_rows
from batch.report.show import show_lines
from batch.report.status import cluster_lines, count_lines, ending_lines, status_lines
from batch.report.text import clean, iso, to_json

__all__ = [
    "COLUMNS",
    "ListFormat",
    "clean",
    "cluster_lines",
    "count_lines",
    "ending_lines",
    "exit_code",
    "iso",
    "render_rows",
    "show_lines",
    "status_lines",
    "to_json",
]
