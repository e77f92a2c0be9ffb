"""What may happen to a mass before it is scored: the scores should not change much, and other masses' not at all."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from diagnet.arrays import Images
from diagnet.data.box import Box
from diagnet.data.mass import Mass
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings, flipped
from diagnet.errors import DataError
from diagnet.study.network_fit import Cases

# From masses to their regions; several of them: the scores are averaged.
Perturbation = Callable[[Cases, RoiSettings, np.random.Generator], list[Images]]


def _noisy(cases: Cases, _settings: RoiSettings, rng: np.random.Generator, *, sd: float) -> list[Images]:
    noise = rng.normal(0, sd, cases.images.shape)
    return [np.clip(cases.images + noise, 0, 1).astype(np.float32)]


def _blurred(cases: Cases, _settings: RoiSettings, _rng: np.random.Generator, *, sigma: float) -> list[Images]:
    return [gaussian_filter(cases.images, (0, sigma, sigma)).astype(np.float32)]


def _moved(
    cases: Cases, _settings: RoiSettings, rng: np.random.Generator, *, degrees: float = 0.0, scale: float = 1.0
) -> list[Images]:
    """Rotate either way, and scale, about the middle; what comes from outside is a reflection, as in training."""
    middle = (np.array(cases.images.shape[1:]) - 1) / 2
    found = []
    for image, sign in zip(cases.images, rng.choice([-1, 1], len(cases.images)), strict=True):
        angle = np.deg2rad(sign * degrees)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
        found.append(affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="reflect"))
    return [np.clip(np.stack(found), 0, 1).astype(np.float32)]


def _contrasted(cases: Cases, _settings: RoiSettings, _rng: np.random.Generator, *, gamma: float) -> list[Images]:
    return [(np.asarray(cases.images) ** np.float32(gamma)).astype(np.float32)]


def _marked_otherwise(cases: Cases, settings: RoiSettings, rng: np.random.Generator, *, share: float) -> list[Images]:
    """Cut the regions again by boxes whose edges are each off by up to a fraction of the box's side.

    Raises:
        DataError: the images are not there, or a mass has no box.
    """
    masses = []
    for mass in cases.masses:
        if mass.box is None or not isinstance(mass.image, Path):
            raise DataError("`DATA` must be a manifest of images with boxes to move a box, got regions alone")
        masses.append(_with_box(mass, _off(Box(*mass.box), share, rng)))
    return [read_rois(masses, settings)]


def _off(box: Box, share: float, rng: np.random.Generator) -> Box:
    left, top, right, bottom = (rng.uniform(-share, share, 4) * np.array([box.width, box.height] * 2)).tolist()
    return Box(box.x0 + left, box.y0 + top, box.x1 + right, box.y1 + bottom)


def _with_box(mass: Mass, box: Box) -> Mass:
    return Mass(mass.image, box, mass.label, mass.patient_id, original_size=mass.original_size)


def _all_flips(cases: Cases, _settings: RoiSettings, _rng: np.random.Generator) -> list[Images]:
    return [flipped(cases.images, across, down) for across in (False, True) for down in (False, True)]


PERTURBATIONS: Mapping[str, Perturbation] = {
    **{f"noise-{sd:g}": partial(_noisy, sd=sd) for sd in (0.02, 0.05, 0.1)},
    **{f"blur-{sigma:g}px": partial(_blurred, sigma=sigma) for sigma in (0.5, 1.0, 2.0)},
    **{f"rotation-{degrees:g}": partial(_moved, degrees=degrees) for degrees in (10.0, 30.0, 90.0)},
    **{f"scale-{scale:g}": partial(_moved, scale=scale) for scale in (0.8, 0.9, 1.1, 1.25)},
    **{f"gamma-{gamma:g}": partial(_contrasted, gamma=gamma) for gamma in (0.7, 1.4)},
    **{f"box-{share:g}": partial(_marked_otherwise, share=share) for share in (0.05, 0.1, 0.2)},
    "flips-averaged": _all_flips,
}
