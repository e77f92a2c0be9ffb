"""One image file -> grey values in [0, 1], whatever its format; and its size without decoding it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
from jaxtyping import Shaped

from diagnet.arrays import Image
from diagnet.data.dicom import check_pixel_count, read_geometry, read_mammogram
from diagnet.data.quiet import quiet
from diagnet.errors import DataError, DiagNetError, RefusedInputError

# A mammogram's air is one and the same darkest value, in half of its pixels; a crop's darkest value is rare.
MIN_BACKGROUND_SHARE = 0.05


def read_image(path: Path) -> Image:
    """Read a DICOM, PNG, JPEG or TIFF file of 8 or 16 bits as grey values in [0, 1], see `scaled_over_breast`.

    Color becomes grey, transparency is dropped, orientation marks for photo viewers are ignored. DICOM goes through
    the display chain of `diagnet.data.dicom.read_mammogram`.

    Raises:
        DataError: the file is missing, broken, cut short, or of another format.
        RefusedInputError: it has too many pixels or several pages, or the DICOM policy refuses it.
        MissingExtraError: a DICOM compression needs the extra `dicom`.
    """
    if _is_dicom(path):
        return scaled_over_breast(read_mammogram(path).pixels)
    with _opened(path) as file:
        is_deep = file.mode in ("I", "F") or file.mode.startswith("I;16")
        return scaled_over_breast(np.asarray(file if is_deep else file.convert("L")))


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of an image file, reading its header only.

    Raises:
        DataError: the file is missing, broken or of another format.
        RefusedInputError: it has too many pixels or several pages.
    """
    if _is_dicom(path):
        geometry = read_geometry(path)
        return geometry.width, geometry.height
    with _opened(path) as file:
        return file.width, file.height


def scaled_over_breast(pixels: Shaped[np.ndarray, "height width"]) -> Image:
    """Scale grey values so that the breast's darkest is 0 and its brightest 1 (reading 16).

    The background, where there is one, is 0 and has no part in the range: the pixels of the darkest value, if they
    are at least one in twenty. A constant image is all 0.

    Raises:
        ValueError: a value is not a finite number.
    """
    values = pixels.astype(np.float32)
    lowest, highest = float(values.min()), float(values.max())
    if not np.isfinite([lowest, highest]).all():
        raise ValueError("`pixels` must be finite, got NaN or infinity.")
    if lowest == highest:
        return np.zeros_like(values)
    is_background = values == np.float32(lowest)
    if is_background.mean() >= MIN_BACKGROUND_SHARE:
        lowest = float(values.min(where=~is_background, initial=np.inf))
        if lowest == highest:  # two values, as in a mask
            return np.asarray(~is_background, dtype=np.float32)
    values -= np.float32(lowest)
    values /= np.float32(highest - lowest)
    return np.clip(values, 0, 1, out=values)


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in (".dcm", ".dicom"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise DataError(f"`image` must be a file that can be read, got {error.strerror}: {path}.") from None


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    """Open an image with Pillow; whatever goes wrong inside the block is told in one line."""
    with quiet():
        try:
            with PIL.Image.open(path, formats=("PNG", "JPEG", "TIFF")) as file:
                check_pixel_count(*file.size, path)
                _check_single_page(file, path)
                yield file
        except DiagNetError:
            raise
        except PIL.Image.DecompressionBombError as error:
            raise RefusedInputError(f"`image` must be of a mammogram's size, got too many pixels in {path}.") from error
        except Exception as error:  # Pillow raises whatever a broken file makes it meet
            raise DataError(
                f"`image` must be a whole PNG, JPEG, TIFF or DICOM file, got a broken or other file: {path}."
            ) from error


def _check_single_page(file: PIL.Image.Image, path: Path) -> None:
    n_pages = getattr(file, "n_frames", 1)
    if file.format == "TIFF" and n_pages > 1:
        raise RefusedInputError(f"`image` must be a single page, got {n_pages} pages in {path}.")
