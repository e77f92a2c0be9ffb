import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from diagnet.cli import main
from diagnet.errors import ExportError, MissingExtraError, RunFolderError
from diagnet.inference import export
from diagnet.inference.model import load_model
from diagnet.network import NetworkSettings, create_network
from diagnet.notice import NOTICE
from diagnet.run.checkpoint import write_weights
from diagnet.run.seal import seal

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=1, n_hidden=8)
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra is missing: the ONNX tests were not run. Fix: pip install 'diagnet-mammography[onnx]'",
)


def make_run(folder, n_networks=1):
    """A finished run of untrained networks, as far as `load_model` reads it."""
    for k in range(n_networks):
        torch.manual_seed(k)
        facts = {"classes": ["benign", "malignant"], "roi": {"size": 16}, "temperature": 0.5 + k, "threshold": 0.4}
        network = create_network(TINY.model_copy(update={"average_flips": k > 0}))
        write_weights(folder / "model" / f"fold-{k}.safetensors", network, facts)
    (folder / "run.json").write_text('{"status": "finished"}')
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"), n_networks=2)
    out = run / "model.onnx"
    return run, out, export.export_onnx(run, out)


@needs_onnx
def test_the_file_scores_as_the_run_does_at_any_batch_size(exported):
    import onnxruntime

    run, out, report = exported
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).random((7, 16, 16), dtype=np.float32)
    for batch in (1, 2, 7):
        (found,) = session.run(["probabilities"], {"images": images[:batch, None]})
        expected = load_model(run, engine="torch").probabilities(images[:batch])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert report["passed"]
    assert report["largest_difference"] <= report["tolerance"] == 1e-4
    assert {(row["images"], row["batch"]) for row in report["compared"]} == {
        (kind, batch) for kind in ("random", "phantom") for batch in (1, 3, 32)
    }
    assert json.loads(out.with_name("model.onnx.parity.json").read_text()) == report


@needs_onnx
def test_the_file_says_what_it_is_and_nothing_of_the_machine_it_was_made_on(exported):
    import onnx

    _, out, _ = exported
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["notice"] == NOTICE
    assert json.loads(facts["classes"]) == ["benign", "malignant"]
    assert float(facts["threshold"]) == 0.4
    assert json.loads(facts["roi"])["size"] == 16
    assert facts["diagnet_version"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"diagnet/network.py" not in out.read_bytes()


@needs_onnx
def test_failed_parity_leaves_nothing(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(export, "onnxruntime_engine", lambda _: lambda images: np.full((len(images), 2), 0.9))
    with pytest.raises(ExportError, match=r"^`model.onnx` must score as the run does, to 0.0001, got .* apart. Fix: "):
        export.export_onnx(run, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


@needs_onnx
def test_nothing_is_overwritten(exported, tmp_path):
    run, out, _ = exported
    before = out.read_bytes()
    with pytest.raises(ExportError, match=r"`--out` must be a new \.onnx file"):
        export.export_onnx(run, out)
    assert out.read_bytes() == before
    with pytest.raises(ExportError, match=r"must be a new \.onnx file, got .*model\.pt"):
        export.export_onnx(run, tmp_path / "model.pt")
    with pytest.raises(RunFolderError, match="must be a readable file of a run"):
        export.export_onnx(tmp_path, tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package):
    monkeypatch.setattr("diagnet.inference.engines.find_spec", lambda name: None if name == package else name)
    with pytest.raises(
        MissingExtraError, match=rf"`{package}` must be installed .* pip install 'diagnet-mammography\[onnx\]'"
    ):
        export.export_onnx(tmp_path, tmp_path / "model.onnx")


@needs_onnx
def test_the_verb(tmp_path, monkeypatch, capfd):
    def diagnet(*arguments):
        monkeypatch.setattr(sys, "argv", ["diagnet", "export", str(tmp_path / "run"), *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return stop.code, *capfd.readouterr()
        return 0, *capfd.readouterr()

    make_run(tmp_path / "run")
    out = tmp_path / "model.onnx"
    code, printed, errors = diagnet("--out", out, "--json")
    assert (code, errors) == (0, "")
    assert json.loads(printed)["passed"]
    code, _, errors = diagnet("--out", out)
    assert code == 1
    assert errors == f"diagnet: `--out` must be a new .onnx file, got {out}. Fix: choose another name.\n"
    code, _, errors = diagnet("--out", tmp_path / "other.onnx", "--onnx", "--monai-bundle")
    assert code == 2
    assert "must be one format, got both" in " ".join(errors.split())
