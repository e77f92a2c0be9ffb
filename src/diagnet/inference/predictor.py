"""A model as a user of Python meets it: masses of a file or an array in, what `diagnet predict` says out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from diagnet.arrays import Image
from diagnet.data.box import BoxLike
from diagnet.data.mammogram import SCALED, Mammogram, scaled_over_breast
from diagnet.errors import DataError
from diagnet.inference.assessment import Assessment, Policy, assess
from diagnet.inference.engines import EngineChoice
from diagnet.inference.model import Model
from diagnet.inference.model import load_model as read_model
from diagnet.lite0 import WEIGHTS


@dataclass(frozen=True)
class Predictor(Model):
    """The model of a run, or the shipped one, with what it takes to score a file."""

    def predict(
        self,
        image: Path | str | Image,
        boxes: Sequence[BoxLike | None] = (None,),
        policy: Policy = Policy(),  # noqa: B008 -- frozen, so sharing it is safe
    ) -> list[Assessment]:
        """Score marked masses: what `diagnet predict` says of the same file and boxes.

        Args:
            image: a DICOM, PNG, JPEG, TIFF or PGM file; or displayed grey values in [0, 1], higher is brighter.
            boxes: (x0, y0, x1, y1) of each mass in pixels, x1 and y1 exclusive; None: the whole image, a crop.
            policy: which files and boxes may be scored.

        Returns:
            One assessment a box, in their order. A refused one has no score and says why.

        Raises:
            DataError: the array is not two-dimensional, or holds values outside [0, 1].
            RunFolderError: the model knows no class `malignant`.
        """
        if isinstance(image, np.ndarray):
            name = Path(f"array-{hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()[:12]}")
            return assess(self, name, boxes, policy, picture=_picture(image))
        return assess(self, Path(image), boxes, policy)


def load_model(run: Path | str | None = None, *, engine: EngineChoice = "auto") -> Predictor:
    """Read the model of a finished run, or the one that comes with diagnet.

    Args:
        run: the run's folder; None: the shipped model.
        engine: what scores; "auto" takes the fastest that is installed. All compute in float32, and their
            probabilities differ by less than 1e-4.

    Raises:
        MissingExtraError: the engine asked for is not installed.
        RunFolderError: it is not a finished run, a file was edited, or it was trained with other preprocessing.
    """
    model = read_model(shipped_run() if run is None else Path(run), engine=engine)
    return Predictor(**{field.name: getattr(model, field.name) for field in fields(Model)})


def shipped_run() -> Path:
    """The folder of the model that comes with diagnet, as a finished run."""
    return WEIGHTS / "breast-mass"


def _picture(pixels: Image) -> Mammogram:
    if pixels.ndim != 2 or not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(f"`image` must be 2-dimensional and of floats, got {pixels.dtype} of shape {pixels.shape}")
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise DataError("`image` must lie in [0, 1], got values outside. Fix: divide by the largest possible value.")
    return Mammogram(scaled_over_breast(pixels), steps=(SCALED,))
