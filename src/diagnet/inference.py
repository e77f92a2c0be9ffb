"""A finished run as a model: masses in, malignancy scores out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diagnet.arrays import Images
from diagnet.calibration import probabilities
from diagnet.checkpoint import read_weights
from diagnet.data.roi import RoiSettings
from diagnet.errors import RunFolderError
from diagnet.network import SeparableNetwork
from diagnet.run_folder import read_json
from diagnet.training import embeddings_and_logits


@dataclass(frozen=True, slots=True)
class Model:
    """The networks of a run (one a fold), each with its temperature; scores are their mean.

    Attributes:
        networks: in evaluation mode.
        temperatures: one a network, fitted on its validation masses.
        threshold: malignancy from which a mass is called malignant, the mean of the networks' own.
        classes: class names; the index is the label.
        roi: how regions are cut; a region cut otherwise must not be scored.
    """

    networks: tuple[SeparableNetwork, ...]
    temperatures: tuple[float, ...]
    threshold: float
    classes: tuple[str, ...]
    roi: RoiSettings

    def probabilities(self, images: Images, *, calibrated: bool = True) -> Float[np.ndarray, "image classes"]:
        """Class probabilities of regions cut with `roi`, in [0, 1]: the mean over the networks."""
        parts = [
            probabilities(
                embeddings_and_logits(network, images)[1].astype(np.float64), temperature if calibrated else 1.0
            )
            for network, temperature in zip(self.networks, self.temperatures, strict=True)
        ]
        return np.asarray(np.mean(parts, axis=0))


def load_model(run: Path) -> Model:
    """Read the model of a finished run.

    Args:
        run: the run's folder.

    Raises:
        RunFolderError: it is not a finished run, or a file was edited.
    """
    if read_json(run / "run.json").get("status") != "finished":
        raise RunFolderError(f"`RUN` must be a finished run, got an unfinished one in {run}. Fix: train with --resume.")
    read = [read_weights(path) for path in sorted((run / "model").glob("fold-*.safetensors"))]
    if not read:
        raise RunFolderError(f"`RUN` must hold a model, got none in {run / 'model'}")
    facts: Mapping[str, Any] = read[0][1]
    return Model(
        networks=tuple(network for network, _ in read),
        temperatures=tuple(float(each["temperature"]) for _, each in read),
        threshold=float(np.mean([each["threshold"] for _, each in read])),
        classes=tuple(facts["classes"]),
        roi=RoiSettings.model_validate(facts["roi"]),
    )
