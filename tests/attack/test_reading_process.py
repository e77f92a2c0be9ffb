"""What is read in another process: alike where it can be read, and one refusal where that takes too much."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hostile_files
from diagnet.clinic.marks import read_marks
from diagnet.data import reading_process
from diagnet.data.dicom import is_known_other, read_geometry, read_mammogram, read_uid
from diagnet.data.image import image_size, read_picture
from diagnet.data.reading_process import apart, read_apart, read_here, start_reading
from diagnet.errors import DataError, MissingExtraError, ReadingError, RefusedInputError
from dicom_files import drawn_breast, write_dicom

pytest.importorskip("resource", reason="this system does not limit processes")
SECONDS, MEMORY = 4.0, 2**30


@pytest.fixture(autouse=True)
def elsewhere() -> Iterator[None]:
    read_apart(1, seconds=SECONDS, n_bytes=MEMORY)
    yield
    read_here()


@apart()
def busy(path: Path, seconds: float) -> str:
    time.sleep(seconds)
    return path.name


@apart()
def hungry(path: Path, n_bytes: int) -> int:
    return len(bytearray(n_bytes)) + len(path.name)


@apart()
def broken_down(path: Path, number: int) -> None:
    os.kill(os.getpid(), number)
    path.exists()


@apart()
def failing(path: Path, kind: str) -> None:
    if kind == "extra":
        raise MissingExtraError("pyjpegls", "dicom")
    if kind == "refused":
        raise RefusedInputError(f"`image` must be another, got {path}.")
    raise KeyError("Doe^Jane")


@apart()
def reader(path: Path) -> int:
    return os.getpid() + 0 * len(path.name)


def test_a_file_is_read_as_here(tmp_path: Path) -> None:
    dicom = write_dicom(tmp_path / "a.dcm", drawn_breast(), PixelSpacing=[0.1, 0.2], ViewPosition="CC")
    png = tmp_path / "b.png"
    Image.fromarray(drawn_breast()).save(png)
    calls = [
        (read_picture, dicom), (read_picture, png), (read_mammogram, dicom), (read_geometry, dicom), (read_uid, dicom),
        (image_size, png), (is_known_other, dicom),
    ]  # fmt: skip
    found = [read(path) for read, path in calls]
    read_here()
    for there, (read, path) in zip(found, calls, strict=True):
        here = read(path)
        if hasattr(here, "pixels"):
            np.testing.assert_array_equal(there.pixels, here.pixels)
            np.testing.assert_array_equal(there.breast.mask, here.breast.mask)
            assert there.pixels.flags.writeable
            there, here = ((each.steps, each.warnings, each.spacing_mm, each.view) for each in (there, here))
        assert there == here


def test_arrays_stay_as_they_are_when_the_next_file_is_read(tmp_path: Path) -> None:
    paths = [write_dicom(tmp_path / f"{k}.dcm", drawn_breast(side)) for k, side in enumerate("LRL")]
    first, second, third = (read_picture(path).pixels for path in paths)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first, second[:, ::-1])


def test_a_file_that_takes_too_long_is_one_refusal_and_the_next_one_is_read(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        ReadingError, match=r"`image` must be read within 4 s and 1 GB of memory, got a file that takes"
    ):
        busy(tmp_path / "a.dcm", 60.0)
    assert SECONDS - 0.1 < time.monotonic() - began < SECONDS + 15
    assert busy(tmp_path / "b.dcm", 0.0) == "b.dcm"
    assert issubclass(ReadingError, DataError)  # which the queue's worker moves to failed/


def test_memory_holds(tmp_path: Path) -> None:
    pid = reader(tmp_path / "a.dcm")
    with pytest.raises(ReadingError, match="within 4 s and 1 GB of memory, got a file that takes more"):
        hungry(tmp_path / "a.dcm", MEMORY)
    assert reader(tmp_path / "a.dcm") == pid  # it lives on
    status = Path(f"/proc/{pid}/status").read_text().split()
    assert int(status[status.index("VmPeak:") + 1]) * 1024 <= MEMORY
    assert hungry(tmp_path / "a.dcm", 10**8) > 10**8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_breaks_down_is_one_refusal(tmp_path: Path, number: int) -> None:
    with pytest.raises(ReadingError, match="got one that ended the process"):
        broken_down(tmp_path / "a.dcm", int(number))
    assert busy(tmp_path / "b.dcm", 0.0) == "b.dcm"


def test_errors_come_back_as_they_are_but_for_what_may_quote_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match="`pyjpegls` must be installed") as missing:
        failing(tmp_path / "a.dcm", "extra")
    assert missing.value.extra == "dicom"
    with pytest.raises(RefusedInputError, match=r"^`image` must be another, got .*a\.dcm\.$"):
        failing(tmp_path / "a.dcm", "refused")
    with pytest.raises(ReadingError, match="got an unexpected KeyError") as told:
        failing(tmp_path / "a.dcm", "other")
    assert "Jane" not in str(told.value)


def test_relative_paths_are_those_of_this_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, side in (("one", "L"), ("two", "R")):
        write_dicom(tmp_path / name / "a.dcm", drawn_breast(side, (64, 32 + 8 * len(side * (name == "two")))))
    found = []
    for name in ("one", "two"):
        monkeypatch.chdir(tmp_path / name)
        found.append(image_size(Path("a.dcm")))
    assert found == [(32, 64), (40, 64)]


def test_one_process_serves_many_threads_one_after_the_other(tmp_path: Path) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(reader(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert found[0] != os.getpid()


def test_a_process_can_be_started_before_there_is_a_file(tmp_path: Path) -> None:
    pool = reading_process._pool
    assert pool is not None
    pool.close()
    start_reading()
    start_reading()
    (process,) = pool._free
    assert reader(tmp_path) == process._process.pid


def test_a_hole_that_no_check_knows_costs_one_refusal(tmp_path: Path) -> None:
    """Precincts of one pixel: the size is honest, and the decoder's bookkeeping is not bounded by it."""
    with pytest.raises(DataError, match=r"`image` must be"):
        read_picture(hostile_files.tiny_precincts(tmp_path / "a.dcm"))
    assert image_size(write_dicom(tmp_path / "b.dcm", drawn_breast())) == (128, 160)


def test_marks_and_pipes_are_refused_there_too(tmp_path: Path) -> None:
    with pytest.raises(RefusedInputError, match="at most 10000 items"):
        read_marks(hostile_files.marks_of_many_items(tmp_path / "a.dcm"))
    with pytest.raises(DataError, match="`marks` must be a file, got something else"):
        read_marks(hostile_files.pipe(tmp_path / "b.dcm"))


def test_it_ends_with_its_owner(tmp_path: Path) -> None:
    pid = reader(tmp_path)
    pool = reading_process._pool
    assert pool is not None
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
