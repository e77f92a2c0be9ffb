import numpy as np
import pytest
from scipy.stats import norm

from diagnet.evaluation.delong import required_sample_size
from diagnet.study.results.differences import differences, once
from diagnet.study.results.scores import Scores, Truth, percentiles, resampled, weighted_accuracy
from diagnet.study.results.seed_luck import SeedLuck, lenders, on_same_draws, spread

FOLDS, MASSES = 4, 80  # of a fold, one to a patient
QUALITY = 0.15  # spread of the trainings' quality by their seeds
SEED_VARIANCE = (QUALITY * norm.pdf(1) / (1 + QUALITY**2) ** 0.5) ** 2  # of the accuracy, to first order


def a_truth():
    return Truth(np.ones(FOLDS * MASSES, bool), np.arange(FOLDS * MASSES), np.repeat(np.arange(FOLDS), MASSES))


def an_arm(name, rng, hard, repeats, quality=QUALITY):
    """Scores of trainings: how hard a mass is, what each training makes of it, and the training's quality."""
    made_of_it = rng.standard_normal((repeats, len(hard)))
    signal = 1 + np.repeat(quality * rng.standard_normal((repeats, FOLDS)), MASSES, axis=1)
    return Scores(name, signal + (hard + made_of_it) / 2**0.5, np.ones(repeats * FOLDS))


def some_arms(rng, n, repeats, quality=QUALITY):
    return [an_arm(f"{k}", rng, rng.standard_normal(FOLDS * MASSES), repeats, quality) for k in range(n)]


@pytest.fixture(scope="module")
def lending():
    return SeedLuck.of([], a_truth(), lenders=some_arms(np.random.default_rng(7), 30, 3), measure=weighted_accuracy)


