"""The model that comes with diagnet: whole, small, and with the scores that it was shipped with."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diagnet
from diagnet.cli import main
from diagnet.inference.predictor import shipped_run
from diagnet.inference.similar_cases import read_case_base
from diagnet.run.folder import read_metrics, read_record

# Two genuine mammograms of CBIS-DDSM, a benign and a malignant mass, of patients that the model was not trained on.
REAL = {
    "mammogram_P_00173_L_CC.dcm": ((928.0, 2304.0, 1239.0, 2575.0), 0.40138),
    "mammogram_P_00820_L_MLO.dcm": ((80.0, 3176.0, 327.0, 3415.0), 0.59614),
}


@pytest.mark.parametrize(("name", "box", "expected"), [(name, *facts) for name, facts in REAL.items()])
def test_it_keeps_its_scores_on_real_mammograms(
    shared_masses: Path, name: str, box: tuple[float, ...], expected: float
):
    (found,) = diagnet.load_model(engine="torch").predict(shared_masses / "dicom" / name, [box])
    assert found.malignancy == pytest.approx(expected, abs=1e-4)
    assert (found.is_unlike, found.training_source) == (False, "mammograms")


def test_it_is_whole_and_small():
    files = [path for path in shipped_run().parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    model = diagnet.load_model(engine="torch")
    assert (len(model.networks), model.classes) == (1, ("benign", "malignant"))
    assert not model.is_synthetic
    assert model.domains
    assert read_record(shipped_run())["status"] == "finished"
    assert read_metrics(shipped_run())["test"]["by_source"].keys() == {"rois", "mammograms"}
    assert len(read_case_base(shipped_run(), model).cases) > 1000


def test_it_scores_where_no_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 260), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    arguments = ["diagnet", "predict", str(tmp_path / "noise.png"), "--box", "60,70,160,170", "--json"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--allow-unlike"])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr()
    (found,) = json.loads(printed.out)["assessments"]
    assert 0 <= found["malignancy"] <= 1
    assert "the shipped model scores" in printed.err
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="3"):
        main()
    assert "far from the training masses" in capsys.readouterr().out
