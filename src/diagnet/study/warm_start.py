"""A warm start without labels: the network's blocks learn that two views of a patch are the same patch (SimCLR)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from diagnet.arrays import Images
from diagnet.config import Config
from diagnet.data.box import Box
from diagnet.data.grey_range import scaled_over_region
from diagnet.data.image import read_image
from diagnet.data.manifest import ALIASES
from diagnet.data.mass import Mass
from diagnet.data.roi import RoiSettings, cut_roi
from diagnet.data.table import read_table
from diagnet.errors import DataError
from diagnet.network import Network, create_network
from diagnet.training.optimization import make_optimizer, rate_factor
from diagnet.training.state import random_state
from diagnet.training.transforms import DrawSettings, draw_transforms

_DRAWN = 10  # patches of an image; those of tissue are kept
_SIDES = (0.06, 0.25)  # of a patch, as a fraction of the image's shorter side: what masses have
_TISSUE = 0.1  # least mean grey value of a patch
_EPOCHS, _BATCH, _TEMPERATURE = 8, 64, 0.1
_VIEW = DrawSettings(flips="random", rotation=30.0, zoom=0.3, noise=0.05)


def read_patches(
    manifest: Path, unseen: Sequence[str], known: Sequence[str], config: Config, *, rng: np.random.Generator
) -> Images:
    """Cut patches of tissue at random places out of mammograms.

    Args:
        manifest: of whole mammograms; a table with the columns `image` and `patient_id`; no others are looked at.
        unseen: patients whose images must not be seen: those tested and held out.
        known: all patients of the study.
        config: of the arm; the patches have its regions' size.
        rng: of the places.

    Raises:
        DataError: the manifest cannot be read, or names its patients otherwise than the study.
    """
    rows = list(read_table(manifest, ("image", "patient_id"), (), ALIASES))
    if set(known).isdisjoint(row.cells["patient_id"] for row in rows):
        raise DataError(f"`{manifest}` must name its patients as the study's data does, got no patient of the study")
    patients: dict[str, set[str]] = {}
    for row in rows:
        patients.setdefault(row.cells["image"], set()).add(row.cells["patient_id"])
    names = [name for name, own in patients.items() if own.isdisjoint(unseen)]
    # A patch is its box; what is tissue is told by the image's grey values.
    whole = RoiSettings(padding_factor=1.0, size=config.roi.size, grey_range="image")
    patches = []
    for name in names:
        pixels = read_image(manifest.parent / name)
        height, width = pixels.shape
        for side in rng.uniform(*_SIDES, _DRAWN) * min(width, height):
            left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
            patch = cut_roi(pixels, Mass(pixels, Box(left, top, left + side, top + side), None, ""), whole)
            if patch.mean() >= _TISSUE:
                patches.append(patch if config.roi.grey_range == "image" else scaled_over_region(patch))
    if not patches:
        raise DataError(f"`{manifest}` must hold at least one image with tissue of other patients, got none")
    return np.stack(patches)


def warm_weights(patches: Images, config: Config, *, seed: int) -> dict[str, Tensor]:
    """Weights of stem and blocks after training on unlabelled patches.

    Each step sees two views of each of its patches: flips, rotation, zoom, noise, brightness and contrast drawn anew.
    A view is to be nearer, by cosine, to the other one of its patch than to those of all other patches.

    Args:
        patches: regions in [0, 1].
        config: shape of the network, and where to compute.
        seed: of every draw.
    """
    compute = config.training.compute(config.network)
    with random_state(seed, 0):
        network = create_network(config.network.model_copy(update={"embedding": "projected"}))
    network.intensity = torch.tensor([float(patches.mean()), max(float(patches.std()), 1e-6)])
    network.to(compute.device)
    network.to(memory_format=compute.layout)  # type: ignore[call-overload]  # missing from torch's stubs
    optimizer = make_optimizer(network, config.training.learning_rate, config.training.weight_decay)
    n_batches = max(1, len(patches) // _BATCH)
    network.train()
    for epoch in range(_EPOCHS):
        order = np.random.default_rng([seed, epoch]).permutation(len(patches))
        for number, batch in enumerate(np.array_split(order, n_batches)):
            rng = np.random.default_rng([seed, epoch, number])
            views = torch.cat([_view(patches[batch], rng) for _ in range(2)]).to(compute.device)
            with random_state(seed, epoch + 1, number), compute.autocast():
                embeddings = network.embed(views.contiguous(memory_format=compute.layout))
            factor = rate_factor("cosine", 0.1, epoch * n_batches + number, _EPOCHS * n_batches)
            for group in optimizer.param_groups:
                group["lr"] = config.training.learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
            _contrast(embeddings.float()).backward()
            optimizer.step()
    return {
        name: value.detach().cpu()
        for name, value in network.state_dict().items()
        if name.startswith(("stem.", "blocks."))
    }


def warm_network(network: Network, weights: dict[str, Tensor]) -> Network:
    """The network with these weights in stem and blocks."""
    network.load_state_dict(weights, strict=False)
    return network


def _view(patches: Images, rng: np.random.Generator) -> Float32[Tensor, "patch 1 h w"]:
    """Patches as they might look another time."""
    shape = patches.shape[0], patches.shape[1], patches.shape[2]
    transforms = draw_transforms(_VIEW, shape, rng=rng)
    gain, shift = rng.uniform(0.7, 1.3, len(patches)), rng.uniform(-0.1, 0.1, len(patches))
    gains, shifts = (torch.from_numpy(part.astype(np.float32))[:, None, None, None] for part in (gain, shift))
    return (transforms(torch.from_numpy(np.ascontiguousarray(patches))[:, None]) * gains + shifts).clamp(0, 1)


def _contrast(embeddings: Float32[Tensor, "view feature"]) -> Float32[Tensor, ""]:
    """Cross-entropy of finding each view's other one among all others, by cosine over a temperature."""
    units = functional.normalize(embeddings)
    likeness = units @ units.T / _TEMPERATURE
    n = len(units)
    likeness = likeness.masked_fill(torch.eye(n, dtype=torch.bool, device=units.device), float("-inf"))
    others = torch.arange(n, device=units.device).roll(n // 2)
    return functional.cross_entropy(likeness, others)
