import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve

from diagnet.evaluation.bootstrap import draw_patients, interval, proportion, weighted_auc, weighted_sensitivity


@given(
    points=st.lists(
        st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40
    )  # few distinct scores: many ties
)
@settings(deadline=None)
def test_the_area_is_that_of_all_pairs_and_of_scikit_learn(points):
    scores, targets, weights = (np.array(column) for column in zip(*points, strict=True))
    scores, targets, weights = scores / 5, targets.astype(bool), weights.astype(float)
    pairs = wins = 0.0
    for i in np.flatnonzero(targets):
        for j in np.flatnonzero(~targets):
            pairs += weights[i] * weights[j]
            wins += weights[i] * weights[j] * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    found = weighted_auc(scores, targets, weights[None, :])[0]
    if pairs == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(wins / pairs)
        assert found == pytest.approx(roc_auc_score(targets, scores, sample_weight=weights))


def test_weighted_areas_are_those_of_explicit_resamples():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(15), 2)
    scores, targets = np.round(rng.uniform(size=30), 1), rng.integers(0, 2, 30).astype(bool)
    counts = draw_patients(15, 50, rng=rng)
    areas = weighted_auc(scores, targets, counts[:, patients].astype(float))
    for count, area in zip(counts, areas, strict=True):
        drawn = np.repeat(np.arange(15), count)
        index = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        assert area == pytest.approx(roc_auc_score(targets[index], scores[index]))


@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_a_monotone_transform_leaves_the_area_and_a_flip_turns_it_over(seed):
    rng = np.random.default_rng(seed)
    scores, targets = rng.normal(size=50), np.arange(50) % 3 == 0
    ones = np.ones((1, 50))
    area = weighted_auc(scores, targets, ones)
    assert weighted_auc(np.exp(3 * scores), targets, ones) == pytest.approx(area)
    assert weighted_auc(-scores, targets, ones) == pytest.approx(1 - area)
    assert weighted_auc(scores, ~targets, ones) == pytest.approx(1 - area)


def test_the_height_of_the_curve_is_scikit_learns():
    rng = np.random.default_rng(1)
    scores, targets = np.round(rng.normal(size=200), 1), np.arange(200) % 2 == 0
    false_alarms, sensitivity, _ = roc_curve(targets, scores + 0.0, drop_intermediate=False)
    rates = np.linspace(0, 1, 21)
    heights = weighted_sensitivity(scores, targets, np.ones((1, 200)), rates)[0]
    for rate, height in zip(rates, heights, strict=True):
        assert height == pytest.approx(sensitivity[false_alarms <= rate + 1e-12].max())
    assert np.isnan(weighted_sensitivity(scores, np.ones(200, bool), np.ones((1, 200)), rates)).all()


def test_draws_keep_the_number_of_patients_and_repeat_with_the_seed():
    counts = draw_patients(7, 100, rng=np.random.default_rng(0))
    assert (counts.sum(axis=1) == 7).all()
    assert (counts == draw_patients(7, 100, rng=np.random.default_rng(0))).all()


def test_a_share_and_its_resamples_closed_form():
    patients = np.array([0, 0, 1, 2])
    part, whole = np.array([True, False, True, False]), np.array([True, True, True, False])
    counts = np.array([[3, 0, 0], [0, 3, 0], [1, 1, 1], [0, 0, 3]])
    found = proportion(part, whole, patients, counts, 0.5)
    assert found["value"] == pytest.approx(2 / 3)
    # 3/6, 3/3, 2/3; the last resample holds nothing that counts
    assert [found["low"], found["high"]] == pytest.approx(list(np.quantile([0.5, 1.0, 2 / 3], [0.25, 0.75])))


def test_a_flawless_result_gets_the_exact_bound_instead_of_certainty():
    for value in (0.0, 1.0):
        found = interval(value, np.full(100, value), 0.95, 20)
        exact = binomtest(int(20 * value), 20).proportion_ci(0.95, method="exact")
        assert (found["low"], found["high"]) == pytest.approx((exact.low, exact.high))


def test_nothing_is_claimed_where_nothing_is_known():
    unknown = {"value": None, "low": None, "high": None}
    assert interval(None, np.array([0.5, np.nan]), 0.95, 10) == unknown
    assert interval(0.5, np.full(9, np.nan), 0.95, 10) == {**unknown, "value": 0.5}
    assert interval(0.5, np.zeros(0), 0.95, 10) == {**unknown, "value": 0.5}
    assert interval(0.5, np.full(9, 0.5), 0.95, 1) == {**unknown, "value": 0.5}  # one patient


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n_patients, hits, n_trials = 60, 0, 300
    patients = np.repeat(np.arange(n_patients), 2)
    for _ in range(n_trials):
        # Both masses of a patient share a coin of their own: correct with probability 0.5 + noise, mean 0.7.
        skill = rng.beta(7, 3, n_patients)
        correct = rng.uniform(size=2 * n_patients) < skill[patients]
        counts = draw_patients(n_patients, 300, rng=rng)
        found = proportion(correct, np.ones(2 * n_patients, bool), patients, counts, 0.9)
        hits += found["low"] <= 0.7 <= found["high"]
    assert 0.84 <= hits / n_trials <= 0.95


def test_masses_that_resemble_each_other_within_a_patient_widen_the_interval():
    rng = np.random.default_rng(0)
    n_patients, each = 50, 4
    patients = np.repeat(np.arange(n_patients), each)
    correct = np.repeat(rng.uniform(size=n_patients) < 0.7, each)  # all masses of a patient alike
    everywhere = np.ones(len(patients), bool)
    by_patient = proportion(correct, everywhere, patients, draw_patients(n_patients, 1000, rng=rng), 0.95)
    apart, counts = np.arange(len(patients)), draw_patients(len(patients), 1000, rng=rng)
    by_mass = proportion(correct, everywhere, apart, counts, 0.95)
    ratio = (by_patient["high"] - by_patient["low"]) / (by_mass["high"] - by_mass["low"])
    assert ratio == pytest.approx(np.sqrt(each), rel=0.2)


@pytest.mark.parametrize(("resampled", "ends"), [(0.6, (0.5, 0.6)), (0.4, (0.4, 0.5))])
def test_an_interval_holds_its_figure_whatever_the_resamples_say(resampled, ends):
    found = interval(0.5, np.full(9, resampled), 0.95, 10)
    assert (found["low"], found["high"]) == ends


def test_a_rate_of_false_alarms_holds_as_many_as_it_says():
    """0.29 of 100 is 28.999999999999996 to a computer; the curve's height there is that after 29 false alarms."""
    scores, targets = np.arange(200.0), np.arange(200) % 2 == 0  # from the highest down: an other, a target, an other
    rates = np.arange(101) / 100
    heights = weighted_sensitivity(scores, targets, np.ones((1, 200)), rates)[0]
    assert heights == pytest.approx(rates)
