"""Synthetic mammograms for the page's tests and for the pictures of docs/reader.md: nobody's data."""

from pathlib import Path

import numpy as np
from PIL import Image

from diagnet.data.phantom import make_inbreast_release

LARGE = (4000, 5000)  # width, height


def write_phantoms(folder: Path) -> list[Path]:
    """Write a few DICOM mammograms of two synthetic patients, both views of a breast at least."""
    release = make_inbreast_release(folder, n_patients=2, rng=np.random.default_rng(5))
    return sorted((release / "AllDICOMs").glob("*.dcm"))


def write_large(phantom: Path, path: Path) -> Path:
    """Write a phantom enlarged to the size of a large detector, as a 16-bit PNG."""
    from diagnet.data.image import read_picture

    small = Image.fromarray((read_picture(phantom).pixels * 65535).astype(np.int32))
    enlarged = np.clip(np.asarray(small.resize(LARGE, Image.Resampling.BICUBIC)), 0, 65535).astype(np.uint16)
    Image.fromarray(enlarged).save(path, compress_level=1)
    return path
