"""A CSV table as people save it: comma or semicolon, quoted newlines, a byte-order mark, blank rows."""

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnet.data.regular_file import regular_bytes
from diagnet.errors import DataError

MAX_BYTES = 256_000_000
MAX_COLUMNS, MAX_CELLS = 1_000, 5_000_000  # a table of 200,000 masses has some four million cells
# What a spreadsheet takes for a formula; with apostrophes in front, so that taking one off gives back what was written.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: the file, the row as a spreadsheet numbers it (the header is row 1), column -> text."""

    path: Path
    number: int
    cells: Mapping[str, str]

    def error(self, column: str, rule: str, got: str) -> DataError:
        """Return the error that this row's cell does not follow a rule; the caller raises it."""
        return DataError(f"`{column}` must {rule}, got {got} in {self.path}, row {self.number}.")

    def floats(self, columns: Collection[str]) -> tuple[float, ...] | None:
        """Return the numbers in some columns, None when all are empty or absent.

        Raises:
            DataError: one is empty, no number, NaN or infinite.
        """
        texts = {column: self.cells.get(column, "") for column in columns}
        if not any(texts.values()):
            return None
        found = []
        for column, text in texts.items():
            try:
                found.append(float(text))
            except ValueError:
                got = "text" if text else "an empty cell beside filled ones"
                raise self.error(column, "be a number", got) from None
            if not math.isfinite(found[-1]):
                raise self.error(column, "be a finite number", text)
        return tuple(found)


def read_table(
    path: Path,
    required: Sequence[str],
    optional: Collection[str] = (),
    aliases: Mapping[str, str] = {},
) -> list[Row]:
    """Read a table; cells come stripped, rows without any text are skipped, known columns are found in any case.

    Args:
        path: the file.
        required: columns that must be there.
        optional: further columns that the caller knows.
        aliases: other name -> column; used where the column itself is absent.

    Raises:
        DataError: no such file, not UTF-8, no CSV, no rows, a column missing or there twice, or more than `MAX_BYTES`,
            `MAX_COLUMNS` or `MAX_CELLS`.
    """
    header, *records = _records(path)
    known = {name.casefold(): name for name in (*required, *optional, *aliases)}
    names = [known.get(name.strip().casefold(), name.strip()) for name in header]
    names = [aliases[name] if name in aliases and aliases[name] not in names else name for name in names]
    for name in required:
        if name not in names:
            raise DataError(f"`{name}` must be a column, got none of this name in {path}, row 1.")
    for name, n_columns in Counter(names).items():
        if name and n_columns > 1:
            raise DataError(f"`{name}` must be one column, got {n_columns} of this name in {path}, row 1.")
    rows = []
    for number, record in enumerate(records, start=2):
        texts = [text.strip() for text in record]
        if any(texts[len(names) :]):
            raise DataError(
                f"`row` must have {len(names)} cells as the header has, got {len(texts)} in {path}, row {number}."
            )
        texts += [""] * (len(names) - len(texts))
        if any(texts):
            rows.append(Row(path, number, {name: text for name, text in zip(names, texts, strict=False) if name}))
    if not rows:
        raise DataError(f"`table` must have a row below its header, got none in {path}.")
    return rows


def table_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV that `read_table` reads back with every letter, line ends in cells among them.

    A text that a spreadsheet would take for a formula gets an apostrophe, which `without_apostrophe` takes off.

    Source: OWASP, CSV injection.
    """
    return "".join(f"{_line(cells)}\n" for cells in (columns, *rows))


def without_apostrophe(text: str) -> str:
    """Take off what `table_text` put before a text that looks like a formula."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _inert(text: str) -> str:
    if not _FORMULA.match(text):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text  # a number, its sign before it


def _line(cells: Sequence[Any]) -> str:
    line = ",".join(_cell(_inert("" if cell is None else str(cell))) for cell in cells)
    return line or '""' * len(cells)  # a row of one empty cell would be a blank row


def _cell(text: str) -> str:
    """Quote what needs it; `csv` does not before Python 3.13, where a carriage return stands in a line of newlines."""
    return '"{}"'.format(text.replace('"', '""')) if re.search('[,;"\r\n]', text) else text


def _records(path: Path) -> list[list[str]]:
    content = regular_bytes(path, "table", MAX_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"`table` must be UTF-8 text, got other bytes in {path}. Fix: save it as UTF-8 CSV.") from error
    if not text.strip():
        raise DataError(f"`table` must have a header, got an empty file: {path}.")
    delimiter = ";" if (marks := _unquoted(text)).count(";") > marks.count(",") else ","
    records, n_cells = [], 0
    try:
        for record in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            records.append(list(map(without_apostrophe, record)))
            n_cells += len(record)
            if len(records[0]) > MAX_COLUMNS or n_cells > MAX_CELLS:
                most = f"{MAX_COLUMNS:,} columns and {MAX_CELLS:,} cells"
                raise DataError(f"`table` must have at most {most}, got more in {path}, row {len(records)}.")
    except csv.Error as error:
        raise DataError(f"`table` must be CSV, got {error} in {path}.") from error
    return records


def _unquoted(text: str) -> str:
    """The first line without what is quoted in it."""
    header = re.match(r'(?:[^"\r\n]|"[^"]*")*', text.lstrip())
    return re.sub(r'"[^"]*"', "", header[0]) if header else ""
