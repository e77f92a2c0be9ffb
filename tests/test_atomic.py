"""Text is written letter for letter, or refused before anything is written."""

import errno
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.atomic import as_utf8, atomic_path, legible, write_text
from diagnet.errors import DataError, RunFolderError


@settings(deadline=None)  # it writes files
@given(st.text())
@example("a\r\nb\rc\nd\x85e\u2028\x00")
def test_any_text_is_written_letter_for_letter(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    write_text(path, text)
    assert path.read_bytes() == text.encode()


@settings(deadline=None)  # it writes files
@given(st.text(), st.characters(categories=["Cs"]), st.text())
def test_what_is_no_text_is_told_without_the_text_and_nothing_is_written(tmp_path_factory, before, half, after):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    write_text(path, "old")
    with pytest.raises(
        DataError, match=rf"`text` must be text .*, got the lone surrogate U\+{ord(half):04X} in"
    ) as told:
        write_text(path, f"{before}{half}{after}")
    with pytest.raises(DataError, match=re.escape(str(told.value))):
        as_utf8(half)  # the same message: nothing of the text is in it
    assert told.value.__cause__ is None
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


@settings(deadline=None)  # it writes files
@given(st.text(), st.characters(categories=["Cs"]))
def test_what_people_read_has_a_question_mark_instead(text, half):
    assert legible(text + half) == f"{text}?"


def test_a_full_disk_is_one_line_though_a_library_raises_its_own_error_from_it(tmp_path):
    """As pydicom does."""
    error = OSError("With tag (7FE0,0010) got exception")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(RunFolderError, match="must be writable, got: No space left"),
        atomic_path(tmp_path / "a.dcm"),
    ):
        raise error
