"""Finished runs of untrained networks, for the tests."""

from pathlib import Path
from typing import Any

import torch

from diagnet.data.preprocessing import Preprocessing
from diagnet.data.roi import RoiSettings
from diagnet.network import NetworkSettings, create_network
from diagnet.run.checkpoint import write_weights
from diagnet.run.seal import seal

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=1, n_hidden=8)


def write_run(folder: Path, n_networks: int = 1, **changes: Any) -> Path:
    """Write a run as far as `load_model` reads it; a fact that is None is left out."""
    preprocessing = Preprocessing(roi=RoiSettings(size=16))
    facts = {
        "classes": ["benign", "malignant"],
        "roi": preprocessing.roi.model_dump(mode="json"),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "preprocessing_sha256": preprocessing.sha256,
        "temperature": 0.5,
        "threshold": 0.4,
        "abstention": {"half_width": 0.0},
    } | changes
    for k in range(n_networks):
        torch.manual_seed(k)
        kept = {name: value for name, value in facts.items() if value is not None}
        write_weights(folder / "model" / f"fold-{k}.safetensors", create_network(TINY), kept)
    (folder / "run.json").write_text('{"status": "finished"}')
    (folder / "model" / "manifest.json").unlink(missing_ok=True)
    seal(folder)
    return folder
