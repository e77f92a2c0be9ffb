"""What a synthetic mass looks like: an outline, spicules, an edge; and the tissue around it."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.fft
from jaxtyping import Float, Float32

ANGLES = np.linspace(0, 2 * np.pi, 256, endpoint=False)
ORDERS = np.arange(3, 13)  # waves per turn; 2 would be an ellipse, which both classes have


@dataclass(frozen=True)
class Lesion:
    """A star-shaped mass of about unit radius; the label speaks through `irregularity` alone.

    Attributes:
        irregularity: 0 oval and circumscribed ... 1 irregular and spiculated.
        aspect: short over long axis of the ellipse it grew from.
        tilt: direction of the long axis, in radians.
        waves: cosine and sine amplitudes of the log radius, one column for each of `ORDERS`.
        spicules: angle, length, bend, width, strength of each; lengths in radii of the lesion.
        edge: width of the margin, in radii.
        contrast: brightness above the tissue.
    """

    irregularity: float
    aspect: float
    tilt: float
    waves: Float[np.ndarray, "2 order"]
    spicules: Float[np.ndarray, "spicule 5"]
    edge: float
    contrast: float

    @cached_property
    def radii(self) -> Float[np.ndarray, "angle"]:
        """Distance from center to margin at `ANGLES`.

        Scaled so that neither area nor bounding box tells the classes apart: at equal area an irregular mass has
        the larger box, at equal box the smaller area; so the mean of both is kept at that of the unit disk.
        """
        turned = ANGLES - self.tilt
        ellipse = np.sqrt(self.aspect / ((self.aspect * np.cos(turned)) ** 2 + np.sin(turned) ** 2))
        waves = self.waves[0] @ np.cos(np.outer(ORDERS, ANGLES)) + self.waves[1] @ np.sin(np.outer(ORDERS, ANGLES))
        radii = ellipse * np.exp(waves)
        box = np.ptp(radii * np.cos(ANGLES)) * np.ptp(radii * np.sin(ANGLES)) / 4
        return np.asarray(radii / (np.mean(radii**2) * box) ** 0.25)

    def outline(self, center: tuple[float, float], radius: float) -> Float[np.ndarray, "angle 2"]:
        """Return the margin as (x, y) points in pixels."""
        return np.asarray(np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * (radius * self.radii)[:, None] + center)

    def density(
        self, x: Float[np.ndarray, "height width"], y: Float[np.ndarray, "height width"]
    ) -> Float[np.ndarray, "height width"]:
        """Return the brightness that the mass adds at points given in radii from its center."""
        distance, angle = np.hypot(x, y), np.arctan2(y, x)
        margin = np.interp(angle, ANGLES, self.radii, period=2 * np.pi)
        thickness = np.sqrt(np.clip(1 - (distance / margin) ** 2, 0, 1))
        bare = 1 - (0.55 + 0.45 * thickness) / (1 + np.exp(np.clip(2 * (distance - margin) / self.edge, -30, 30)))
        for start, length, bend, width, strength in self.spicules:
            outside = distance - np.interp(start, ANGLES, self.radii, period=2 * np.pi)
            tapering = np.clip(1 - outside / length, 0, 1) * (outside > -0.4)
            turn = (angle - start - bend * (distance - 1) + np.pi) % (2 * np.pi) - np.pi
            line = np.exp(-0.5 * (distance * turn / (width * (0.4 + 0.6 * tapering))) ** 2)
            bare *= 1 - 0.8 * strength * tapering**0.7 * line
        return np.asarray(self.contrast * (1 - bare))

    def seen_again(self, rng: np.random.Generator) -> "Lesion":
        """Return the same mass as another view shows it: alike, not equal."""
        jitter = rng.normal(0, (0.15, 0.1, 0.05, 0.005, 0.0), self.spicules.shape)
        return replace(
            self,
            tilt=self.tilt + rng.normal(0, 0.2),
            waves=0.8 * self.waves + 0.6 * _waves(self.irregularity, rng),
            spicules=np.maximum(self.spicules + jitter, (-np.inf, 0.05, -np.inf, 0.02, 0.0)),
            contrast=self.contrast * float(np.exp(rng.normal(0, 0.15))),
        )


def make_lesion(label: int, difficulty: float, rng: np.random.Generator) -> Lesion:
    """Make a benign (0) or malignant (1) mass.

    A hidden normal variable, shifted by ±2 (1 - `difficulty`), decides how irregular the mass is; nothing else
    knows the label. So no reader of the image can exceed an AUC of Φ(4 (1 - difficulty) / √2): 0.998 at 0, 0.921
    at 0.5, 0.5 at 1.
    """
    hidden = rng.normal((2 * label - 1) * 2 * (1 - difficulty))
    irregularity = float(1 / (1 + np.exp(-1.2 * hidden)))
    n_spicules = rng.poisson(1 + 20 * irregularity)
    spicules = np.stack(
        [
            rng.uniform(0, 2 * np.pi, n_spicules),
            rng.gamma(3, (0.08 + 0.35 * irregularity) / 3, n_spicules) + 0.05,
            rng.normal(0, 0.15, n_spicules),
            rng.uniform(0.025, 0.06, n_spicules),
            rng.uniform(0.25, 0.8, n_spicules) * (0.35 + 0.65 * irregularity),
        ],
        axis=1,
    )
    # An irregular mass fills less of its box: were it not a little denser, darkness would tell.
    contrast = np.log(0.20 + 0.06 * irregularity)
    return Lesion(
        irregularity=irregularity,
        aspect=rng.uniform(0.62, 0.95),
        tilt=rng.uniform(0, np.pi),
        waves=_waves(irregularity, rng),
        spicules=spicules,
        edge=float(np.exp(rng.normal(np.log(0.08 + 0.10 * irregularity), 0.3))),
        contrast=float(np.exp(rng.normal(contrast, 0.35))),
    )


def make_tissue(
    n: int, height: int, width: int, rng: np.random.Generator, beta: float = 3.0
) -> Float32[np.ndarray, "image height width"]:
    """Make fields of mean 0 and deviation 1 whose power falls as 1/f^`beta`, as in mammograms (beta about 3).

    Source: Burgess, Jacobson, Judy, *Human observer detection experiments with mammograms and power-law noise*,
    Medical Physics 28 (2001).
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).astype(np.float32)
    frequency[0, 0] = np.inf  # no mean
    real, imaginary = rng.standard_normal((2, n, *frequency.shape), dtype=np.float32)
    fields = scipy.fft.irfft2((real + 1j * imaginary) * frequency ** (-beta / 2), s=(height, width))
    return np.asarray(fields / fields.std(axis=(1, 2), keepdims=True), dtype=np.float32)


def _waves(irregularity: float, rng: np.random.Generator) -> Float[np.ndarray, "2 order"]:
    """Draw the waves of an outline; they rise with irregularity and fall with their order."""
    waves = rng.standard_normal((2, len(ORDERS))) / ORDERS**0.8
    return np.asarray(waves * (0.02 + 0.14 * irregularity) / np.sqrt((waves**2).sum() / 2))
