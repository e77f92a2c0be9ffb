"""A finished run as one ONNX file, with a report that it scores as the run does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnet.arrays import Images
from diagnet.atomic import atomic_path
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.errors import ExportError
from diagnet.evaluation.calibration import probabilities
from diagnet.inference.engines import Engine, Ensemble, onnx_model, onnxruntime_engine, require_onnx
from diagnet.inference.model import Model, load_model
from diagnet.run.folder import write_json
from diagnet.training.scoring import embeddings_and_logits
from diagnet.version import __version__

TOLERANCE = 1e-4  # of a probability
_BATCHES = (1, 3, 32)


class CalibratedScores(nn.Module):
    """From images to class probabilities: softmax(logits / T) of each network, then their mean."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.ensemble = Ensemble(model.networks)
        self.register_buffer("temperatures", torch.tensor(model.temperatures, dtype=torch.float32)[:, None])
        self.temperatures: Tensor

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b class"]:
        """Return calibrated class probabilities in [0, 1]; each image's add up to 1."""
        return torch.softmax(self.ensemble(images) / self.temperatures, dim=2).mean(dim=1)


def export_onnx(run: Path, out: Path) -> dict[str, Any]:
    """Write the model of a finished run as `out` (.onnx) and how well both agree as `out` with .parity.json.

    Input `images`: (batch, 1, size, size) float32 in [0, 1], regions cut with the run's `roi`; any batch size. Output
    `probabilities`: (batch, classes). The file's properties hold the notice, classes, threshold and
    preprocessing.

    Args:
        run: the run's folder.
        out: file to write.

    Returns:
        What the parity report holds.

    Raises:
        ExportError: `out` exists or is no .onnx file, or the graph scores otherwise than the run; nothing is written.
        MissingExtraError: a package of the extra `onnx` is not installed.
        RunFolderError: `run` is no finished run, or `out` cannot be written.
    """
    beside = out.with_name(f"{out.name}.parity.json")
    if out.suffix != ".onnx" or out.exists() or beside.exists():
        raise ExportError(f"`--out` must be a new .onnx file, got {out}. Fix: choose another name.")
    require_onnx()
    model = load_model(run, engine="torch")
    graph = _graph(model)
    report = parity(model, onnxruntime_engine(graph), out, fix="try other versions of torch and onnx")
    with atomic_path(out) as temporary:
        temporary.write_bytes(graph)
        write_json(beside, report)
    return report


def _graph(model: Model) -> bytes:
    """The ONNX file's content."""
    graph = onnx_model(CalibratedScores(model), model.roi.size, "probabilities")
    facts = {
        "notice": model.notice,
        "diagnet_version": __version__,
        "classes": json.dumps(model.classes),
        "threshold": repr(model.threshold),
        "roi": model.roi.model_dump_json(),
        "preprocessing": model.preprocessing.model_dump_json(),
        "model_sha256": model.sha256,
    }
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)
    return bytes(graph.SerializeToString())


def parity(model: Model, engine: Engine, out: Path, *, fix: str) -> dict[str, Any]:
    """Return the largest difference of a probability, the engine's to the run's own networks in PyTorch, float32.

    Args:
        model: of the run.
        engine: scores what is exported.
        out: where that is to be written.
        fix: what helps where they differ.

    Raises:
        ExportError: they differ by more than the tolerance.
    """
    rows: list[dict[str, Any]] = []
    for kind, images in _pictures(model.roi.size):
        expected = np.mean(
            [
                probabilities(embeddings_and_logits(network, images)[1].astype(np.float64), temperature)
                for network, temperature in zip(model.networks, model.temperatures, strict=True)
            ],
            axis=0,
        )
        found = engine(images[:, None])
        rows.append({"images": kind, "batch": len(images), "difference": float(np.abs(found - expected).max())})
    largest = max(row["difference"] for row in rows)
    if largest > TOLERANCE:
        raise ExportError(
            f"`{out.name}` must score as the run does, to {TOLERANCE:g}, got a probability"
            f" {largest:.2g} apart. Fix: {fix}."
        )
    return {
        "notice": model.notice,
        "diagnet_version": __version__,
        "networks": len(model.networks),
        "compared": rows,
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "passed": True,
    }


def _pictures(size: int) -> Iterator[tuple[str, Images]]:
    """Noise and synthetic masses, of each batch size, always the same."""
    rng = np.random.default_rng(0)
    for batch in _BATCHES:
        yield "random", rng.random((batch, size, size), dtype=np.float32)
        yield "phantom", make_masses(batch, rng=rng, settings=PhantomSettings(size=size))[0]
