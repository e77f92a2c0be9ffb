"""Splits: no patient on two sides, each class in each part, the same split for the same seed."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diagnet.data.splits import Split, SplitSettings, check_disjoint, make_folds, make_split
from diagnet.errors import DataError

BY_IMAGE = SplitSettings(method="image80_20")


def masses(n_patients, *, seed=0, malignant=0.45):
    """Patients with one to six masses, some of both classes, two masses an image."""
    rng = np.random.default_rng(seed)
    patients, images, labels = [], [], []
    for patient in range(n_patients):
        own = rng.random() < malignant
        for mass in range(rng.integers(1, 7)):
            patients.append(f"P{patient:03d}")
            images.append(f"P{patient:03d}-{mass // 2}.png")
            labels.append(int(own ^ (rng.random() < 0.1)))
    return patients, images, np.array(labels)


def parts(split):
    return split.train, split.validation, split.test


def test_every_mass_is_in_one_part_and_shares_are_kept():
    patients, images, labels = masses(200)
    split = make_split(patients, images, labels, rng=np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate(parts(split))), np.arange(len(labels)))
    for part, share in zip(parts(split), (0.68, 0.12, 0.2), strict=True):
        assert part.dtype == np.int64
        assert np.array_equal(part, np.sort(part))
        for label in (0, 1):
            assert (labels[part] == label).sum() / (labels == label).sum() == pytest.approx(share, abs=0.02)


def test_the_seed_alone_decides():
    data = masses(60)
    first, again, other = (make_split(*data, rng=np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))
    assert not np.array_equal(first.test, other.test)


def test_large_and_small_patients_reach_the_test_part_alike():
    patients, images, labels = masses(40)
    sizes = {patient: patients.count(patient) for patient in patients}
    tested = []
    for seed in range(60):
        split = make_split(patients, images, labels, rng=np.random.default_rng(seed))
        tested += [sizes[patient] for patient in {patients[i] for i in split.test}]
    assert np.mean(tested) == pytest.approx(np.mean(list(sizes.values())), rel=0.1)


@given(n_patients=st.integers(12, 40), seed=st.integers(0, 1000), share=st.floats(0.15, 0.5))
@settings(max_examples=25, deadline=None)
def test_no_patient_is_on_two_sides(n_patients, seed, share):
    data = masses(n_patients, seed=seed)
    has_both = [sum(label == c for label in data[2]) > 12 for c in (0, 1)]
    assume(all(has_both))
    chosen = SplitSettings(test_share=share)
    split = make_split(*data, chosen, rng=np.random.default_rng(seed))
    check_disjoint(split, data[0])
    assert all(set(data[2][part]) == {0, 1} for part in parts(split))


def test_folds_cover_everything_once_and_keep_patients_whole():
    patients, images, labels = masses(60)
    folds = make_folds(patients, images, labels, 5, rng=np.random.default_rng(0))
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(len(labels)))
    for fold in folds:
        check_disjoint(fold, patients)
        assert np.array_equal(np.sort(np.concatenate(parts(fold))), np.arange(len(labels)))
        assert labels[fold.test].mean() == pytest.approx(labels.mean(), abs=0.05)
        assert len(fold.test) == pytest.approx(len(labels) / 5, rel=0.1)


def test_a_rare_class_still_reaches_every_part():
    labels = np.array([0] * 40 + [1] * 3)
    names = [str(i) for i in range(43)]
    split = make_split(names, names, labels, rng=np.random.default_rng(0))
    assert [labels[part].sum() for part in parts(split)] == [1, 1, 1]


def test_more_than_two_classes():
    labels = np.arange(60) % 4
    names = [str(i) for i in range(60)]
    folds = make_folds(names, names, labels, 3, rng=np.random.default_rng(0))
    assert all(set(labels[part]) == {0, 1, 2, 3} for fold in folds for part in parts(fold))


def test_by_image_warns_and_leaks_patients_but_not_images():
    patients, images, labels = masses(60)
    with pytest.warns(UserWarning, match="leaks"):
        split = make_split(patients, images, labels, BY_IMAGE, rng=np.random.default_rng(0))
    check_disjoint(split, images, unit="image")
    with pytest.raises(DataError, match=r"must keep each patient in one part, got \d+ on two sides") as caught:
        check_disjoint(split, patients)
    assert "P0" not in str(caught.value)
    with pytest.warns(UserWarning, match="leaks"):
        folds = make_folds(patients, images, labels, 3, BY_IMAGE, rng=np.random.default_rng(0))
    for fold in folds:
        check_disjoint(fold, images, unit="image")


def test_a_patient_between_validation_and_train_is_found():
    split = Split(*(np.array(part, dtype=np.int64) for part in ([0, 1], [2], [3])))
    with pytest.raises(DataError, match="got 1 on two sides"):
        check_disjoint(split, ["a", "b", "b", "c"])


def test_errors():
    names = [str(i) for i in range(12)]
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="`labels` must hold at least two classes, got 1 in 12 masses"):
        make_split(names, names, np.zeros(12, dtype=int), rng=rng)
    with pytest.raises(DataError, match=r"`patients` must be at least as many .* got 12 patients for 20 parts"):
        make_folds(names, names, np.arange(12) % 2, 20, rng=rng)
    with pytest.raises(DataError, match="every part every class, got 2 patients with the rarest class for 3 parts"):
        make_split(names, names, np.array([1, 1] + [0] * 10), rng=rng)
    with pytest.raises(ValueError, match="`n_folds` must be at least 2, got 1"):
        make_folds(names, names, np.arange(12) % 2, 1, rng=rng)
    with pytest.raises(ValueError, match="test_share"):
        SplitSettings(test_share=1.0)
