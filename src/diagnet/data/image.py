"""One image file -> grey values in [0, 1], whatever its format; and its size without decoding it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
from jaxtyping import Shaped
from PIL import ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from diagnet.arrays import Image
from diagnet.data.breast import Breast
from diagnet.data.dicom import read_geometry, read_mammogram
from diagnet.data.dicom_file import check_file, check_jpeg, check_pixel_count
from diagnet.data.mammogram import NEGATIVE, SCALED, Mammogram, linear_ends, looks_negative, scaled_over_breast
from diagnet.data.quiet import quiet
from diagnet.data.reading_process import apart
from diagnet.data.regular_file import regular_size
from diagnet.errors import DataError, DiagNetError, RefusedInputError

BareFiles = Literal["named", "none", "any"]
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P2", b"P5")  # their first bytes
_TINT = 32  # levels of 255 by which a grey pixel's channels may differ: scans have a tint, JPEG its noise
_COLORED_SHARE = 0.01  # of the pixels that may be in color, as a mark drawn on a screenshot
_PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 262, 258, 339  # TIFF's tags
_UNSIGNED, _SIGNED = 1, 2  # of SampleFormat
# Pillow keeps the high byte of 16 bits where there are several channels. In the other order of bytes it gives the low.
_GREY_ALPHA = "LA;16B"
_LOW_BYTES = {
    f"{channels};16{order}": f"{channels};16{other}"
    for channels in ("RGB", "RGBX", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
} | {_GREY_ALPHA: "RGBA"}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow makes color grey


def read_image(path: Path) -> Image:
    """Read an image file's grey values alone, see `read_picture`."""
    return read_picture(path).pixels


@apart(Mammogram, Breast)
def read_picture(path: Path, *, allow_for_processing: bool = False, bare: BareFiles = "named") -> Mammogram:
    """Read a DICOM, PNG, JPEG, TIFF or PGM file as grey values in [0, 1], see `scaled_over_breast`.

    What is grey in color channels becomes grey, a color picture is refused, transparency is dropped, orientation marks
    for photo viewers are ignored. DICOM goes through the display chain of `diagnet.data.dicom.read_mammogram`.

    Args:
        path: the file.
        allow_for_processing: read raw detector data too.
        bare: which DICOM files without preamble are read: those whose name ends in .dcm or .dicom, none, or any that is
            no PNG, JPEG, TIFF or PGM by its content.

    Raises:
        DataError: the file is missing, broken, cut short, or of another format.
        RefusedInputError: it has too many pixels or several pages, is in color, or the DICOM policy refuses it.
        MissingExtraError: a DICOM compression needs the extra `dicom`.
    """
    check_file(path)
    if is_dicom(path) or (bare == "any" and not _is_picture(path)):
        is_strict = bare == "none"
        return read_mammogram(
            path, allow_for_processing=allow_for_processing, require_preamble=is_strict, is_scaled=True
        )
    with _opened(path) as file:
        if isinstance(file, JpegImageFile):
            check_jpeg(path.read_bytes(), file.size, path)
        values = _grey(file, path)  # first: what is asked of a file already read has no tiles
        _check_grey(file, path)
        pixels = scaled_over_breast(values)
        step = f"decode: {file.format}, mode {file.mode}"
        ends = (
            linear_ends(values, pixels) if values.dtype.itemsize <= 2 else None
        )  # others are shifted as they are read
        return Mammogram(pixels, (step, SCALED), (NEGATIVE,) if looks_negative(pixels) else (), ends=ends)


