"""Tables, CSV or Excel, of targets or of image rules: rows by column, each with the line on which it begins."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final, NamedTuple

from batch.jobfile import sheets
from batch.jobfile.nodes import Node, Scalar
from batch.jobfile.problems import Complaint, Problems, RowOrigin, fail, quote, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

CSV: Final = ".csv"
TABLE_KEYS: Final = {"delimiter": CSV, "encoding": CSV, "sheet": sheets.ENDING}
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


class TableFormat(NamedTuple):
    """Format of a table."""

    delimiter: str = ","
    encoding: str = "utf-8"
    sheet: str | None = None
    """Sheet of a workbook; None where it has one."""


def read_format(keys: dict[str, Node], complaints: list[Complaint]) -> TableFormat:
    """Read ``delimiter``, ``encoding`` and ``sheet`` of a map."""
    found: dict[str, str] = {}
    sheet = keys.get("sheet")
    if sheet is not None:
        if isinstance(sheet, Scalar) and not sheet.is_null and sheet.text:
            found["sheet"] = sheet.text
        else:
            complaints.append(Complaint("sheet", "must be the name of a sheet"))
    for name, choices in (("delimiter", DELIMITERS), ("encoding", ENCODINGS)):
        node = keys.get(name)
        if node is None:
            continue
        text = node.text if isinstance(node, Scalar) else None
        if text is not None and text in choices:
            found[name] = text
        elif name == "delimiter":
            complaints.append(Complaint(name, 'must be one of ",", ";", "|" and "\\t", in double quotes'))
        else:
            complaints.append(Complaint(name, unknown(text or "", choices, what="encoding")))
    return TableFormat(**found)


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
    is_sheet = file.lower().endswith(sheets.ENDING)
    rows = _read_sheet(stream, file, form) if is_sheet else _read_cells(stream, file, form)
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


def _read_sheet(stream: IO[bytes], file: str, form: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a workbook's sheet that are not empty, and their numbers."""
    for line, cells in sheets.read_cells(stream, file, form.sheet):
        cleaned = [*map(_clean, cells)]
        if any(cleaned):
            yield line, cleaned


def _clean(cell: str) -> str:
    return (_LINE_END.sub("\n", cell) if "\r" in cell else cell).strip(_BLANKS)


def _read_cells(stream: IO[bytes], file: str, form: TableFormat) -> Iterator[tuple[int, list[str]]]:
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
