"""Lesions: which masses are one, and what their common score is worth."""

import numpy as np
import pytest

from diagnet.data.mass import Mass
from diagnet.evaluation.figures import EvaluationSettings, auc_of
from diagnet.evaluation.lesions import (
    Sighting,
    figures_by_lesion,
    known_lesions,
    lesion_groups,
    lesion_scores,
    sightings_of,
)
from diagnet.evaluation.predictions import Predictions

QUICK = EvaluationSettings(n_resamples=100)


def groups(*sightings):
    return lesion_groups([Sighting(*each) for each in sightings]).tolist()


def test_a_lesion_id_makes_masses_of_one_breast_one_lesion():
    assert groups(("p", "L", "CC", "1"), ("p", "L", "MLO", "1"), ("p", "L", "MLO", "2")) == [0, 0, 1]
    assert groups(("p", "L", "CC", "1"), ("p", "R", "MLO", "1"), ("q", "L", "CC", "1")) == [0, 1, 2]
    assert groups(("p", "L", "CC", "1"), ("p", "L", "CC", "1")) == [0, 0]  # a magnified view, say


def test_without_one_the_only_mass_of_each_view_of_a_side_is_the_same():
    assert groups(("p", "L", "CC"), ("q", "L", "CC"), ("p", "L", "MLO"), ("p", "R", "MLO")) == [0, 1, 0, 2]
    assert groups(("p", "L", "CC"), ("p", "L", "MLO"), ("p", "L", "MLO")) == [0, 1, 2]  # which of the two?
    assert groups(("p", "", "CC"), ("p", "", "MLO")) == [0, 1]
    assert groups((None, "L", "CC"), (None, "L", "MLO")) == [0, 1]
    assert groups(("p", "L", "CC", "1"), ("p", "L", "CC"), ("p", "L", "MLO")) == [0, 1, 2]


def test_a_lesion_of_two_sources_is_two():
    masses = [
        Mass(np.zeros((4, 4), np.float32), None, "benign", "p", "L", view, source=source)
        for source in ("crops", "mammograms")
        for view in ("CC", "MLO")
    ]
    assert lesion_groups(sightings_of(masses, ["p"] * 4)).tolist() == [0, 0, 1, 1]


def test_the_score_of_a_lesion_is_the_mean_of_its_log_odds():
    scores = lesion_scores(np.array([0.9, 0.5, 0.2, np.nan, np.nan, 1.0, 0.0]), np.array([0, 0, 1, 1, 2, 3, 3]))
    assert scores[0] == pytest.approx(0.75)  # log-odds log 9 and 0: log 3
    assert scores[1] == pytest.approx(0.2)
    assert np.isnan(scores[2])
    assert scores[3] == pytest.approx(0.5)


def test_figures_are_of_lesions_seen_more_than_once():
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.integers(0, 2, 60), 2)
    malignancy = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(0, 2, 120))))
    patients = tuple(f"p{k // 2}" for k in range(120))
    predictions = Predictions(
        patients, patients, labels, np.stack([1 - malignancy, malignancy], axis=1), ("benign", "malignant")
    )
    pairs = np.repeat(np.arange(60), 2)
    pairs[-2:] = 60, 61  # the last patient's are two lesions
    found = figures_by_lesion(predictions, pairs, QUICK, seed=[1])
    assert (found["n"], found["n_masses"], found["n_patients"]) == (59, 118, 59)
    assert found["auc"]["value"] > found["auc_of_masses"]["value"]
    assert found["auc_of_masses"] == auc_of(predictions.part(np.arange(118)), QUICK, seed=[1])
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]
    assert figures_by_lesion(predictions, np.arange(120), QUICK, seed=[1]) is None


def test_known_lesions_are_one_over_views_and_sources():
    def mass(patient, view, source, side="L"):
        return Mass(np.zeros((4, 4), np.float32), None, None, patient, side, view, source=source)

    masses = [
        *(mass("p", view, source) for source in ("crops", "mammograms") for view in ("CC", "MLO")),
        mass("p", "CC", "crops", "R"),  # another side
        *(mass("q", "CC", "crops") for _ in range(2)),  # which of the two is the mammogram's?
        mass("q", "CC", "mammograms"),
        mass("r", "", "crops"),
        mass("r", "", "mammograms"),  # no view: not known to be one
        mass("s", "ML", "crops"),
        mass("s", "ML", "mammograms"),
    ]
    found = known_lesions(masses, [each.patient_id for each in masses]).tolist()
    assert found == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7]
    assert known_lesions([], []).tolist() == []
