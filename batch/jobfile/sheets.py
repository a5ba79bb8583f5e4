"""Excel workbooks (.xlsx): the cells of one sheet as texts, with their row numbers. Needs the extra ``excel``."""

from __future__ import annotations

import warnings
import zipfile
from contextlib import contextmanager
from datetime import date, datetime, time
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from batch.jobfile.problems import fail, quote, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

ENDING: Final = ".xlsx"
NEEDED: Final = "needs the extra excel: pip install 'zclone[excel]', or save the sheet as CSV"

_LARGEST: Final = 1 << 30
"""Maximum bytes of a workbook once it is unpacked."""
_EXACT_DIGITS: Final = 15
"""Digits of a number that Excel keeps."""
_OLE: Final = b"\xd0\xcf\x11\xe0"
"""First bytes of .xls files, and of .xlsx files with a password."""


def read_cells(stream: IO[bytes], file: str, sheet: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each row; numbers as typed, truth values as true and false, dates as ISO 8601.

    ``sheet``: the name of one, None where the workbook has no other. Raises JobFileError for a file that is not a
    workbook, a sheet that does not exist or is not specified, and a cell whose value Excel does not have.
    """
    with _open_workbooks(stream, file) as (values, formulas):
        name = _choose(values, file, sheet)
        both = zip_longest(_rows(values[name]), _rows(formulas[name]), fillvalue=())
        for row, (shown, written) in enumerate(both, 1):
            yield (
                row,
                [
                    _text(cell, formula, file, row, column)
                    for column, (cell, formula) in enumerate(zip_longest(shown, written), 1)
                ],
            )


@contextmanager
def _open_workbooks(stream: IO[bytes], file: str) -> Iterator[tuple[Any, Any]]:
    """Open the workbook with its last calculated values, and with its formulas."""
    start = stream.read(len(_OLE))
    stream.seek(0)
    if start == _OLE:
        raise fail(file, "is an .xls file or has a password: save it as .xlsx without one")
    try:
        from openpyxl import load_workbook  # noqa: PLC0415 - of an extra, and slow to import
    except ImportError:
        raise fail(file, NEEDED) from None
    # Warnings about parts that are not read, such as the validation of cells.
    warnings.filterwarnings("ignore", module="openpyxl")
    books: list[Any] = []
    try:
        if sum(part.file_size for part in zipfile.ZipFile(stream).infolist()) > _LARGEST:
            raise fail(file, f"has more than {_LARGEST >> 30} GiB once it is unpacked: save the sheet as CSV")
        books += (load_workbook(stream, read_only=True, data_only=is_data) for is_data in (True, False))
        yield books[0], books[1]
    except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError, EOFError) as error:
        raise fail(file, f"is not a readable .xlsx workbook: {str(error) or type(error).__name__}") from None
    finally:
        for book in books:
            book.close()


def _choose(book: Any, file: str, sheet: str | None) -> str:
    names = [one.title for one in book.worksheets]
    if sheet is None and len(names) == 1:
        return str(names[0])
    if sheet is None:
        raise fail(file, f"has the sheets {', '.join(map(quote, names))}: write `sheet:` beside the file's name")
    if sheet not in names:
        raise fail(file, unknown(sheet, names, what="sheet"))
    return sheet


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    # The size that a file declares is often wrong.
    sheet.reset_dimensions()
    yield from sheet.iter_rows()


def _text(cell: Any, formula: Any, file: str, row: int, column: int) -> str:
    """Return what a cell shows; ``formula``: the same cell with its formula."""
    value = None if cell is None else cell.value
    if value is None:
        if formula is not None and formula.value is not None:
            message = "is a formula that was never calculated: open and save the file in Excel"
            raise fail(file, message, at=(row, column))
        return ""
    if cell.data_type == "e":
        raise fail(file, f"the cell has the error {value}", at=(row, column))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value, file, row, column)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _number(value: float, file: str, row: int, column: int) -> str:
    if abs(value) >= 10**_EXACT_DIGITS:
        message = "is a number of more than 15 digits, and Excel keeps 15: format the column as text, type it again"
        raise fail(file, message, at=(row, column))
    return str(int(value)) if value == int(value) else repr(value)
