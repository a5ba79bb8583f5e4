"""Tables of targets or of image rules, as CSV or Excel workbooks: rows by column, each with its line in the file.

Workbooks (.xlsx) need the extra ``excel``.
"""

from __future__ import annotations

import codecs
import csv
import re
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager
from datetime import date, datetime, time
from io import TextIOWrapper
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from batch.jobfile.problems import Complaint, Problems, RowOrigin, fail, quote, unknown
from batch.jobfile.values import Scalar, YamlNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

CSV: Final = ".csv"
XLSX: Final = ".xlsx"
TABLE_KEYS: Final = {"delimiter": CSV, "encoding": CSV, "sheet": XLSX}
"""Keys beside the name of a file, with the extensions that they apply to."""
DELIMITERS: Final = (",", ";", "|", "\t")
ENCODINGS: Final = ("utf-8", "utf-16", "gb18030", "gbk", "big5", "shift_jis", "euc-kr", "windows-1252")

_CHUNK: Final = 1 << 20
_LONGEST_CELL: Final = 16 * 1024 * 1024
"""Characters: the longest text that the server stores."""
_BLANKS: Final = " \t\n\u00a0\u3000"
_LINE_END: Final = re.compile(r"\r\n?|\n")
_SEPARATOR_LINE: Final = re.compile(r"sep=.?")
"""Line that spreadsheets write before the header to declare the delimiter."""

# The csv module has one limit for the process, and its default is 128 KiB.
csv.field_size_limit(_LONGEST_CELL)

_EXCEL_NEEDED: Final = "needs the extra excel: pip install 'zclone[excel]', or save the sheet as CSV"

_LARGEST: Final = 1 << 30
"""Maximum bytes of a workbook once it is unpacked."""
_EXACT_DIGITS: Final = 15
"""Digits of a number that Excel keeps."""
_OLE: Final = b"\xd0\xcf\x11\xe0"
"""First bytes of .xls files, and of .xlsx files with a password."""


class TableFormat(NamedTuple):
    """Format of a table."""

    delimiter: str = ","
    encoding: str = "utf-8"
    sheet: str | None = None
    """Sheet of a workbook; None where it has one."""


def read_format(keys: dict[str, YamlNode], complaints: list[Complaint]) -> TableFormat:
    """Read ``delimiter``, ``encoding`` and ``sheet`` of a map."""
    fields: dict[str, str] = {}
    sheet = keys.get("sheet")
    if sheet is not None:
        if isinstance(sheet, Scalar) and not sheet.is_null and sheet.text:
            fields["sheet"] = sheet.text
        else:
            complaints.append(Complaint("sheet", "must be the name of a sheet"))
    for name, choices in (("delimiter", DELIMITERS), ("encoding", ENCODINGS)):
        node = keys.get(name)
        if node is None:
            continue
        text = node.text if isinstance(node, Scalar) else None
        if text is not None and text in choices:
            fields[name] = text
        elif name == "delimiter":
            complaints.append(Complaint(name, 'must be one of ",", ";", "|" and "\\t", in double quotes'))
        else:
            complaints.append(Complaint(name, unknown(text or "", choices, what="encoding")))
    return TableFormat(**fields)


def read_table(
    stream: IO[bytes],
    file: str,
    form: TableFormat,
    check: Callable[[list[str], list[Complaint]], None],
    problems: Problems,
) -> Iterator[tuple[RowOrigin, dict[str, str]]]:
    """Yield the rows by column; names and cells are stripped, empty rows and nameless columns left out.

    ``check`` is called with the names of the columns, and complains of them. Raises JobFileError where it does, and
    where the file can no longer be read.
    """
    is_sheet = file.lower().endswith(XLSX)
    rows = _read_sheet(stream, file, form) if is_sheet else _read_csv(stream, file, form)
    line, header = next(rows, (1, []))
    if len(header) <= 2 and _SEPARATOR_LINE.fullmatch("".join(header)):
        line, header = next(rows, (line + 1, []))
    _check_header(header, RowOrigin(file, line, ""), form, check)
    columns = [(index, name) for index, name in enumerate(header) if name]
    nameless = [index for index, name in enumerate(header) if not name]
    least = columns[-1][0] + 1
    for line, cells in rows:
        origin = RowOrigin(file, line, "")
        if is_sheet:
            # A workbook omits empty cells at the end of a row.
            cells.extend([""] * (least - len(cells)))
        if len(cells) < least or any(cells[len(header) :]):
            problems.add(origin.problem(Complaint("", f"has {len(cells)} cells, the header {len(header)}")))
        elif any(cells[index] for index in nameless if index < len(cells)):
            index = next(index for index in nameless if cells[index])
            message = f"has the value {quote(cells[index])} in column {index + 1}, which has no name"
            problems.add(origin.problem(Complaint("", message)))
        else:
            yield origin, {name: cells[index] for index, name in columns}


