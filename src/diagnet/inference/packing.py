"""A run made small enough to ship: its networks merged into one, large weights halved, with its test figures."""

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from diagnet.atomic import write_text
from diagnet.config import read_run_config
from diagnet.data.domain import fit_domain
from diagnet.data.mass import MALIGNANT, MassSet
from diagnet.data.prepared import Prepared, mass_set_of
from diagnet.data.region_facts import RegionFacts
from diagnet.data.regions import read_rois
from diagnet.errors import RunFolderError, SettingsError
from diagnet.evaluation.calibration import choose_threshold, probabilities
from diagnet.inference.model import load_model
from diagnet.memory import keep_freed_memory
from diagnet.network import Network, create_network
from diagnet.progress import Progress, silent
from diagnet.run.array_files import Embeddings, read_embeddings, write_embeddings
from diagnet.run.checkpoint import read_weights, write_weights
from diagnet.run.folder import METRICS, claim, read_metrics, read_record, write_record
from diagnet.run.model_card import write_model_card
from diagnet.run.seal import seal, seal_key
from diagnet.run.tables import PREDICTIONS, ScoredMass, read_predictions
from diagnet.training.scoring import embeddings_and_logits

_SMALL = 1 << 16  # values; a larger tensor of weights is stored in half precision
_TOLERANCE = 1e-3  # of a probability, between half and full precision
_MOST_COMPARED = 256  # masses
_SENSITIVITIES = (0.9, 0.95)  # of the operating points that are noted


def pack(
    run: Path,
    data: MassSet | Prepared,
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Merge a run's networks into one of mean weights, halve the large ones' precision, and write a finished run.

    Networks that began with the same pretrained weights lie in one valley of the loss: the mean of their weights scores
    about as the mean of their scores does, in the time of one. Figures stay those of the run's own networks, each on
    masses of patients it never saw.

    Args:
        run: a finished run.
        data: what it was trained on; its masses' embeddings are made anew.
        out: a new folder.
        workers: processes that read images.
        progress: called at each step.

    Returns:
        Differences of a probability: by halving, and between the merged network and the networks' mean on masses that
        most of them trained on; and operating points of 90 and 95 % sensitivity on the run's held-out masses.

    Raises:
        RunFolderError: `run` is not finished, `out` is not new, or halving moves a probability by more than 1e-3.
        SettingsError: the networks did not begin with the same weights.

    Source: Wortsman et al., Model soups, ICML 2022.
    """
    keep_freed_memory()
    model = load_model(run, engine="torch")
    config, record = read_run_config(run), read_record(run)
    if config.network.preset != "lite0":
        raise SettingsError(f"`RUN` must be of preset lite0 or best to be merged, got {config.network.preset}")
    claim(out, {}, resume=False)
    mass_set = mass_set_of(data)
    looks: Float64[np.ndarray, "mass fact"] | None
    if isinstance(data, Prepared):
        images, looks = data.images, data.facts
    else:
        looks = np.empty((len(mass_set.masses), len(RegionFacts._fields)))
        images = read_rois(mass_set.masses, model.roi, workers=workers, progress=progress, facts=looks)
    merged = mean_network(model.networks)
    halved = copy.deepcopy(merged)
    _halve(halved)
    halved.float()
    progress("pack", 0, 1)
    embedded, logits = embeddings_and_logits(halved, images)
    compared = np.unique(np.linspace(0, len(images) - 1, _MOST_COMPARED).round().astype(np.int64))
    full = embeddings_and_logits(merged, images, rows=compared)[1]
    column = model.malignant_class
    temperature = float(np.mean(model.temperatures))
    chances, of_full = (_chance(each, temperature, column) for each in (logits[compared], full))
    of_networks = model.probabilities(images[compared])[:, column]
    moved = float(np.abs(chances - of_full).max())
    if moved > _TOLERANCE:
        raise RunFolderError(f"half precision must keep probabilities to {_TOLERANCE:g}, got {moved:.2g} in {run}")
    facts = read_weights(run / "model" / "fold-0.safetensors")[1] | {
        "temperature": temperature,
        "threshold": model.threshold,
        "history": [],
    }
    if looks is not None:  # the networks together were trained on all of them
        domain = fit_domain(looks, mass_set.patients, [mass.source for mass in mass_set.masses])
        facts["domain"] = domain and domain.model_dump(mode="json")
    _halve(halved)
    write_weights(out / "model" / "fold-0.safetensors", halved, facts)
    known = read_embeddings(run)
    rounded = embedded[known.index].astype(np.float16).astype(np.float32)
    write_embeddings(out, Embeddings(rounded, known.index, known.part, known.labels))
    for name in ("config.toml", METRICS, PREDICTIONS):
        shutil.copyfile(run / name, out / name)
    agreement: dict[str, Any] = {
        "merged_networks": len(model.networks),
        "largest_difference_of_halving": moved,
        "mean_difference_from_the_networks": float(np.abs(chances - of_networks).mean()),
        "largest_difference_from_the_networks": float(np.abs(chances - of_networks).max()),
    }
    agreement["operating_points"] = _operating_points(read_predictions(run))
    write_text(out / "packed.json", json.dumps(agreement, indent=1) + "\n")
    record = {**record, "command": "", "data": _without_folders(record["data"]), "packed": agreement}
    write_model_card(out, config, record, read_metrics(run))
    seal(out, seal_key())
    write_record(out, record | {"sealed": True})  # last: it says that the run is finished
    progress("pack", 1, 1)
    return agreement


def mean_network(networks: Sequence[Network]) -> Network:
    """One network of the mean of the weights."""
    states = [network.state_dict() for network in networks]
    mean: Mapping[str, Tensor] = {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(value.dtype)
        for name, value in states[0].items()
    }
    network = create_network(networks[0].settings, pretrained=False)
    network.load_state_dict(mean)
    return network.eval()


def _halve(network: Network) -> None:
    """Halve the precision of what is large; norms, and filters of one channel, are small, and scores hang on them."""
    for value in (*network.parameters(), *network.buffers()):
        if value.numel() > _SMALL:
            value.data = value.data.half()


def _operating_points(masses: Sequence[ScoredMass]) -> list[dict[str, float]]:
    """The highest thresholds that call so many of the held-out malignant masses malignant, and what that costs."""
    scores = np.array([mass.malignancy for mass in masses])
    is_malignant = np.array([mass.label == MALIGNANT for mass in masses])
    found = []
    for wanted in _SENSITIVITIES:
        threshold = choose_threshold(is_malignant.astype(np.int64), scores, wanted)
        called = scores >= threshold
        found.append(
            {
                "threshold": threshold,
                "sensitivity": float(called[is_malignant].mean()),
                "specificity": float((~called[~is_malignant]).mean()),
            }
        )
    return found


def _without_folders(data: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says of the data, with names of files instead of where they lay."""
    sources = {name: {**each, "source": Path(each["source"]).name} for name, each in data.get("sources", {}).items()}
    return {**data, "source": Path(data["source"]).name, **({"sources": sources} if sources else {})}


def _chance(logits: np.ndarray, temperature: float, column: int) -> np.ndarray:
    return probabilities(logits.astype(np.float64), temperature)[:, column]