def _grey(file: PIL.Image.Image, path: Path) -> Shaped[np.ndarray, "height width"]:
    """Grey values as they are stored: signs and all bits, which Pillow does not keep of every kind of file."""
    tiff = file.tag_v2 if isinstance(file, TiffImageFile) else {}
    bits, kind = (tiff.get(tag, (default,))[0] for tag, default in ((_BITS, 8), (_SAMPLE_FORMAT, _UNSIGNED)))
    if file.mode in ("I", "F") or file.mode.startswith("I;16"):
        values = np.asarray(file)
        if values.dtype == np.int32 and (bits, kind) == (32, _UNSIGNED):
            values = values.view(np.uint32)
        return values.astype(np.float64) - float(values.min()) if values.dtype.itemsize > 2 else values
    if file.mode == "L" and kind == _SIGNED:
        return np.asarray(file).view(np.int8)
    tiles: Any = getattr(file, "tile", ())
    rawmodes = {tile.args if isinstance(tile.args, str) else tile.args[0] for tile in tiles}
    rawmode = rawmodes.pop() if len(rawmodes) == 1 else ""
    if rawmode not in _LOW_BYTES:
        return np.asarray(file.convert("L"))
    with PIL.Image.open(path, formats=("PNG", "TIFF")) as again:
        low = _LOW_BYTES[rawmode]
        tiles = again.tile
        again.tile = [
            tile._replace(args=low if isinstance(tile.args, str) else (low, *tile.args[1:])) for tile in tiles
        ]
        lower = np.asarray(again)
    if rawmode == _GREY_ALPHA:  # two bytes of grey and two of alpha, as four channels
        return np.asarray(lower[..., 0] * np.uint16(256) + lower[..., 1])
    channels = np.asarray(file)[..., :3] * np.float32(256) + lower[..., :3]
    return np.asarray(channels @ _LUMA)


@apart()
def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image file, reading its header only.

    Raises:
        DataError: the file is missing, broken or of another format.
        RefusedInputError: it has too many pixels or several pages.
    """
    check_file(path)
    if is_dicom(path):
        geometry = read_geometry(path)
        return geometry.width, geometry.height
    with _opened(path) as file:
        return file.width, file.height


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its name or its preamble.

    Raises:
        DataError: it cannot be read.
    """
    return path.suffix.lower() in (".dcm", ".dicom") or _beginning(path)[128:] == b"DICM"


def _is_picture(path: Path) -> bool:
    return _beginning(path).startswith(_PICTURES)


def _beginning(path: Path) -> bytes:
    regular_size(path, "image")
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError as error:
        raise DataError(f"`image` must be a file that can be read, got {error.strerror}: {path}.") from None


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """Open an image with Pillow; whatever goes wrong inside the block is told in one line."""
    with quiet():
        try:
            with PIL.Image.open(path, formats=("PNG", "JPEG", "TIFF", "PPM")) as file:
                check_pixel_count(*file.size, path)
                _check_tiff(file, path)
                yield file
        except DiagNetError:
            raise
        except PIL.Image.DecompressionBombError as error:
            raise RefusedInputError(f"`image` must be of a mammogram's size, got too many pixels in {path}.") from error
        except Exception as error:  # Pillow raises whatever a broken file makes it meet
            raise DataError(
                f"`image` must be a whole PNG, JPEG, TIFF, PGM or DICOM file, got a broken or other file: {path}."
            ) from error


def _check_grey(file: PIL.Image.Image, path: Path) -> None:
    """Refuse a color picture, which is no mammogram; a tint or a small colored mark is none."""
    if file.mode in ("1", "L", "LA", "La", "I", "F") or file.mode.startswith("I;16"):
        return
    red, green, blue = file.convert("RGB").split()
    brightest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    darkest = ImageChops.darker(ImageChops.darker(red, green), blue)
    n_colored = sum(ImageChops.difference(brightest, darkest).histogram()[_TINT + 1 :])
    share = n_colored / (file.width * file.height)
    if share > _COLORED_SHARE:
        raise RefusedInputError(
            f"`image` must be grey, got a picture of which {100 * share:.0f} % is in color in {path}."
            " Fix: the mammogram itself, saved in grey."
        )


def _has_second_page(file: TiffImageFile) -> bool:
    """Look for the second page alone: to count them all, Pillow reads each, and there may be thousands."""
    try:
        file.seek(1)
    except EOFError:
        return False
    file.seek(0)
    return True


def _check_tiff(file: PIL.Image.Image, path: Path) -> None:
    """Refuse several pages, and what Pillow would show as its negative: white as 0 in more than 8 bits."""
    if not isinstance(file, TiffImageFile):
        return
    if _has_second_page(file):
        raise RefusedInputError(f"`image` must be a single page, got several in {path}.")
    if file.tag_v2.get(_PHOTOMETRIC) == 0 and file.mode not in ("1", "L"):
        raise RefusedInputError(
            f"`image` must have black as 0 where it has more than 8 bits, got a TIFF with white as 0: {path}."
            " Fix: save it as BlackIsZero."
        )