def _check_header(
    header: list[str], origin: RowOrigin, form: TableFormat, check: Callable[[list[str], list[Complaint]], None]
) -> None:
    complaints: list[Complaint] = []
    names = Counter(filter(None, header))
    other = next((char for char in DELIMITERS if len(header) == 1 and char in header[0]), None)
    if other is not None:
        key = '"\\t"' if other == "\t" else f'"{other}"'
        message = f"the first line must name the columns, separated by {quote(form.delimiter)}"
        complaints.append(Complaint("", f"{message}; write `delimiter: {key}` beside the file's name if that is used"))
    elif not names:
        complaints.append(Complaint("", "the first line must name the columns"))
    else:
        complaints += [
            Complaint(name, f"column {quote(name)} is listed twice") for name, count in names.items() if count > 1
        ]
        check(list(names), complaints)
    problems = Problems()
    problems.place(complaints, origin.problem)
    problems.raise_any()


def _clean(cell: str) -> str:
    return (_LINE_END.sub("\n", cell) if "\r" in cell else cell).strip(_BLANKS)


def _read_csv(stream: IO[bytes], file: str, form: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """Yield the first row and all that are not empty, and the lines on which they begin."""
    # utf-8-sig, since spreadsheets write a byte order mark into every CSV file. newline="": lines end at CR, LF or
    # both, as in editors, and nowhere else.
    encoding = "utf-8-sig" if form.encoding == "utf-8" else form.encoding
    if form.encoding == "utf-8" and stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise fail(file, "is UTF-16: write `encoding: utf-16` beside the file's name, or save it as UTF-8")
    stream.seek(0)
    text = TextIOWrapper(stream, encoding, newline="")
    reader = csv.reader(text, delimiter=form.delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            cells = [*map(_clean, row)]
            if line == 1 or any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise fail(file, f"not CSV: {error}", at=(line, 1)) from None
    except UnicodeDecodeError:
        message = f"is not {form.encoding.upper()}: save it as UTF-8, or write its encoding beside the file's name"
        raise fail(file, f"{message}, such as `encoding: gb18030`", at=(_bad_line(stream, encoding), 1)) from None
    finally:
        # Otherwise the end of the wrapper would close the stream, also where it is not read to its end.
        if not stream.closed:
            text.detach()


def _bad_line(stream: IO[bytes], encoding: str) -> int:
    """Return the line of the first bytes that cannot be decoded."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    line, before = 1, ""
    while True:
        chunk = stream.read(_CHUNK)
        try:
            text, is_last = decoder.decode(chunk, final=not chunk), not chunk
        except UnicodeDecodeError as error:
            text, is_last = error.object[: error.start].decode(encoding, errors="ignore"), True
        line += len(_LINE_END.findall(before + text)) - len(_LINE_END.findall(before))
        before = text[-1:]
        if is_last:
            return line


def _read_sheet(stream: IO[bytes], file: str, form: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each row that is not empty; numbers as typed, truth values in words, dates as ISO 8601.

    Raises JobFileError for a file that is not a workbook, a sheet that does not exist or is not specified, and a cell
    whose value Excel does not have.
    """
    with _open_workbooks(stream, file) as (values, formulas):
        name = _choose_sheet(values, file, form.sheet)
        both = zip_longest(_sheet_rows(values[name]), _sheet_rows(formulas[name]), fillvalue=())
        for row, (shown, written) in enumerate(both, 1):
            pairs = enumerate(zip_longest(shown, written), 1)
            cells = [_clean(_cell_text(cell, formula, file, row, column)) for column, (cell, formula) in pairs]
            if any(cells):
                yield row, cells


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
        raise fail(file, _EXCEL_NEEDED) from None
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


def _choose_sheet(book: Any, file: str, sheet: str | None) -> str:
    names = [one.title for one in book.worksheets]
    if sheet is None and len(names) == 1:
        return str(names[0])
    if sheet is None:
        raise fail(file, f"has the sheets {', '.join(map(quote, names))}: write `sheet:` beside the file's name")
    if sheet not in names:
        raise fail(file, unknown(sheet, names, what="sheet"))
    return sheet


def _sheet_rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    # The size that a file declares is often wrong.
    sheet.reset_dimensions()
    yield from sheet.iter_rows()


def _cell_text(cell: Any, formula: Any, file: str, row: int, column: int) -> str:
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
        return _number_text(value, file, row, column)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _number_text(value: float, file: str, row: int, column: int) -> str:
    if abs(value) >= 10**_EXACT_DIGITS:
        message = "is a number of more than 15 digits, and Excel keeps 15: format the column as text, type it again"
        raise fail(file, message, at=(row, column))
    return str(int(value)) if value == int(value) else repr(value)
