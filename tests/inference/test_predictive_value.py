import numpy as np
import pytest

from diagnet.errors import RunFolderError
from diagnet.evaluation.bootstrap import Interval
from diagnet.inference.predictive_value import HeldOut, Meaning, read_held_out
from diagnet.run.tables import ScoredMass, write_predictions


def held_out(n, patients=None, sources=None):
    scores = np.linspace(0, 1, n)
    patients = np.arange(n) if patients is None else patients
    return HeldOut(scores, scores > 0.5, patients, np.arange(n), sources or ("",) * n)


@pytest.mark.parametrize(("n", "n_like"), [(12, 12), (20, 20), (60, 20), (200, 50), (1000, 100)])
def test_how_many_count_as_alike(n, n_like):
    assert held_out(n).meaning(0.3).n_like == n_like


def test_the_nearest_scores_count():
    found = held_out(400).meaning(0.9)
    assert (found.n_like, found.n_malignant) == (100, 100)
    assert found.low_score <= 0.9 <= found.high_score
    assert found.share["value"] == 1
    assert 0.9 < found.share["low"] < 1  # the exact bound of 100 of 100
    assert found.text.startswith(
        "Of 100 masses with scores like this one (75 to 100 %), 100 were malignant: 100 %, 95 % in"
    )
    interval = Interval(value=11 / 39, low=0.15, high=0.43)
    assert Meaning(39, 11, interval, 0.02, 0.38).text == (
        "Of 39 masses with scores like this one (2 to 38 %), 11 were malignant: 28 %, 95 % interval 15 to 43 %."
    )
    middle = held_out(400).meaning(0.5)
    assert middle.n_malignant == pytest.approx(50, abs=1)
    assert middle.share["low"] == pytest.approx(0.4, abs=0.05)
    assert middle.share["high"] == pytest.approx(0.6, abs=0.05)


def test_masses_of_one_patient_are_one_evidence():
    alone, together = held_out(400).meaning(0.5), held_out(400, np.arange(400) // 10).meaning(0.5)
    assert together.share["high"] - together.share["low"] > 1.5 * (alone.share["high"] - alone.share["low"])


def test_one_patient_gives_no_interval():
    found = held_out(20, np.zeros(20, dtype=np.int64)).meaning(0.5)
    assert found.share["low"] is None
    assert "interval" not in found.text


def test_masses_of_another_source_say_nothing():
    found = held_out(400, sources=("crops", "mammograms") * 200)
    of_crops = found.meaning(0.5, "crops")
    assert of_crops.n_like == 50  # a quarter of the 200
    assert of_crops.text.startswith("Of 50 masses of the source crops with scores like this one (")
    assert of_crops.share != found.meaning(0.5).share
    assert found.meaning(0.5, "digital") is None


def test_reading(tmp_path):
    path = tmp_path / "predictions.csv"
    rest = {"fold": 0, "part": "test", "raw_score": 0.5, "decision": "benign", "laterality": "", "view": ""}
    rows = ScoredMass("a", "P", "malignant", 0.5, 3, **rest), ScoredMass("b", "Q", "benign", 0.25, 7, **rest)
    write_predictions(tmp_path, rows)
    written = path.read_text()
    found = read_held_out(tmp_path)
    assert found.malignancy.tolist() == [0.5, 0.25]
    assert found.is_malignant.tolist() == [True, False]
    assert found.index.tolist() == [3, 7]
    assert found.sources == ("", "")
    for content in ("", "image\n", written.replace("0.25", "high")):
        path.write_text(content)
        with pytest.raises(RunFolderError, match=r"predictions\.csv"):
            read_held_out(tmp_path)
