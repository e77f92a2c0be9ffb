"""A finished run as a model: masses in, malignancy scores out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diagnet.arrays import Images
from diagnet.calibration import probabilities
from diagnet.checkpoint import read_weights
from diagnet.data.roi import RoiSettings
from diagnet.engines import Engine, EngineChoice, EngineName, make_engine, resolve_engine
from diagnet.errors import RunFolderError
from diagnet.network import SeparableNetwork
from diagnet.run_folder import read_json

_BATCH = 32  # images in one pass; larger ones are no faster


@dataclass(frozen=True)
class Model:
    """The networks of a run (one a fold), each with its temperature; scores are their mean.

    Attributes:
        networks: in evaluation mode.
        temperatures: one a network, fitted on its validation masses.
        threshold: malignancy from which a mass is called malignant, the mean of the networks' own.
        classes: class names; the index is the label.
        roi: how regions are cut; a region cut otherwise must not be scored.
        engine: what runs the networks; it is prepared at the first score.
    """

    networks: tuple[SeparableNetwork, ...]
    temperatures: tuple[float, ...]
    threshold: float
    classes: tuple[str, ...]
    roi: RoiSettings
    engine: EngineName = "torch"

    def probabilities(self, images: Images, *, calibrated: bool = True) -> Float[np.ndarray, "image classes"]:
        """Class probabilities of regions cut with `roi`, in [0, 1]: the mean over the networks.

        Raises:
            ValueError: the images are not of the size the networks were trained on.
        """
        size = self.roi.size
        if images.shape[1:] != (size, size):
            raise ValueError(f"`images` must be {size} x {size} pixels, got {images.shape[1]} x {images.shape[2]}")
        chances = np.zeros((len(images), len(self.classes)))
        for left in range(0, len(images), _BATCH):
            part = slice(left, left + _BATCH)
            logits = self._run(np.array(images[part], dtype=np.float32)[:, None]).astype(np.float64)
            for k, temperature in enumerate(self.temperatures):
                chances[part] += probabilities(logits[:, k], temperature if calibrated else 1.0)
        return chances / len(self.networks)

    @cached_property
    def _run(self) -> Engine:
        return make_engine(self.engine, self.networks, self.roi.size)


def load_model(run: Path, *, engine: EngineChoice = "auto") -> Model:
    """Read the model of a finished run.

    Args:
        run: the run's folder.
        engine: what scores; "auto" takes the fastest that is installed. All compute in float32, and their
            probabilities differ by less than 1e-4.

    Raises:
        MissingExtraError: the engine asked for is not installed.
        RunFolderError: it is not a finished run, or a file was edited.
    """
    if read_json(run / "run.json").get("status") != "finished":
        raise RunFolderError(f"`RUN` must be a finished run, got an unfinished one in {run}. Fix: train with --resume.")
    read = [read_weights(path) for path in sorted((run / "model").glob("fold-*.safetensors"))]
    if not read:
        raise RunFolderError(f"`RUN` must hold a model, got none in {run / 'model'}")
    facts: Mapping[str, Any] = read[0][1]
    networks = tuple(network for network, _ in read)
    return Model(
        networks=networks,
        temperatures=tuple(float(each["temperature"]) for _, each in read),
        threshold=float(np.mean([each["threshold"] for _, each in read])),
        classes=tuple(facts["classes"]),
        roi=RoiSettings.model_validate(facts["roi"]),
        engine=resolve_engine(engine, networks),
    )
