import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import hostile_files
from diagnet.clinic.marks import read_marks
from diagnet.data import dicom_objects, table
from diagnet.data.dicom import read_identity, read_uid
from diagnet.data.image import is_dicom, read_picture
from diagnet.data.manifest import read_manifest
from diagnet.data.marked import Marked, find_marked, read_marked
from diagnet.data.prepared import read_prepared
from diagnet.errors import DiagNetError, ReadingError
from dicom_files import drawn_breast, write_dicom

QUICK = 2.0  # seconds of the processor
IMAGES = [
    (hostile_files.many_items, r"at most 10000 items of sequences, got more in .*\.dcm\.$"),
    (hostile_files.many_items_in_a_length, r"at most 10000 items of sequences, got more in .*\.dcm\.$"),
    (hostile_files.many_elements, r"at most 5000 elements, got more in .*\.dcm\.$"),
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
    tmp_path: Path, make: Make, line: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_objects, "MAX_ELEMENTS", 5_000)  # the run-time checks of the tests take their time
    path = make(tmp_path / "file.dcm")
    began = time.process_time()
    with pytest.raises(DiagNetError, match=line):
        read(path)
    assert time.process_time() - began < QUICK
    assert path.stat().st_size < 1e6


def test_items_are_counted_where_their_bytes_are_not_seen_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_objects, "_BEGINNING", 100)
    monkeypatch.setattr(dicom_objects, "MAX_ITEMS", 50)
    for make in (hostile_files.many_items, hostile_files.many_items_in_a_length):
        with pytest.raises(DiagNetError, match="at most 50 items of sequences"):
            read_picture(make(tmp_path / "file.dcm", 51))
        with pytest.raises(DiagNetError, match="whole pixel data"):
            read_picture(make(tmp_path / "file.dcm", 50))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (hostile_files.many_directories, r"must be a single page, got several in .*\.png\.$"),
        (hostile_files.many_scans, r"must have at most 100 scans, got 3006 in"),
        (hostile_files.picture_of_two_sizes, r"must be one JPEG picture of 9000 x 9000 pixels, got another one in"),
        (hostile_files.pipe, r"`image` must be a file, got something else: .*\.png\.$"),
        (lambda _: Path("/dev/zero"), r"`image` must be a file, got something else: /dev/zero\.$"),
    ],
    ids=["directories", "scans", "sizes", "pipe", "device"],
)
def test_plain_pictures_that_take_minutes_are_refused_at_once(tmp_path: Path, make: Make, line: str) -> None:
    path = make(tmp_path / "file.png")
    began = time.process_time()
    with pytest.raises(DiagNetError, match=line):
        read_picture(path)
    assert time.process_time() - began < QUICK


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (hostile_files.many_columns, r"at most 1,000 columns and 5,000,000 cells, got more in .* row 1"),
        (hostile_files.many_cells, r"at most 1,000 columns and 20,000 cells, got more in .* row 41"),
        (hostile_files.pipe, r"`table` must be a file, got something else"),
    ],
    ids=["columns", "cells", "pipe"],
)
@pytest.mark.parametrize("read", [read_manifest, read_marked], ids=["manifest", "boxes"])
def test_tables_that_take_minutes_are_refused_at_once(
    tmp_path: Path, make: Make, line: str, read: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "20,000 cells" in line:
        monkeypatch.setattr(table, "MAX_CELLS", 20_000)
    path = make(tmp_path / "file.csv")
    began = time.process_time()
    with pytest.raises(DiagNetError, match=line):
        read(path)
    assert time.process_time() - began < QUICK


def test_outlines_of_many_objects_or_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    from diagnet.data.inbreast import _mass_outlines

    large = tmp_path / "large.xml"
    large.write_bytes(b"<plist>" + b"<dict/>" * 1_200_000)
    entities = tmp_path / "entities.xml"
    entities.write_text('<!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><plist><string>&b;</string></plist>')
    deep = tmp_path / "deep.xml"
    deep.write_bytes(b"<plist>" + b"<array>" * 100_000 + b"</array>" * 100_000 + b"</plist>")
    for path, line in (
        (large, r"`outlines` must have at most 8 MB, got 8400007 bytes in"),
        (entities, "must be a property list"),
        (deep, "must be a property list"),
        (hostile_files.pipe(tmp_path / "pipe.xml"), "`outlines` must be a file, got something else"),
    ):
        with pytest.raises(DiagNetError, match=line):
            _mass_outlines(path)


def test_a_pipe_in_a_folder_or_a_prepared_folder_is_not_waited_for(tmp_path: Path) -> None:
    hostile_files.pipe(tmp_path / "mammogram")  # no suffix: its content would tell what it is
    hostile_files.pipe(tmp_path / "a.png")
    assert find_marked([tmp_path]) == ([], 0)
    with pytest.raises(DiagNetError, match="`image` must be a file, got something else"):
        is_dicom(tmp_path / "mammogram")
    folder = tmp_path / "prepared"
    folder.mkdir()
    for make in (hostile_files.pipe, lambda path: path.write_text("[" * 100_000)):
        (folder / "prepared.json").unlink(missing_ok=True)
        make(folder / "prepared.json")
        with pytest.raises(DiagNetError, match="`data` must be"):
            read_prepared(folder)


def test_a_server_passes_over_a_pipe_among_its_images(tmp_path: Path) -> None:
    from diagnet.app.images import ImageStore

    images = ImageStore(b"key", max_images=1, keep_s=1.0)
    images.offer([Marked(hostile_files.pipe(tmp_path / "a.png"))], {})
    assert images.all() == []
    images.close()


@pytest.mark.usefixtures("unchecked_shapes")  # there is no model
def test_marks_whose_reading_was_ended_are_failed_and_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diagnet.clinic import worker as worker_module
    from diagnet.clinic.queue import Queue

    tried, told = [], []

    def ended(path: Path) -> None:
        tried.append(path)
        raise ReadingError(f"`marks` must be read within 20 s and 3 GB of memory, got a file that takes more: {path}.")

    monkeypatch.setattr(worker_module, "read_marks", ended)
    with Queue(tmp_path / "queue", max_bytes=10**8).opened() as queue:
        hostile_files.marks_of_many_items(queue.place("marks") / "a.dcm")
        worker = worker_module.Worker(queue, SimpleNamespace(), SimpleNamespace(), lambda what, _: told.append(what))
        worker.score_ready()
        worker.score_ready()
        assert len(tried) == 1
        assert sorted(path.name for path in queue.place("failed").iterdir()) == ["a.dcm", "a.json"]
    assert told == [
        "failed: `marks` must be read within 20 s and 3 GB of memory, got a file that takes more: the file."
    ]


def test_what_a_sender_says_an_object_is_is_read_within_limits(tmp_path: Path) -> None:
    good = write_dicom(tmp_path / "a.dcm", drawn_breast())
    assert read_identity(good)[0] == read_uid(good)
    with pytest.raises(DiagNetError, match="at most 10000 items"):
        read_identity(hostile_files.marks_of_many_items(tmp_path / "b.dcm"))
    (tmp_path / "c.dcm").write_bytes(good.read_bytes()[132:])
    with pytest.raises(DiagNetError, match="must be a DICOM image that can be decoded"):
        read_identity(tmp_path / "c.dcm")
