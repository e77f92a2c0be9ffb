"""Hand-crafted features of a mass, as before deep learning: shape, texture, gradient histograms."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from diagnet.arrays import Image, Images
from diagnet.data.box import Box
from diagnet.data.mass import Mass
from diagnet.errors import DataError, MissingExtraError

Features = Callable[[Images, Sequence[Mass]], Float64[np.ndarray, "image feature"]]

_LEVELS = 16  # grey levels of the co-occurrence matrix
_SCALE = "original_px_per_px"  # column of a manifest of crops that says how much they were reduced


def hand_crafted(images: Images, _masses: Sequence[Mass]) -> Float64[np.ndarray, "image feature"]:
    """Shape of the bright part in the middle, co-occurrence and local binary patterns, gradient histograms.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        import skimage  # noqa: F401 -- asked for here, before anything is computed
    except ImportError:
        raise MissingExtraError("scikit-image", "study") from None
    return np.stack([np.concatenate([_shape(image), _texture(image), _gradients(image)]) for image in images])


def sizes(_images: Images, masses: Sequence[Mass]) -> Float64[np.ndarray, "image 2"]:
    """Logarithms of the sides of each mass's box, in pixels of the original: all that a crop hides.

    Raises:
        DataError: a mass has no box.
    """
    rows = []
    for mass in masses:
        if mass.box is None:
            raise DataError("`box` must be given to know a mass's size, got a mass without one")
        box, scale = Box(*mass.box), float(mass.extra.get(_SCALE) or 1)
        rows.append((np.log(box.width * scale), np.log(box.height * scale)))
    return np.array(rows)


def scales(_images: Images, masses: Sequence[Mass]) -> Float64[np.ndarray, "image 1"]:
    """Logarithm of how much each crop was reduced; 0 where the images are no crops.

    Whoever makes crops of one size hides a mass's size in it.
    """
    return np.log([[float(mass.extra.get(_SCALE) or 1)] for mass in masses])


def brightness(images: Images, _masses: Sequence[Mass]) -> Float64[np.ndarray, "image 2"]:
    """Mean and spread of each region's grey values."""
    flat = np.asarray(images, dtype=np.float64).reshape(len(images), -1)
    return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def _shape(image: Image) -> Float64[np.ndarray, "feature"]:
    """Of the part brighter than Otsu's threshold that is nearest to the middle."""
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label, regionprops

    smooth = gaussian(image, 1.0)
    parts = regionprops(label(smooth > threshold_otsu(smooth))) if np.ptp(smooth) > 0 else []
    if not parts:
        return np.zeros(7)
    middle = (np.array(image.shape) - 1) / 2
    part = min(parts, key=lambda each: np.min(np.linalg.norm(each.coords - middle, axis=1)))
    compactness = part.perimeter**2 / part.area
    return np.array(
        [
            part.area / image.size,
            part.eccentricity,
            part.solidity,
            part.extent,
            np.log1p(compactness),
            part.euler_number,
            image[tuple(part.coords.T)].mean() - image.mean(),
        ],
        dtype=np.float64,
    )


def _texture(image: Image) -> Float64[np.ndarray, "feature"]:
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

    levels = np.minimum((image * _LEVELS).astype(np.uint8), _LEVELS - 1)
    matrix = graycomatrix(
        levels, (1, 3, 6), (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4), _LEVELS, symmetric=True, normed=True
    )
    names = ("contrast", "homogeneity", "energy", "correlation")
    of_matrix = np.concatenate([graycoprops(matrix, name).mean(axis=1) for name in names])
    eight_bit = (image * 255).astype(np.uint8)
    patterns = [
        np.histogram(local_binary_pattern(eight_bit, 8 * r, r, "uniform"), np.arange(8 * r + 3), density=True)[0]
        for r in (1, 2)
    ]
    moments = [image.mean(), image.std(), *np.quantile(image, (0.05, 0.25, 0.5, 0.75, 0.95))]
    return np.concatenate([of_matrix, *patterns, moments]).astype(np.float64)


def _gradients(image: Image) -> Float64[np.ndarray, "feature"]:
    from skimage.feature import hog

    side = max(2, image.shape[0] // 4)
    return np.asarray(hog(image, 9, (side, side), (2, 2), feature_vector=True), dtype=np.float64)


FEATURES: Mapping[str, Features] = {
    "hand-crafted": hand_crafted,
    "size": sizes,
    "scale": scales,
    "brightness": brightness,
}
