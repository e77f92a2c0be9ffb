import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnet.evaluation.calibration import choose_threshold, fit_temperature, probabilities


def simulated(n, temperature, n_classes=2, seed=0):
    """Labels drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_classes)) * 4
    chances = probabilities(logits, temperature)
    labels = np.array([rng.choice(n_classes, p=row) for row in chances], dtype=np.int64)
    return labels, logits


def test_softmax_closed_form_and_stability():
    assert np.allclose(probabilities(np.array([[0.0, np.log(3.0)]])), [[0.25, 0.75]])
    extreme = probabilities(np.array([[1e4, -1e4, 0.0]]), 0.05)
    assert np.isfinite(extreme).all()
    assert np.allclose(extreme.sum(axis=1), 1)


@pytest.mark.parametrize(("temperature", "n_classes"), [(0.5, 2), (1.0, 2), (3.0, 2), (2.0, 4)])
def test_the_temperature_behind_the_labels_is_found(temperature, n_classes):
    labels, logits = simulated(6000, temperature, n_classes)
    assert fit_temperature(labels, logits) == pytest.approx(temperature, rel=0.1)


def test_no_other_temperature_fits_better_than_the_one_found():
    labels, logits = simulated(5000, 2.0)

    def cross_entropy(temperature):
        return -np.log(probabilities(logits, temperature)[np.arange(len(labels)), labels]).mean()

    best = fit_temperature(labels, logits)
    assert cross_entropy(best) <= min(cross_entropy(best * factor) for factor in (0.8, 0.9, 1.1, 1.25))


def test_few_masses_without_error_do_not_become_certain():
    logits = np.array([[2.0, -2.0], [3.0, -3.0], [-2.0, 2.0], [-3.0, 3.0]])
    temperature = fit_temperature(np.array([0, 0, 1, 1]), logits)
    assert 0.3 < temperature < 10
    assert probabilities(logits, temperature).max() < 0.99


@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        (np.zeros(0, np.int64), np.zeros((0, 2))),
        (np.array([0, 1]), np.zeros((2, 2))),
        (np.array([0]), np.array([[5.0, -5.0]])),
        (np.array([0, 1, 0, 1]), np.array([[-9.0, 9], [9, -9], [-9, 9], [9, -9]])),  # always wrong
        (np.array([0, 0, 0]), np.array([[900.0, -900], [800, 1], [1, 0]])),
    ],
)
def test_the_temperature_stays_in_its_bounds_on_odd_data(labels, logits):
    assert 0.05 <= fit_temperature(labels, logits) <= 20.0


def test_nothing_to_learn_from_leaves_logits_as_they_are():
    assert fit_temperature(np.zeros(0, np.int64), np.zeros((0, 3))) == 1.0
    assert fit_temperature(np.array([0, 1]), np.zeros((2, 2))) == 1.0


@given(scale=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_scaling_the_logits_scales_the_temperature(scale):
    labels, logits = simulated(400, 1.0)
    assert fit_temperature(labels, logits * scale) == pytest.approx(
        np.clip(fit_temperature(labels, logits) * scale, 0.05, 20), rel=1e-3
    )


def test_youden_closed_form():
    labels, scores = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.9])
    # 0.25 and 0.5 are equally good (J = 2/3); the lower one misses no cancer.
    assert choose_threshold(labels, scores, "youden") == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 40), np.round(rng.uniform(size=40), 1)  # with ties

    def youden(threshold):
        called = scores >= threshold
        return called[labels == 1].mean() - called[labels == 0].mean()

    best = choose_threshold(labels, scores, "youden")
    assert youden(best) >= max(youden(threshold) for threshold in np.linspace(0, 1.01, 400)) - 1e-12


def test_sensitivity90_is_the_highest_threshold_that_finds_nine_of_ten():
    labels = np.array([1] * 10 + [0] * 10)
    scores = np.concatenate([np.linspace(0.1, 1.0, 10), np.linspace(0.05, 0.95, 10)])
    threshold = choose_threshold(labels, scores, "sensitivity90")
    assert (scores[labels == 1] >= threshold).sum() == 9
    assert 0.15 <= threshold <= 0.2
    assert choose_threshold(labels, scores, 0.9) == threshold
    assert (scores[labels == 1] >= choose_threshold(labels, scores, 0.95)).all()  # of ten, 95 % are all


def test_one_class_leaves_the_threshold_in_the_middle():
    assert choose_threshold(np.ones(3, np.int64), np.array([0.1, 0.2, 0.3]), "youden") == 0.5


def test_neighboring_floats_are_still_told_apart():
    low = 0.5
    high = np.nextafter(low, 1)
    threshold = choose_threshold(np.array([0, 1]), np.array([low, high]), "youden")
    assert low < threshold <= high


def test_labels_other_than_malignant_or_not_are_refused():
    with pytest.raises(ValueError, match="`labels` must be 0 or 1, got 0 to 2"):
        choose_threshold(np.array([0, 2]), np.array([0.1, 0.9]), "youden")


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="`temperature` must be finite and above 0, got 0"):
        probabilities(np.zeros((1, 2)), 0.0)


@pytest.mark.parametrize("n", [1, 4, 30])
def test_masses_that_are_all_right_get_platts_chance(n):
    """n of each class, all told apart by the same logits: each has the chance (n + 1) / (n + 2), not one."""
    labels = np.repeat([0, 1], n)
    logits = np.where(labels[:, None] == [0, 1], 2.0, -2.0)
    chances = probabilities(logits, fit_temperature(labels, logits))
    assert chances[np.arange(2 * n), labels] == pytest.approx((n + 1) / (n + 2), abs=1e-4)
