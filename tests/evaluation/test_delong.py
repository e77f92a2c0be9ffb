import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import reference
from diagnet.evaluation.delong import auc_components, delong, holm, required_sample_size


def pairs(scores, targets):
    """psi of every pair of a target and another, as DeLong et al. write it."""
    own, rest = scores[targets], scores[~targets]
    return (own[:, None] > rest[None]) + (own[:, None] == rest[None]) / 2


@pytest.fixture
def masses():
    rng = np.random.default_rng(0)
    targets = rng.random(80) < 0.4
    first = np.round(rng.normal(size=80) + targets, 1)  # with ties
    second = np.round(rng.normal(size=80) + 0.3 * targets, 1)
    return first, second, targets


def test_components_are_the_means_over_pairs(masses):
    first, _, targets = masses
    of_targets, of_others = auc_components(first, targets)
    np.testing.assert_allclose(of_targets, pairs(first, targets).mean(axis=1))
    np.testing.assert_allclose(of_others, pairs(first, targets).mean(axis=0))
    assert of_targets.mean() == pytest.approx(roc_auc_score(targets, first))


def test_delong_is_the_textbooks_where_each_patient_has_one_mass(masses):
    first, second, targets = masses
    found = delong(first[None], second[None], targets, np.arange(80), np.zeros(80, int))
    minus = pairs(first, targets) - pairs(second, targets)
    m, n = minus.shape
    variance = minus.mean(axis=1).var(ddof=1) / m + minus.mean(axis=0).var(ddof=1) / n
    assert found["difference"] == pytest.approx(roc_auc_score(targets, first) - roc_auc_score(targets, second))
    # A patient of one mass has masses of one class: its sum is that mass's own component, and no covariance is left.
    assert found["se"] == pytest.approx(variance**0.5, rel=1e-12)


N_REPEATS = 2


def slow_delong(first, second, targets, patients, folds):
    """Difference of the mean AUCs and its variance, by the slow loops."""
    contrast = np.repeat([1, -1], N_REPEATS) / N_REPEATS
    theta, S = [], []
    for fold in sorted(set(folds.tolist())):
        here = folds == fold
        scores = np.concatenate([first, second])[:, here].tolist()
        areas, covariances = reference.obuchowski(scores, targets[here].tolist(), patients[here].tolist())
        theta.append(contrast @ areas)
        S.append(contrast @ covariances @ contrast)
    return np.mean(theta), np.sum(S) / len(S) ** 2


@given(
    masses=st.lists(
        # Few patients and few distinct scores: patients with masses of both classes, and ties.
        st.tuples(st.integers(0, 7), st.booleans(), *[st.integers(0, 3)] * 2 * N_REPEATS),
        min_size=12,
        max_size=24,
    ),
    n_folds=st.integers(1, 2),
)
@settings(deadline=None)
def test_delong_is_obuchowskis_for_patients_of_many_masses(masses, n_folds):
    patients, targets, *scores = (np.array(column) for column in zip(*masses, strict=True))
    patients[:8], targets[:8] = range(8), [True, True, False, False] * 2  # in each fold two patients of each class
    folds = patients // 4 * (n_folds - 1)
    first, second = np.split(np.array(scores, dtype=float), 2)
    found = delong(first, second, targets, patients, folds)
    difference, variance = slow_delong(first, second, targets, patients, folds)
    assert found["difference"] == pytest.approx(difference, abs=1e-12)
    assert (found["se"] or 0.0) ** 2 == pytest.approx(max(variance, 0.0), rel=1e-12, abs=1e-15)


def test_masses_of_both_classes_that_move_together_leave_the_difference_surer():
    # A patient whose masses all score higher by one of the scores gains with the malignant ones what it loses with the
    # others, so that the covariance of the classes is negative. Without it the error is too large, turned over more so.
    rng = np.random.default_rng(2)
    found, errors = [], []
    for _ in range(300):
        patients, targets = np.repeat(np.arange(40), 2), np.arange(80) % 2 == 1
        first, second = (targets + np.repeat(rng.normal(size=40), 2) + 0.3 * rng.normal(size=80) for _ in range(2))
        result = delong(first[None], second[None], targets, patients, np.zeros(80, int))
        found.append(result["difference"])
        errors.append(result["se"])
    assert np.std(found) == pytest.approx(np.mean(errors), rel=0.15)


def test_the_same_evidence_twice_is_not_more_evidence(masses):
    first, second, targets = masses
    patients = np.arange(80)
    once = delong(first[None], second[None], targets, patients, np.zeros(80, int))
    twice = [np.tile(each, 2) for each in (first, second, targets, patients)]
    again = delong(twice[0][None], twice[1][None], twice[2], twice[3], np.zeros(160, int))
    assert again["se"] == pytest.approx(once["se"])


def test_delongs_error_is_that_of_many_data_sets():
    rng = np.random.default_rng(1)
    found, errors = [], []
    for _ in range(300):
        patients = np.repeat(np.arange(40), 2)
        targets = np.repeat(rng.random(40) < 0.5, 2)
        folds = np.repeat(np.arange(2), 40)
        shift = np.repeat(rng.normal(size=40), 2)  # two views of one lesion are alike
        first = shift + 0.3 * rng.normal(size=80) + targets
        second = np.repeat(rng.normal(size=40), 2) + targets
        result = delong(first[None], second[None], targets, patients, folds)
        found.append(result["difference"])
        errors.append(result["se"])
    assert np.std(found) == pytest.approx(np.mean(errors), rel=0.15)


def test_p_is_of_both_sides(masses):
    first, _, targets = masses
    second = first + np.random.default_rng(3).normal(0, 0.5 * first.std(), 80)
    patients, folds = np.arange(80), np.zeros(80, int)
    found = delong(first[None], second[None], targets, patients, folds)
    other = delong(second[None], first[None], targets, patients, folds)
    assert other["p"] == pytest.approx(found["p"])
    beyond = np.abs(np.random.default_rng(0).normal(0, found["se"], 200_000)) >= abs(found["difference"])
    assert found["p"] == pytest.approx(beyond.mean(), abs=0.01)
    assert found["p"] > 0.05  # half of it would be another number


def test_a_score_is_as_good_as_itself(masses):
    first, _, targets = masses
    found = delong(first[None], first[None], targets, np.arange(80), np.zeros(80, int))
    assert found == {"difference": 0.0, "se": None, "p": None}


def test_a_fold_with_one_patient_of_a_class_leaves_the_error_unknown(masses):
    first, second, targets = masses
    patients, folds = np.arange(80), np.zeros(80, int)
    lonely = np.flatnonzero(targets)[:3]  # three masses of one patient, the only malignant ones of their fold
    patients[lonely] = 80
    folds[lonely] = 1
    folds[np.flatnonzero(~targets)[:9]] = 1
    found = delong(first[None], second[None], targets, patients, folds)
    assert (found["se"], found["p"]) == (None, None)
    assert np.isfinite(found["difference"])


def test_folds_without_both_kinds_say_nothing(masses):
    first, second, _ = masses
    with pytest.raises(ValueError, match="`targets` must have both kinds"):
        delong(first[None], second[None], np.zeros(80, bool), np.arange(80), np.zeros(80, int))


def test_holm():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([]) == []


def test_four_times_the_masses_show_half_the_difference():
    n = required_sample_size(0.02, 0.01, 800)
    assert n == 1570  # (1.960 + 0.8416)^2 / 4 * 800
    assert required_sample_size(0.01, 0.01, 800) == pytest.approx(4 * n, abs=4)
