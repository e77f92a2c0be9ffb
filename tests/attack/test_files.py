import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hostile_files
from diagnet.clinic.marks import read_marks
from diagnet.data.image import read_picture
from diagnet.errors import DiagNetError

QUICK = 6.0  # seconds with the run-time checks of the tests, which cost most of it; a tenth without
IMAGES = [
    (hostile_files.many_items, r"at most 10000 items of sequences, got more in .*\.dcm\.$"),
    (hostile_files.many_items_in_a_length, r"at most 10000 items of sequences, got more in .*\.dcm\.$"),
    (hostile_files.many_elements, r"at most 50000 elements, got more in .*\.dcm\.$"),
    (hostile_files.many_values, r"elements of at most 256 kB, got more in .*\.dcm\.$"),
    (hostile_files.decoy_jp2, r"must hold 32 x 32 pixels of 1 sample, got 30000 x 30000 of 1 in"),
    (hostile_files.two_frames, r"must hold 64 x 64 pixels of 1 sample, got a frame that does not say its size"),
]
MARKS = [
    (hostile_files.marks_of_many_items, r"`marks` must hold at most 10000 items of sequences, got more in"),
    (hostile_files.state_of_many_items, r"`marks` must hold at most 10000 items of sequences, got more in"),
    (hostile_files.deep_items, r"`marks` must be nested at most 50 deep, got more in"),
    (hostile_files.deflated_marks, r"`marks` must unpack to at most 64 MB, got more in"),
]
Make = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "line", "read"),
    [(make, line, read_picture) for make, line in IMAGES] + [(make, line, read_marks) for make, line in MARKS],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_small_files_that_are_dear_to_read_are_refused_at_once(
    tmp_path: Path, make: Make, line: str, read: Callable[[Path], object]
) -> None:
    path = make(tmp_path / "file.dcm")
    began = time.process_time()
    with pytest.raises(DiagNetError, match=line):
        read(path)
    assert time.process_time() - began < QUICK
    assert path.stat().st_size < 1e6


def test_items_are_counted_where_their_bytes_are_not_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagnet.data import dicom_objects

    monkeypatch.setattr(dicom_objects, "_BEGINNING", 100)
    monkeypatch.setattr(dicom_objects, "MAX_ITEMS", 50)
    for make in (hostile_files.many_items, hostile_files.many_items_in_a_length):
        with pytest.raises(DiagNetError, match="at most 50 items of sequences"):
            read_picture(make(tmp_path / "file.dcm", 51))
        with pytest.raises(DiagNetError, match="whole pixel data"):
            read_picture(make(tmp_path / "file.dcm", 50))
