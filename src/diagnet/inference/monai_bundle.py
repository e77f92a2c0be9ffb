"""A finished run as a MONAI bundle, and what the bundle's configuration calls to read masses and to write scores.

Source: MONAI Bundle Specification; JSON schema of its metadata of 2024-07-25.
"""

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diagnet.atomic import atomic_folder, legible, write_text
from diagnet.data.box import Box
from diagnet.data.domain import Domain
from diagnet.data.image import read_picture
from diagnet.data.marked import read_marked
from diagnet.data.mass import malignant_class
from diagnet.data.preprocessing import stored_preprocessing
from diagnet.data.region_facts import picture_facts
from diagnet.data.suitability import BoxLimits, clipped_box
from diagnet.data.table import table_text
from diagnet.errors import DiagNetError, RefusedInputError, printable
from diagnet.extras import DISTRIBUTION
from diagnet.inference.assessment import marked_region
from diagnet.inference.engines import Engine
from diagnet.inference.export import CalibratedScores, parity
from diagnet.inference.model import Model, load_model
from diagnet.run.folder import METRICS, read_json, read_metrics, write_json
from diagnet.version import __version__

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
COLUMNS = ("image", "x0", "y0", "x1", "y1", "malignancy", "reason", "flags", "notice")
_MONAI = "1.6.1"  # the version it was tried with
_FACTS = "models/regions.json"


def export_monai_bundle(run: Path, out: Path) -> dict[str, Any]:
    """Write the model of a finished run as a MONAI bundle, with `docs/parity.json`: how well both agree.

    `models/model.ts` goes from regions, (batch, 1, size, size) float32 in [0, 1], to calibrated class probabilities,
    and needs nothing of diagnet. `configs/inference.json` scores a table of marked masses; files are read and regions
    cut by diagnet, as its own `predict` does. The bundle has no `model.pt`, because such a file is a pickle.

    Args:
        run: the run's folder.
        out: folder to write, new or empty.

    Returns:
        What the parity report holds.

    Raises:
        ExportError: the bundle scores otherwise than the run; nothing is written.
        RunFolderError: `run` is no finished run or knows no class `malignant`, or `out` cannot be written.
    """
    with atomic_folder(out) as folder:
        model = load_model(run, engine="torch")
        _ = model.malignant_class  # refused before anything is written
        script = _script(model)
        report = parity(model, _script_engine(script), out, fix="try another version of torch")
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir()
        (folder / "models" / "model.ts").write_bytes(script)
        write_json(folder / _FACTS, _facts(model))
        write_json(folder / "configs" / "metadata.json", _metadata(model, run))
        write_json(folder / "configs" / "inference.json", _INFERENCE)
        write_json(folder / "docs" / "parity.json", report)
        write_text(folder / "docs" / "README.md", _readme(model, run))
        write_text(folder / "LICENSE", _license())
    return report


class MarkedRegions:
    """Read a file and cut the region of a marked mass, as `diagnet predict` does: a transform for MONAI's `Dataset`.

    From `image`, a file, and `box`, pixels or None for a whole crop, to the same mapping with `image` a tensor
    (1, size, size) and `flags`, what a reader of the score should know. A file or box that must not be scored raises
    RefusedInputError or DataError with the reason.
    """

    def __init__(self, facts: Path | str) -> None:
        path = Path(facts)
        read = read_json(path)
        self.preprocessing = stored_preprocessing(read, path)
        self.domains = [Domain.model_validate(each) for each in read["domains"]]
        self.column = malignant_class(read["classes"])
        self.notice = str(read["notice"])

    def __call__(self, mass: Mapping[str, Any]) -> dict[str, Any]:
        """Return the mapping with the region of its mass."""
        path, marked = Path(mass["image"]), mass.get("box")
        picture = read_picture(path)
        height, width = picture.pixels.shape
        box = Box.whole(width, height) if marked is None else clipped_box(Box(*map(float, marked)), width, height)
        around, roi = picture_facts(picture.pixels), self.preprocessing.roi
        region, doubts, verdict = marked_region(
            picture, around, box, roi, self.domains, BoxLimits(), original_size=mass.get("original_size")
        )
        if verdict.is_far:
            raise RefusedInputError(f"far from the training masses: {verdict.reason}")
        if verdict.is_unlike:
            doubts.append(f"unlike the training masses: {verdict.reason}")
        return {**mass, "image": torch.from_numpy(region[None]), "flags": (*picture.warnings, *doubts)}


def read_masses(table: Path | str) -> list[dict[str, Any]]:
    """Read a table of marked masses (`image`, `x0, y0, x1, y1`) as MONAI's `Dataset` takes it."""
    return [
        {"image": str(each.image), "box": box, "original_size": each.original_size}
        for each in read_marked(Path(table))
        for box in each.boxes
    ]


def score_masses(
    masses: Sequence[Mapping[str, Any]],
    preprocessing: MarkedRegions,
    inferer: Callable[[Tensor, nn.Module], Tensor],
    network: nn.Module,
    out: Path | str,
) -> None:
    """Score masses and write a row for each, refused ones among them.

    Args:
        masses: from `read_masses`.
        preprocessing: cuts their regions.
        inferer: runs the network, as MONAI's inferers do.
        network: from regions to class probabilities.
        out: table to write.
    """
    device = next(iter(network.parameters()), torch.empty(0)).device
    rows = []
    for mass in masses:
        malignancy, reason, flags = "", "", ""
        try:
            read = preprocessing(mass)
        except DiagNetError as error:
            reason = printable(error)
        else:
            with torch.inference_mode():
                found = inferer(read["image"][None].to(device), network)
            malignancy, flags = f"{float(found[0, preprocessing.column]):.6f}", "; ".join(read["flags"])
        box = mass.get("box") or ("",) * 4
        rows.append((mass["image"], *box, malignancy, reason, flags, preprocessing.notice))
    write_text(Path(out), legible(table_text(COLUMNS, rows)))