@pytest.mark.parametrize("repeats", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(repeats, lending):
    # Masses, seeds, and what each training makes of each mass vary. benchmarks/intervals.py does the same for AUCs.
    truth, rng = a_truth(), np.random.default_rng(repeats)
    expected = norm.cdf(1 / (1 + QUALITY**2) ** 0.5)
    n, hits = 200, np.zeros(2)
    for _ in range(n):
        hard = rng.standard_normal(len(truth.targets))
        arm, other = (an_arm(name, rng, hard, repeats) for name in "ab")
        how = {"measure": weighted_accuracy, "n_resamples": 200}
        alone = percentiles(resampled(arm, truth, seed_variance=lending.lent, **how))
        minus = percentiles(resampled(arm, truth, against=other, seed_variance=2 * lending.lent, **how))
        hits += alone["low"] <= expected <= alone["high"], minus["low"] <= 0 <= minus["high"]
    assert (hits / n > 0.9).all()  # patients alone: 0.82 of the differences of one repeat
    assert (hits / n < 0.98).all()  # with all of the spread between repeats: 0.99


def test_what_trainings_make_of_single_masses_is_not_the_luck_of_a_seed(lending):
    # The whole variance between repeats is several times that of the seeds: the rest is the masses'.
    rng = np.random.default_rng(8)
    assert lending.lent == pytest.approx(SEED_VARIANCE, rel=0.35)
    alike = SeedLuck.of([], a_truth(), lenders=some_arms(rng, 30, 3, quality=0.0), measure=weighted_accuracy)
    assert abs(alike.lent) < 0.2 * SEED_VARIANCE
    assert alike.measured[0][1].masses > SEED_VARIANCE / 2


def test_an_arm_with_one_repeat_borrows_and_says_so(lending):
    rng = np.random.default_rng(3)
    single, own = an_arm("a", rng, np.zeros(FOLDS * MASSES), 1), some_arms(rng, 1, 3)[0]
    assert lending.of_arm(single) == (lending.lent, "borrowed")
    measured = spread(own, a_truth(), measure=weighted_accuracy)
    assert lending.of_arm(own) == (max(measured.seed, 0), "own")
    difference = lending.of_difference(own, single)
    assert difference == (lending.of_arm(own).seed + lending.lent, "borrowed")


def test_the_luck_of_a_draw_that_two_arms_share_is_not_in_their_difference():
    rng, truth = np.random.default_rng(5), a_truth()
    drawn = np.repeat(rng.standard_normal((3, FOLDS)), MASSES, axis=1)  # masses that teach more, or less

    def learned(arm):
        return Scores(arm.name, arm.values + drawn, arm.seconds)

    first, second, third = (learned(arm) for arm in some_arms(rng, 3, 3))
    how = {"measure": weighted_accuracy, "lenders": []}
    luck = SeedLuck.of([first, second, third], truth, same_draws=[[first, second]], **how)
    alone = SeedLuck.of([first, second, third], truth, **how)
    paired, apart = luck.of_difference(first, second), alone.of_difference(first, second)
    assert paired.source == "own"
    assert paired.seed == max(spread(first, truth, against=second, measure=weighted_accuracy).seed, 0)
    assert apart.seed > 10 * SEED_VARIANCE > 2 * paired.seed
    assert luck.of_difference(first, third) == alone.of_difference(first, third)


def test_a_pair_has_no_less_luck_than_the_pairs_beside_it_and_no_more_than_two_arms():
    rng, truth = np.random.default_rng(5), a_truth()
    arms = some_arms(rng, 4, 3)
    luck = SeedLuck.of(arms, truth, same_draws=[arms], lenders=[], measure=weighted_accuracy)
    pairs = [(arm, other) for k, arm in enumerate(arms) for other in arms[:k]]
    own = [spread(arm, truth, against=other, measure=weighted_accuracy).seed for arm, other in pairs]
    apart = [luck.of_arm(arm).seed + luck.of_arm(other).seed for arm, other in pairs]
    taken = [luck.of_difference(*pair).seed for pair in pairs]
    np.testing.assert_allclose(taken, np.minimum(np.maximum(own, np.mean(own)), apart))
    assert (np.less(taken, apart)).any()
    assert (np.less(own, np.mean(own))).any()


def test_a_run_that_one_of_two_arms_lacks_tells_nothing_of_their_difference():
    rng, truth = np.random.default_rng(5), a_truth()
    arms = some_arms(rng, 3, 3)
    unfinished = arms[1].values
    unfinished[2, truth.folds == 0] = np.nan
    luck = SeedLuck.of(arms, truth, same_draws=[arms], lenders=[], measure=weighted_accuracy)
    for pair in ((arms[0], arms[1]), (arms[1], arms[0]), (arms[0], arms[2])):
        assert np.isfinite(luck.of_difference(*pair).seed)
    both, alone = (spread(arms[0], truth, against=other, measure=weighted_accuracy) for other in arms[1:])
    assert (both.freedom, alone.freedom) == (FOLDS * 2 - 1, FOLDS * 2)


def test_arms_on_the_same_number_of_masses_share_their_draws():
    described = {
        "all": (None, False),
        "few": (86, False),
        "also few": (86, False),
        "held": (86, True),
        "half": (344, False),
    }
    record = {"arms": {name: {"n_train": n, "holdout": held} for name, (n, held) in described.items()}}
    arms = [Scores(name, np.zeros((1, 4)), np.ones(1)) for name in described]
    assert [[arm.name for arm in group] for group in on_same_draws(arms, record)] == [
        ["few", "also few"],
        ["held"],
        ["half"],
    ]


def test_an_arm_that_lends_has_no_less_than_it_lends(lending):
    least = min(lending.measured, key=lambda each: each[1].seed)
    assert least[1].seed < lending.lent
    assert lending.of_arm(least[0]) == (lending.lent, "own")


def test_without_anybody_to_borrow_from_the_luck_is_given_or_not_known():
    single = some_arms(np.random.default_rng(3), 2, 1)
    truth = Truth(np.arange(FOLDS * MASSES) % 2 == 0, a_truth().patients, a_truth().folds)
    (row,) = differences([tuple(single)], truth)
    assert (row["seeds"], row["seed_sd"], row["masses_to_show"]) == ("none", None, None)
    assert row["masses_to_show_many_seeds"] > 0
    (told,) = differences([tuple(single)], truth, SeedLuck.of(single, truth, given=0.02))
    assert told["seeds"] == "given"
    assert told["seed_sd"] == pytest.approx(0.02 * (2 / FOLDS) ** 0.5)
    assert told["auc"]["high"] - told["auc"]["low"] > row["auc"]["high"] - row["auc"]["low"]
    assert told["delong_se"] == pytest.approx((row["delong_se"] ** 2 + told["seed_sd"] ** 2) ** 0.5)


def test_networks_on_all_masses_lend():
    arms = [Scores(name, np.zeros((1, 4)), np.ones(1)) for name in ("net", "few", "svm")]
    record = {"net": ("network", None), "few": ("network", 43), "svm": ("features-svm", None)}
    described = {name: {"method": method, "n_train": n} for name, (method, n) in record.items()}
    assert [arm.name for arm in lenders(arms, {"arms": described})] == ["net"]


def test_the_same_runs_under_two_names_count_once():
    first, second = some_arms(np.random.default_rng(0), 2, 1)
    again = Scores("again", first.values.copy(), first.seconds)
    assert [arm.name for arm in once([first, second, again])] == ["0", "1"]


def test_more_masses_do_not_help_against_the_luck_of_seeds():
    # By hand: 0.02 is shown at a standard error of 0.02 / (1.95996 + 0.84162) = 0.0071389.
    assert required_sample_size(0.02, 0.00713887, 100) == pytest.approx(100, abs=1)
    expected = pytest.approx(100 * 1e-4 / (0.007139**2 - 2.5e-5), abs=1)
    assert required_sample_size(0.02, 0.01, 100, fixed=0.005) == expected
    assert required_sample_size(0.02, 0.01, 100, fixed=0.0072) is None
