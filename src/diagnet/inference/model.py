"""A finished run as a model: masses in, malignancy scores out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import ValidationError

from diagnet.arrays import Images
from diagnet.config import read_run_config
from diagnet.data.domain import Domain
from diagnet.data.mass import MALIGNANT, malignant_class
from diagnet.data.preprocessing import Preprocessing, stored_preprocessing
from diagnet.data.roi import RoiSettings
from diagnet.errors import RunFolderError
from diagnet.evaluation.abstention import Abstention
from diagnet.evaluation.calibration import probabilities
from diagnet.inference.engines import Engine, EngineChoice, EngineName, make_engine, resolve_engine
from diagnet.network import Network
from diagnet.notice import notice_of
from diagnet.run.checkpoint import read_weights
from diagnet.run.folder import RECORD, read_json
from diagnet.run.schema import NetworkFacts, Record, checked
from diagnet.run.seal import MANIFEST, check_seal, seal_key

_ROUNDING = 1e-6  # that grey values may lie outside of [0, 1]
_BATCH = 32  # images in one pass; larger ones are no faster


@dataclass(frozen=True)
class Model:
    """The networks of a run (one a fold), each with its temperature; scores are their mean.

    Attributes:
        networks: in evaluation mode.
        temperatures: one a network, fitted on its validation masses.
        threshold: malignancy from which a mass is called malignant, the mean of the networks' own.
        classes: class names; the index is the label.
        preprocessing: how a file becomes a region; a region made otherwise must not be scored.
        engine: what runs the networks; it is prepared at the first score.
        abstention: when a mass is not called.
        domains: what the training masses of each network looked like, as far as it is known.
        is_synthetic: whether it was trained on phantoms: its scores say nothing about patients.
    """

    networks: tuple[Network, ...]
    temperatures: tuple[float, ...]
    threshold: float
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    engine: EngineName = "torch"
    abstention: Abstention = Abstention()  # noqa: RUF009 -- frozen, so sharing it is safe
    domains: tuple[Domain, ...] = ()
    is_synthetic: bool = False

    @property
    def notice(self) -> str:
        """What must stand beside each of its scores."""
        return notice_of(self.is_synthetic)

    @property
    def roi(self) -> RoiSettings:
        """Settings by which regions are cut before this model scores them."""
        return self.preprocessing.roi

    @property
    def malignant_class(self) -> int:
        """Index of the class whose probability is the score.

        Raises:
            RunFolderError: the model knows no class `malignant`.
        """
        if MALIGNANT not in self.classes:
            raise RunFolderError(f"`RUN` must know the class malignant, got the classes {', '.join(self.classes)}")
        return malignant_class(self.classes)

    @cached_property
    def sha256(self) -> str:
        """Of the weights, the calibration, the limits and the preprocessing: same hash, same scores and calls."""
        digest = hashlib.sha256()
        for network in self.networks:
            for name, tensor in network.state_dict().items():
                digest.update(f"{name} {tuple(tensor.shape)}".encode())
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        facts: dict[str, Any] = {
            "temperatures": self.temperatures,
            "threshold": self.threshold,
            "classes": self.classes,
            "abstention": self.abstention.model_dump(),
            "preprocessing": self.preprocessing.sha256,
        }
        if self.domains:  # else as before there were any
            facts["domains"] = [each.model_dump() for each in self.domains]
        digest.update(json.dumps(facts).encode())
        return digest.hexdigest()

    def logits(self, images: Images) -> Float[np.ndarray, "network image classes"]:
        """What each network says of regions cut with `roi`.

        Raises:
            ValueError: the images are not of the size the networks were trained on, or not in [0, 1].
        """
        size = self.roi.size
        if images.shape[1:] != (size, size):
            raise ValueError(f"`images` must be {size} x {size} pixels, got {images.shape[1]} x {images.shape[2]}")
        if images.size and not (images.min() >= -_ROUNDING and images.max() <= 1 + _ROUNDING):  # NaN is neither
            raise ValueError(
                f"`images` must be grey values in [0, 1], got {images.min():g} to {images.max():g}."
                " Fix: cut them from the file as the model does, with `assess` or `read_rois`."
            )
        found = np.zeros((len(self.networks), len(images), len(self.classes)))
        for left in range(0, len(images), _BATCH):
            part = slice(left, left + _BATCH)
            found[:, part] = self._run(np.array(images[part], dtype=np.float32)[:, None]).swapaxes(0, 1)
        return found

    def chances(
        self, logits: Float[np.ndarray, "network image classes"], *, calibrated: bool = True
    ) -> Float[np.ndarray, "network image classes"]:
        """Class probabilities by each network, in [0, 1]."""
        temperatures = self.temperatures if calibrated else (1.0,) * len(self.networks)
        return np.stack(
            [probabilities(each, temperature) for each, temperature in zip(logits, temperatures, strict=True)]
        )

    def probabilities(self, images: Images, *, calibrated: bool = True) -> Float[np.ndarray, "image classes"]:
        """Class probabilities of regions cut with `roi`, in [0, 1]: the mean over the networks.

        Raises:
            ValueError: the images are not of the size the networks were trained on, or not in [0, 1].
        """
        return np.asarray(self.chances(self.logits(images), calibrated=calibrated).mean(axis=0))

    def prepare(self) -> None:
        """Prepare the engine, which takes seconds for all but `torch`, before anything is timed; once."""
        _ = self._run

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
        RunFolderError: it is not a finished run, a file was edited, or it was trained with other preprocessing.
        SettingsError: the key that DIAGNET_SEAL_KEY names cannot be read.
    """
    record = checked(Record, read_json(run / RECORD), run / RECORD)
    if record.status != "finished":
        raise RunFolderError(f"`RUN` must be a finished run, got an unfinished one in {run}. Fix: train with --resume.")
    manifest = check_seal(run, seal_key())
    paths = sorted((run / "model").glob("fold-*.safetensors"))
    if not paths:
        raise RunFolderError(f"`RUN` must hold a model, got none in {run / 'model'}")
    read = [read_weights(path) for path in paths]
    facts = [
        checked(NetworkFacts, each, path.with_suffix(".json")) for path, (_, each) in zip(paths, read, strict=True)
    ]
    networks = tuple(network for network, _ in read)
    preprocessing = [stored_preprocessing(each, path) for path, (_, each) in zip(paths, read, strict=True)]
    if len(set(preprocessing)) > 1:
        raise RunFolderError(f"`RUN` must hold networks of one preprocessing, got several in {run / 'model'}")
    _require_one_order(run, record, dict(zip(paths, facts, strict=True)))
    try:
        domains = tuple(Domain.model_validate(each.domain) for each in facts if each.domain)
    except ValidationError as error:
        raise RunFolderError(
            f"`domain` must be as this version of diagnet stores it, got another one in {run / 'model'}."
            " Fix: use the version of diagnet that trained the run, or train again."
        ) from error
    threshold, classes = float(np.mean([each.threshold for each in facts])), facts[0].classes
    if manifest and (manifest.classes, manifest.threshold) != (classes, threshold):
        raise RunFolderError(f"`{MANIFEST}` must name the classes and threshold of the networks, got others in {run}")
    return Model(
        networks=networks,
        temperatures=tuple(each.temperature for each in facts),
        threshold=threshold,
        classes=classes,
        preprocessing=preprocessing[0],
        engine=resolve_engine(engine, networks),
        abstention=Abstention(
            half_width=float(np.mean([each.abstention.half_width for each in facts])),
            dissent=facts[0].abstention.dissent,
        ),
        domains=domains,
        is_synthetic=any(each.synthetic for each in facts),
    )


def _require_one_order(run: Path, record: Record, facts: Mapping[Path, NetworkFacts]) -> None:
    """Check that all files that name the classes name them in one order: else scores would change sides."""
    said = {path.with_suffix(".json"): each.classes for path, each in facts.items()}
    first = next(iter(said.values()))
    if record.data.classes is not None:
        said[run / RECORD] = record.data.classes
    if (run / "config.toml").exists():
        said[run / "config.toml"] = read_run_config(run).classes
    for path, classes in said.items():
        if classes != first:
            raise RunFolderError(
                f"`classes` must stand in one order in all files of a run, got {', '.join(classes)} in {path} and"
                f" {', '.join(first)} beside the first network"
            )
