import json
import time

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, recall_score, roc_auc_score

from diagnet.evaluation.bootstrap import draw_patients, weighted_sensitivity
from diagnet.evaluation.figures import EvaluationSettings, across_folds, evaluate, figures_by_source, point_auc
from diagnet.evaluation.predictions import Predictions

QUICK = EvaluationSettings(n_resamples=200)


def simulated(n=200, n_patients=80, separation=1.2, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, n_patients, n)
    labels = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + separation * np.eye(n_classes)[labels]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = ("benign", "malignant") if n_classes == 2 else ("normal", "benign", "malignant")
    return Predictions(
        images=tuple(f"P{patient}-{view}" for patient, view in zip(patients, rng.integers(0, 2, n), strict=True)),
        patients=tuple(f"P{patient}" for patient in patients),
        labels=labels,
        probabilities=np.clip(chances, 0, 1),
        classes=names,
    )


def rng():
    return np.random.default_rng(7)


def test_every_figure_is_scikit_learns():
    predictions = simulated()
    threshold = 0.45
    mass = evaluate(predictions, threshold, QUICK, rng=rng())["units"]["mass"]
    labels, scores = predictions.labels, predictions.malignancy
    called = scores >= threshold
    assert mass["auc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert mass["accuracy"]["value"] == pytest.approx(accuracy_score(labels, called))
    assert mass["sensitivity"]["value"] == pytest.approx(recall_score(labels, called))
    assert mass["specificity"]["value"] == pytest.approx(recall_score(labels, called, pos_label=0))
    assert mass["brier"]["value"] == pytest.approx(brier_score_loss(labels, scores))
    assert mass["confusion"] == confusion_matrix(labels, called).tolist()
    assert mass["n"] == 200
    assert mass["n_patients"] == len(set(predictions.patients))
    assert mass["n_per_class"] == {"benign": int((labels == 0).sum()), "malignant": int(labels.sum())}
    roc = mass["roc"]
    assert np.trapezoid(roc["tpr"], roc["fpr"]) == pytest.approx(mass["auc"]["value"], abs=1e-4)
    assert roc["thresholds"][0] is None
    for figure in ("auc", "accuracy", "sensitivity", "specificity", "brier"):
        assert mass[figure]["low"] < mass[figure]["value"] < mass[figure]["high"]


def test_a_source_is_measured_as_if_it_were_alone():
    predictions = simulated()
    benign = int(np.flatnonzero(predictions.labels == 0)[0])
    sources = [("a", "b")[k % 3 == 0] if k != benign else "one class" for k in range(200)]
    names = ["b", "a", "one class", "untested"]
    found = figures_by_source(predictions, sources, names, QUICK, seed=[7])
    assert [*found] == names
    for name in names[:3]:
        part = predictions.part(np.flatnonzero(np.array(sources) == name))
        alone = evaluate(part, 0.5, QUICK, rng=np.random.default_rng([7]))["units"]["mass"]
        assert found[name] == {figure: alone[figure] for figure in ("n", "n_patients", "auc")}
    nothing = {"value": None, "low": None, "high": None}
    assert found["one class"] == {"n": 1, "n_patients": 1, "auc": nothing}
    assert found["untested"] == {"n": 0, "n_patients": 0, "auc": nothing}
    assert found["a"]["auc"]["low"] < found["a"]["auc"]["value"] < found["a"]["auc"]["high"]


def test_images_and_patients_are_measured_on_their_merged_scores():
    predictions = simulated()
    units = evaluate(predictions, 0.5, QUICK, rng=rng())["units"]
    for name, merged in (("image", predictions.per_image()), ("patient", predictions.per_patient())):
        assert units[name]["n"] == len(merged.labels)
        assert units[name]["auc"]["value"] == pytest.approx(roc_auc_score(merged.labels, merged.malignancy))
        assert units[name]["n_patients"] == units["mass"]["n_patients"]
    assert units["patient"]["n"] == units["patient"]["n_patients"]


def test_a_patient_of_one_mass_makes_all_units_the_same():
    predictions = simulated()
    alone = Predictions(
        images=tuple(f"{i}" for i in range(200)),
        patients=tuple(f"{i}" for i in range(200)),
        labels=predictions.labels,
        probabilities=predictions.probabilities,
        classes=predictions.classes,
    )
    units = evaluate(alone, 0.5, QUICK, rng=rng())["units"]
    assert units["mass"] == units["image"] == units["patient"]


def test_each_mass_may_have_the_threshold_of_its_fold():
    predictions = simulated()
    one = evaluate(predictions, 0.4, QUICK, rng=rng())
    same = evaluate(predictions, np.full(200, 0.4), QUICK, rng=rng())
    assert one == same
    thresholds = np.where(np.arange(200) < 100, 0.3, 0.6)
    mass = evaluate(predictions, thresholds, QUICK, rng=rng())["units"]["mass"]
    called = predictions.malignancy >= thresholds
    assert mass["accuracy"]["value"] == pytest.approx((called == predictions.labels).mean())


def test_the_same_seed_gives_the_same_intervals_and_json_can_hold_them():
    predictions = simulated()
    one, two = (evaluate(predictions, 0.5, QUICK, rng=rng()) for _ in range(2))
    assert one == two
    assert json.loads(json.dumps(one, allow_nan=False)) == one
    assert "NaN" not in json.dumps(one)


def test_calibration_bins_hold_every_mass_once_and_find_an_honest_score_honest():
    generator = np.random.default_rng(3)
    n = 4000
    scores = generator.uniform(size=n)
    names = tuple(str(i) for i in range(n))
    labels = (generator.uniform(size=n) < scores).astype(np.int64)
    honest = Predictions(names, names, labels, np.stack([1 - scores, scores], axis=1), ("benign", "malignant"))
    mass = evaluate(honest, 0.5, QUICK, rng=rng())["units"]["mass"]
    assert [each["n"] for each in mass["calibration"]] == [400] * 10
    assert mass["calibration_error"] < 0.03
    inside = [each["observed"]["low"] <= each["mean_score"] <= each["observed"]["high"] for each in mass["calibration"]]
    assert sum(inside) >= 7
    shifted = np.clip(scores + 0.3, 0, 1)
    wrong = Predictions(names, names, labels, np.stack([1 - shifted, shifted], axis=1), ("benign", "malignant"))
    assert evaluate(wrong, 0.5, QUICK, rng=rng())["units"]["mass"]["calibration_error"] > 0.2


def test_more_classes_than_two():
    predictions = simulated(n=300, n_classes=3)
    mass = evaluate(predictions, 0.4, QUICK, rng=rng())["units"]["mass"]
    labels, chances = predictions.labels, predictions.probabilities
    chances = chances / chances.sum(axis=1, keepdims=True)
    assert mass["auc"]["value"] == pytest.approx(roc_auc_score(labels, chances, multi_class="ovr", average="macro"))
    assert mass["accuracy"]["value"] == pytest.approx((chances.argmax(axis=1) == labels).mean())
    assert mass["sensitivity"]["value"] == pytest.approx((chances[labels == 2, 2] >= 0.4).mean())
    assert mass["brier"]["value"] == pytest.approx(((chances - np.eye(3)[labels]) ** 2).sum(axis=1).mean())
    assert np.array(mass["confusion"]).shape == (3, 3)
    assert mass["auc"]["low"] < mass["auc"]["value"] < mass["auc"]["high"]


def test_more_classes_of_which_none_is_malignant_have_no_sensitivity():
    three = simulated(n=300, n_classes=3)
    animals = Predictions(three.images, three.patients, three.labels, three.probabilities, ("cat", "cow", "dog"))
    mass = evaluate(animals, 0.4, QUICK, rng=rng())["units"]["mass"]
    assert mass["sensitivity"] == {"value": None, "low": None, "high": None}
    assert mass["roc"] is None
    assert mass["calibration"] == []
    assert mass["calibration_error"] is None
    assert mass["auc"]["value"] > 0.5


def test_one_class_has_no_auc_but_an_accuracy():
    some = simulated()
    kept = np.flatnonzero(some.labels == 0)
    benign = Predictions(
        tuple(some.images[i] for i in kept),
        tuple(some.patients[i] for i in kept),
        some.labels[kept],
        some.probabilities[kept],
        some.classes,
    )
    mass = evaluate(benign, 0.5, QUICK, rng=rng())["units"]["mass"]
    assert mass["auc"] == {"value": None, "low": None, "high": None}
    assert mass["sensitivity"]["value"] is None
    assert mass["roc"] is None
    assert mass["n_resamples_dropped"] == 200
    assert mass["specificity"]["value"] == mass["accuracy"]["value"]
    assert mass["accuracy"]["low"] < mass["accuracy"]["high"]
    assert point_auc(benign) is None


def test_resamples_that_lack_a_class_are_dropped_and_counted():
    few = simulated(n=6, n_patients=6, seed=5)
    assert 0 < few.labels.sum() < 6
    mass = evaluate(few, 0.5, QUICK, rng=rng())["units"]["mass"]
    assert 0 < mass["n_resamples_dropped"] < 200


def test_a_perfect_result_is_not_certain():
    names = tuple(str(i) for i in range(20))
    labels = np.arange(20) % 2
    perfect = Predictions(names, names, labels, np.stack([1 - labels, labels], axis=1).astype(float), ("a", "b"))
    mass = evaluate(perfect, 0.5, QUICK, rng=rng())["units"]["mass"]
    assert mass["auc"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 10)), "high": 1.0}
    assert mass["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 10))


def test_no_resamples_no_intervals():
    mass = evaluate(simulated(), 0.5, EvaluationSettings(n_resamples=0), rng=rng())["units"]["mass"]
    assert mass["auc"]["value"] is not None
    assert mass["auc"]["low"] is None


def test_two_thousand_resamples_of_eight_hundred_masses_take_less_than_two_seconds():
    predictions = simulated(n=800, n_patients=500)
    start = time.process_time()
    evaluate(predictions, 0.5, rng=rng())
    assert time.process_time() - start < 2


def test_spread_over_folds():
    assert across_folds([0.8, 0.9, None, 1.0]) == {
        "n": 3,
        "mean": pytest.approx(0.9),
        "sd": pytest.approx(0.1),
        "se": pytest.approx(0.1 / 3**0.5),
    }
    assert across_folds([0.8]) == {"n": 1, "mean": 0.8, "sd": None, "se": None}
    assert across_folds([None]) == {"n": 0, "mean": None, "sd": None, "se": None}


def test_an_image_is_called_by_the_threshold_of_its_most_suspicious_mass():
    scores = np.array([0.3, 0.7, 0.5, 0.2])
    predictions = Predictions(
        images=("a", "a", "b", "b"),
        patients=("P", "P", "Q", "Q"),
        labels=np.array([0, 1, 0, 0]),
        probabilities=np.stack([1 - scores, scores], axis=1),
        classes=("benign", "malignant"),
    )
    units = evaluate(predictions, np.array([0.9, 0.6, 0.4, 0.1]), QUICK, rng=rng())["units"]
    for unit in (units["image"], units["patient"]):  # 0.7 against 0.6, and 0.5 against 0.4: both are called
        assert (unit["sensitivity"]["value"], unit["specificity"]["value"]) == (1.0, 0.0)


def test_the_band_around_the_curve_is_of_the_middle_resamples():
    predictions = simulated()
    roc = evaluate(predictions, 0.5, QUICK, rng=rng())["units"]["mass"]["roc"]
    groups = predictions.patient_groups
    weights = draw_patients(int(groups.max()) + 1, 200, rng=rng())[:, groups].astype(float)
    heights = weighted_sensitivity(predictions.malignancy, predictions.malignant == 1, weights, np.array(roc["grid"]))
    low, high = np.quantile(heights, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(roc["low"], low, atol=1e-6)
    np.testing.assert_allclose(roc["high"], high, atol=1e-6)


def test_a_mass_whose_score_is_the_threshold_is_called_malignant():
    scores, names = np.array([0.5, 0.5, 0.2, 0.9]), tuple("abcd")
    classes = ("benign", "malignant")
    at_it = Predictions(names, names, np.array([1, 0, 0, 1]), np.stack([1 - scores, scores], axis=1), classes)
    mass = evaluate(at_it, 0.5, QUICK, rng=rng())["units"]["mass"]
    assert (mass["sensitivity"]["value"], mass["specificity"]["value"]) == (1.0, 0.5)
    assert mass["confusion"] == [[1, 1], [0, 2]]


def test_net_benefit_is_masses_found_less_weighed_false_alarms():
    # Ten masses, four malignant, scores 0.05 to 0.95. By hand: from 0.5 on five are called, three of them malignant;
    # from 0.2 on eight are called, all four malignant ones among them.
    scores, names = np.arange(10) / 10 + 0.05, tuple("abcdefghij")
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 0, 1, 1])
    ten = Predictions(names, names, labels, np.stack([1 - scores, scores], axis=1), ("benign", "malignant"))
    curve = evaluate(ten, 0.5, QUICK, rng=rng())["units"]["mass"]["decision_curve"]
    at = {threshold: k for k, threshold in enumerate(curve["thresholds"])}
    assert curve["net_benefit"][at[0.5]] == pytest.approx(3 / 10 - 2 / 10)
    assert curve["net_benefit"][at[0.2]] == pytest.approx(4 / 10 - 4 / 10 / 4)
    assert curve["call_all"][at[0.2]] == pytest.approx(4 / 10 - 6 / 10 / 4)
    assert curve["net_benefit"][at[0.96]] == 0  # nothing is called
    # The interval by hand: whole patients drawn with the same weights.
    weights = draw_patients(10, 200, rng=rng()).astype(float)
    drawn = (weights[:, 2:] @ np.where(labels[2:] == 1, 1, -0.25)) / 10
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (curve["low"][at[0.2]], curve["high"][at[0.2]]) == (
        pytest.approx(low, abs=1e-6),
        pytest.approx(high, abs=1e-6),
    )


def test_without_resamples_or_a_malignant_class_the_decision_curve_has_no_band():
    assert (
        evaluate(simulated(), 0.5, EvaluationSettings(n_resamples=0), rng=rng())["units"]["mass"]["decision_curve"][
            "low"
        ]
        == []
    )
    three = simulated(n=60, n_classes=3)
    animals = Predictions(three.images, three.patients, three.labels, three.probabilities, ("cat", "cow", "dog"))
    assert evaluate(animals, 0.4, QUICK, rng=rng())["units"]["mass"]["decision_curve"] is None
