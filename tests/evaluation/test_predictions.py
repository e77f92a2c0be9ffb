import csv
from pathlib import Path

import numpy as np
import pytest

from diagnet.data.mass import Mass
from diagnet.evaluation.predictions import Predictions
from diagnet.run.tables import scored_masses, write_predictions

TWO = ("benign", "malignant")


def predictions(malignancy, labels, images=None, patients=None):
    scores = np.asarray(malignancy, dtype=np.float64)
    n = len(scores)
    return Predictions(
        images=tuple(images or (f"image-{i}" for i in range(n))),
        patients=tuple(patients or (f"patient-{i}" for i in range(n))),
        labels=np.asarray(labels, dtype=np.int64),
        probabilities=np.stack([1 - scores, scores], axis=1),
        classes=TWO,
    )


def test_an_image_scores_as_its_most_suspicious_mass_and_a_patient_as_the_images():
    masses = predictions(
        [0.2, 0.7, 0.4, 0.1, 0.3],
        [0, 0, 1, 0, 0],
        images=["a", "a", "b", "c", "c"],
        patients=["P", "P", "P", "Q", "Q"],
    )
    images, patients = masses.per_image(), masses.per_patient()
    assert images.images == ("a", "b", "c")
    assert images.patients == ("P", "P", "Q")
    assert images.malignancy.tolist() == [0.7, 0.4, 0.3]
    assert images.labels.tolist() == [0, 1, 0]
    assert patients.patients == ("P", "Q")
    assert patients.malignancy.tolist() == [0.7, 0.3]
    assert patients.labels.tolist() == [1, 0]


def test_the_same_file_name_of_two_patients_is_two_images():
    assert len(predictions([0.1, 0.2], [0, 1], images=["a", "a"], patients=["P", "Q"]).per_image().labels) == 2


def test_merging_does_not_depend_on_the_order_of_masses():
    rng = np.random.default_rng(0)
    n = 60
    scores, labels, owners = rng.uniform(size=n), rng.integers(0, 2, n), rng.integers(0, 20, n)
    order = rng.permutation(n)
    one = predictions(scores, labels, patients=[f"P{i}" for i in owners]).per_patient()
    other = predictions(scores[order], labels[order], patients=[f"P{i}" for i in owners[order]]).per_patient()
    summary = [
        dict(zip(each.patients, zip(each.malignancy, each.labels, strict=True), strict=True)) for each in (one, other)
    ]
    assert summary[0] == summary[1]


def test_of_many_classes_the_row_with_the_highest_malignancy_speaks():
    chances = np.array([[0.1, 0.2, 0.7], [0.3, 0.6, 0.1]])
    both = Predictions(("a", "a"), ("P", "P"), np.array([2, 0]), chances, ("normal", "malignant", "benign"))
    assert both.malignancy.tolist() == [0.2, 0.6]
    merged = both.per_patient()
    assert merged.probabilities.tolist() == [[0.3, 0.6, 0.1]]
    assert merged.labels.tolist() == [2]  # the later class, as nothing is malignant


def test_malignant_is_the_most_severe_label_wherever_it_stands_among_the_classes():
    both = Predictions(("a", "a"), ("P", "P"), np.array([1, 0]), np.full((2, 2), 0.5), ("malignant", "benign"))
    assert both.per_patient().labels.tolist() == [0]
    assert both.malignant.tolist() == [0, 1]


def test_without_a_class_of_that_name_malignancy_is_the_last_class():
    other = Predictions(("a",), ("P",), np.array([0]), np.array([[0.2, 0.8]]), ("cat", "dog"))
    assert other.malignancy.tolist() == [0.8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": ("a",)}, "one entry a mass, got 1, 2, 2 and 2"),
        ({"labels": np.array([0, 2])}, "`labels` must be less than 2"),
        ({"probabilities": np.array([[0.5, 0.5], [np.nan, 0.5]])}, "`probabilities` must be in"),
        ({"classes": ("one", "two", "three")}, "a column for each"),
        (
            {"images": (), "patients": (), "labels": np.zeros(0, np.int64), "probabilities": np.zeros((0, 2))},
            "one entry a mass, got 0",
        ),
    ],
)
def test_wrong_predictions_are_named(change, message):
    right = {
        "images": ("a", "b"),
        "patients": ("P", "Q"),
        "labels": np.array([0, 1]),
        "probabilities": np.full((2, 2), 0.5),
        "classes": TWO,
    }
    Predictions(**right)
    with pytest.raises(ValueError, match=message):
        Predictions(**{**right, **change})


def test_the_table_calls_a_mass_from_its_threshold_on_and_keeps_its_raw_score(tmp_path):
    masses = [Mass(Path(f"{k}.png"), None, "benign", "P", side, "CC") for k, side in enumerate("LRL")]
    scored = predictions([0.25, 0.5, 0.75], [0, 1, 0])
    each = {"raw_score": np.array([0.1, 0.2, 0.9]), "threshold": np.array([0.5, 0.5, 0.8]), "fold": np.array([0, 0, 1])}
    write_predictions(tmp_path, scored_masses(scored, masses, np.array([2, 1, 0]), **each))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["decision"] for row in rows] == ["benign", "malignant", "benign"]  # 0.5 is the threshold: called
    assert [row["malignancy"] for row in rows] == ["0.250000", "0.500000", "0.750000"]
    assert [row["raw_score"] for row in rows] == ["0.100000", "0.200000", "0.900000"]
    assert [(row["index"], row["laterality"], row["fold"]) for row in rows] == [
        ("2", "L", "0"),
        ("1", "R", "0"),
        ("0", "L", "1"),
    ]
