"""Tables of any text: what is written is read back, letter for letter."""

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.data.table import read_table, table_text, without_apostrophe
from diagnet.errors import DataError

rectangles = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.text(), min_size=width, max_size=width), min_size=1, max_size=4)
)


@settings(deadline=None)  # it writes files
@given(rectangles)
@example([["a\rb"]])
@example([["a\r\nb", "\r", "\n"]])
@example([[""]])
@example([['"', ';,"', " a\x85 ", "\u2028"]])
@example([["\x00", "\ufeff", "\x1c", "\U0001f600"]])
def test_any_table_is_read_back_by_csv(rows):
    text = table_text(rows[0], rows[1:])
    found = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert [list(map(without_apostrophe, row)) for row in found] == rows


def test_what_is_no_text_is_written_as_csv_does():
    rows = [(1, 2.5, None, True), ("a b", "", -1e-7, float("nan"))]
    expected = io.StringIO()
    csv.writer(expected, lineterminator="\n").writerows([("x", "y", "z", "w"), *rows])
    assert table_text(("x", "y", "z", "w"), rows) == expected.getvalue()


cells = st.text().map(str.strip)
columns = cells.filter(lambda name: name.casefold() not in ("", "key"))


@settings(deadline=None)  # it writes files
@given(st.lists(st.tuples(cells.filter(bool), st.text()), min_size=1), columns)
@example([("a", "b\r\nc")], "a;b;c")
@example([("a", "b")], '"a\n;;;"')
def test_any_table_is_read_back_but_for_white_space_around_cells(tmp_path_factory, rows, column):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    path.write_bytes(table_text(("key", column), rows).encode())
    found = [tuple(row.cells[name] for name in ("key", column)) for row in read_table(path, ("key",))]
    assert found == [(key, text.strip()) for key, text in rows]


@pytest.mark.parametrize(
    "text",
    ['key;"a,b,c"\nx;y\n', 'key,"a;b;c"\nx,y\n', 'key,"a\n;;;;"\nx,y\n', "key;a\r\nx;y\r\n"],
)
def test_the_delimiter_is_that_of_the_header_outside_quotes(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    (row,) = read_table(path, ("key",))
    assert list(row.cells.values()) == ["x", "y"]


def test_a_cell_that_is_no_csv_is_told(tmp_path):
    (tmp_path / "a.csv").write_text('key\n"a"b\n')
    with pytest.raises(DataError, match="`table` must be CSV, got"):
        read_table(tmp_path / "a.csv", ("key",))