def _script(model: Model) -> bytes:
    """The model as TorchScript, without the source's paths and lines."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, but what MONAI's tools load; parity is tested
        size = model.roi.size
        traced = torch.jit.trace(CalibratedScores(model).eval(), torch.zeros(2, 1, size, size))
        torch.jit.save(traced, written)
    bare = io.BytesIO()
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(bare, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return bare.getvalue()


def _script_engine(script: bytes) -> Engine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.load(io.BytesIO(script), map_location="cpu")

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(images)).numpy())

    return run


def _facts(model: Model) -> dict[str, Any]:
    """What reading masses for the network needs."""
    return {
        "notice": model.notice,
        "classes": model.classes,
        "roi": model.roi.model_dump(mode="json"),
        "preprocessing": model.preprocessing.model_dump(mode="json"),
        "preprocessing_sha256": model.preprocessing.sha256,
        "domains": [each.model_dump(mode="json") for each in model.domains],
    }


def _metadata(model: Model, run: Path) -> dict[str, Any]:
    size = model.roi.size
    classes = {str(index): name for index, name in enumerate(model.classes)}
    figures = read_metrics(run)["test"]["units"]["mass"] if (run / METRICS).exists() else {}
    tensor = {"dtype": "float32", "value_range": [0, 1], "is_patch_data": False}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"model {model.sha256[:16]}"},
        "monai_version": _MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {DISTRIBUTION: __version__},
        "name": "DiagNet breast mass",
        "task": "Benign or malignant: the score of a breast mass that somebody has marked on a mammogram",
        "description": f"{model.notice}. A network with calibrated probabilities. It finds no mass.",
        "authors": "The diagnet authors",
        "copyright": "Copyright the diagnet authors, Apache-2.0",
        "data_source": "see docs/README.md",
        "data_type": "dicom, png, jpeg, tiff, pgm",
        "image_classes": "grey values in [0, 1] of the region around one marked mass, cut by diagnet",
        "label_classes": ", ".join(model.classes),
        "pred_classes": f"calibrated probabilities of {', '.join(model.classes)}",
        "eval_metrics": {
            name: figures[name]["value"]
            for name in ("auc", "accuracy", "sensitivity", "specificity")
            if name in figures and figures[name]["value"] is not None
        },
        "intended_use": f"{model.notice}. For research by people who know what a score does not mean.",
        "references": [
            "Signed Laplacian Deep Learning with Adversarial Augmentation for Improved Mammography Diagnosis. 2019."
        ],
        "threshold": model.threshold,
        "network_data_format": {
            "inputs": {
                "image": tensor
                | {"type": "image", "format": "magnitude", "modality": "MG", "num_channels": 1}
                | {"spatial_shape": [size, size], "channel_def": {"0": "region of a marked mass"}}
            },
            "outputs": {
                "pred": tensor
                | {"type": "probabilities", "format": "classes", "num_channels": len(classes)}
                | {"spatial_shape": [], "channel_def": classes}
            },
        },
    }


_OURS = "diagnet.inference.monai_bundle"
_INFERENCE = {
    "imports": ["$import torch"],
    "bundle_root": ".",
    "masses": "masses.csv",
    "output": "scores.csv",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device).eval()",
    "preprocessing": {"_target_": f"{_OURS}.MarkedRegions", "facts": f"$@bundle_root + '/{_FACTS}'"},
    "datalist": {"_target_": f"{_OURS}.read_masses", "table": "@masses"},
    "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
    "inferer": {"_target_": "SimpleInferer"},
    "run": [
        {
            "_target_": f"{_OURS}.score_masses",
            "masses": "@datalist",
            "preprocessing": "@preprocessing",
            "inferer": "@inferer",
            "network": "@network_def",
            "out": "@output",
        }
    ],
}


def _readme(model: Model, run: Path) -> str:
    card = run / "model_card.md"
    told = f"\n{card.read_text(encoding='utf-8')}" if card.exists() else ""
    return f"""# DiagNet breast mass, a MONAI bundle

**{model.notice}**

It scores masses that somebody has marked on mammograms; it finds none. `masses.csv` has the columns `image`, a file
beside the table, and `x0, y0, x1, y1`, its box in pixels. `scores.csv` gets the probability that each is malignant.

    pip install monai fire {DISTRIBUTION}=={__version__}
    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
      --bundle_root . --masses masses.csv --output scores.csv

- `models/model.ts` takes regions of {model.roi.size} x {model.roi.size} pixels and needs nothing but PyTorch.
- Files are read and regions cut by diagnet, as `diagnet predict` does; scores are its scores (parity.json).
- A file, a box or a region unlike the training masses is refused, and the column `reason` says why.
- What `predict` has beside the score is not here: the call at the threshold ({model.threshold:.3f}), when no call is
  made, DICOM results.
- There is no `models/model.pt`: it would be a pickle. `model.ts` is TorchScript; load it only from who you trust.
{told}"""


def _license() -> str:
    try:
        text = distribution(DISTRIBUTION).read_text("licenses/LICENSE")
    except PackageNotFoundError:  # a source tree that is not installed
        text = None
    return text or "Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0\n"
