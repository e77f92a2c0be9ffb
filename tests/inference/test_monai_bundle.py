import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diagnet.cli import main
from diagnet.errors import ExportError, RefusedInputError, RunFolderError
from diagnet.inference import monai_bundle
from diagnet.inference.model import load_model as read_model
from diagnet.inference.monai_bundle import MarkedRegions, export_monai_bundle, read_masses, score_masses
from diagnet.inference.predictor import load_model, shipped_run
from diagnet.notice import NOTICE
from dicom_files import drawn_breast, write_dicom
from runs import write_run

BOX = (20.0, 60.0, 60.0, 100.0)  # the mass of `drawn_breast`
OUTSIDE = (400.0, 70.0, 440.0, 110.0)
# What MONAI's published schema of 2024-07-25 asks for, in our words: it cannot be fetched in a test.
TENSOR = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "type": {"type": "string"}, "format": {"type": "string"}, "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}}, "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}}, "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
}  # fmt: skip
TEXTS = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
    "copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use",
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "required": [*TEXTS[:9], "required_packages_version", "network_data_format"],
    "properties": {
        **{name: {"type": "string"} for name in TEXTS},
        **{name: {"type": "object"} for name in ("changelog", "required_packages_version", "eval_metrics")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "additionalProperties": {"type": "object", "additionalProperties": TENSOR},
        },
    },
}
# One process for all that MONAI is asked: it takes long to import.
SCRIPT = """
import sys
from monai.bundle import run, verify_metadata, verify_net_in_out
config, meta = "configs/inference.json", "configs/metadata.json"
verify_metadata(meta_file=meta, filepath=sys.argv[1])
verify_net_in_out(net_id="network_def", meta_file=meta, config_file=config, device="cpu")
run(config_file=config, meta_file=meta, masses=sys.argv[2], output=sys.argv[3])
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A run of two networks, its bundle, and a table of a picture with two boxes, one of them outside."""
    folder = tmp_path_factory.mktemp("bundle")
    run = write_run(folder / "run", n_networks=2)
    report = export_monai_bundle(run, folder / "bundle")
    write_dicom(folder / "picture.dcm", drawn_breast())
    rows = [",".join(map(str, ("picture.dcm", *box))) for box in (BOX, OUTSIDE)]
    (folder / "masses.csv").write_text("\n".join(["image,x0,y0,x1,y1", *rows]) + "\n")
    return folder, report


def same_as_predict(folder, scores):
    """Whether the bundle's table says what `predict` says."""
    with scores.open(newline="") as file:
        scored, outside = csv.DictReader(file)
    model = load_model(folder / "run", engine="torch")
    expected, refused = model.predict(folder / "picture.dcm", [BOX, OUTSIDE])
    assert float(scored["malignancy"]) == pytest.approx(expected.malignancy, abs=1e-4)
    assert scored["flags"] == "; ".join(expected.flags)
    assert (outside["malignancy"], outside["reason"]) == ("", refused.reason)
    assert refused.reason.startswith("`box` must lie inside its image")
    assert scored["notice"] == NOTICE


def test_the_bundle_scores_as_predict_does(bundle, tmp_path):
    folder, report = bundle
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        network = torch.jit.load(folder / "bundle" / "models" / "model.ts")
    masses = read_masses(folder / "masses.csv")
    regions = MarkedRegions(folder / "bundle" / "models" / "regions.json")
    score_masses(masses, regions, lambda images, run: run(images), network, tmp_path / "scores.csv")
    same_as_predict(folder, tmp_path / "scores.csv")
    assert report["passed"]
    assert {row["batch"] for row in report["compared"]} == {1, 3, 32}
    assert json.loads((folder / "bundle" / "docs" / "parity.json").read_text()) == report


def test_monai_accepts_and_runs_it(bundle, tmp_path):
    for name in ("monai", "jsonschema"):
        pytest.importorskip(name, reason="not installed: the bundle was not run by MONAI")
    folder, _ = bundle
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    words = [str(tmp_path / "schema.json"), str(folder / "masses.csv"), str(tmp_path / "scores.csv")]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=folder / "bundle", capture_output=True, text=True, check=False,
        timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "metadata is verified with no error" in done.stdout + done.stderr
    same_as_predict(folder, tmp_path / "scores.csv")


def test_the_bundle_holds_what_the_specification_names_and_no_path_of_this_machine(bundle):
    folder, _ = bundle
    found = {path.relative_to(folder / "bundle").as_posix() for path in (folder / "bundle").rglob("*.*")}
    names = ("configs/metadata.json", "configs/inference.json", "docs/README.md", "docs/parity.json")
    assert found == {*names, "models/model.ts", "models/regions.json"}
    assert (folder / "bundle" / "LICENSE").read_text()
    with zipfile.ZipFile(folder / "bundle" / "models" / "model.ts") as files:
        assert not any(Path(__file__).parents[2].as_posix().encode() in files.read(name) for name in files.namelist())
    meta = json.loads((folder / "bundle" / "configs" / "metadata.json").read_text())
    assert {*SCHEMA["required"]} <= {*meta}
    assert meta["network_data_format"]["inputs"]["image"]["spatial_shape"] == [16, 16]
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "benign", "1": "malignant"}
    for text in (meta["intended_use"], (folder / "bundle" / "docs" / "README.md").read_text()):
        assert NOTICE in text


def test_a_region_unlike_the_training_masses_is_refused_as_predict_does(bundle, tmp_path):
    folder, _ = bundle
    model = read_model(shipped_run(), engine="torch")
    (tmp_path / "regions.json").write_text(json.dumps(monai_bundle._facts(model)))
    (expected,) = load_model(engine="torch").predict(folder / "picture.dcm", [BOX])
    assert expected.reason.startswith("far from the training masses: ")
    with pytest.raises(RefusedInputError, match=r"^far from the training masses: ") as refused:
        MarkedRegions(tmp_path / "regions.json")({"image": str(folder / "picture.dcm"), "box": BOX})
    assert str(refused.value) == expected.reason


def test_nothing_is_overwritten_and_failed_parity_leaves_nothing(bundle, tmp_path, monkeypatch):
    folder, _ = bundle
    with pytest.raises(RunFolderError, match="`--out` must be a new or an empty folder"):
        export_monai_bundle(folder / "run", folder / "bundle")
    other = write_run(tmp_path / "run", classes=["cat", "dog"])
    with pytest.raises(RunFolderError, match="must know the class malignant, got the classes cat, dog"):
        export_monai_bundle(other, tmp_path / "out")
    monkeypatch.setattr(monai_bundle, "_script_engine", lambda _: lambda images: np.full((len(images), 2), 0.9))
    with pytest.raises(ExportError, match=r"^`out` must score as the run does, to 0.0001, got .* apart\. Fix: "):
        export_monai_bundle(folder / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_writes_it(tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run")
    out = tmp_path / "bundle"
    monkeypatch.setattr(sys, "argv", ["diagnet", "export", str(run), "--monai-bundle", "--out", str(out), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)["passed"]
    both = ["diagnet", "export", str(run), "--onnx", "--monai-bundle", "--out", str(tmp_path / "no")]
    monkeypatch.setattr(sys, "argv", both)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "must be one format, got both" in " ".join(capsys.readouterr().err.split())
