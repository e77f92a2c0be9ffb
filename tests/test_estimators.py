import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.errors import DataError
from diagnet.estimators import AdversarialAugmenter, DiagNetClassifier
from diagnet.network import NetworkSettings
from diagnet.sampling_strategy import samples_to_make

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=0, n_hidden=16, dropout=0)
# Rows of the checks are no pictures, hence `augment=False`; every check applies.
CLASSIFIER = DiagNetClassifier(
    network=TINY, epochs=12, batch_size=16, learning_rate=1e-2, budget=2, augment=False, random_state=0
)
AUGMENTER = AdversarialAugmenter(budget=2, random_state=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # checks that need pandas say so
@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.usefixtures("unchecked_shapes")  # the checks pass what annotations forbid
@parametrize_with_checks([CLASSIFIER, AUGMENTER])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def imbalanced_learns_checks():
    """Those that the augmenter's tags ask for; text and NaN it refuses."""
    try:
        from imblearn.utils.estimator_checks import estimator_checks_generator
    except ImportError:
        return [pytest.param(None, marks=pytest.mark.skip("imbalanced-learn is not installed"))]
    sampler = AdversarialAugmenter(positive_ratio=0.01, negative_ratio=0.01, budget=1, random_state=0)
    checks = [check for _, check in estimator_checks_generator(sampler)]
    return [pytest.param(check, id=check.func.__name__) for check in checks]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")  # a check passes a column as `y`
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("check", imbalanced_learns_checks())
def test_imbalanced_learns_own_checks(check):
    check(AdversarialAugmenter(positive_ratio=0.01, negative_ratio=0.01, budget=1, random_state=0))


def test_imbalanced_learn_has_fifteen_checks_for_the_augmenter():
    pytest.importorskip("imblearn")
    assert len(imbalanced_learns_checks()) == 15  # of its 17: not those for text and for NaN


@pytest.fixture(scope="module")
def phantoms():
    return make_masses(48, rng=np.random.default_rng(0), settings=PhantomSettings(size=24))


def test_images_in_rows_or_as_pictures_are_the_same(phantoms):
    X, y = phantoms
    a = clone(CLASSIFIER).set_params(epochs=2).fit(X, y)
    b = clone(CLASSIFIER).set_params(epochs=2).fit(X.reshape(48, -1), y)
    chances = a.predict_proba(X)
    assert np.array_equal(chances, b.predict_proba(X.reshape(48, -1)))
    assert np.allclose(chances.sum(axis=1), 1)
    assert a.neighbors_.images.shape[0] == 48  # a positive one for each
    with pytest.raises(ValueError, match="must have images of"):
        a.predict(X[:, :12])


def test_labels_of_any_kind_and_groups_in_cross_validation(phantoms):
    X, y = phantoms
    names = np.array(["benign", "malignant"])[y]
    scores = cross_val_score(
        clone(CLASSIFIER).set_params(epochs=1), X, names, groups=np.arange(48) // 2, cv=GroupKFold(3)
    )
    assert len(scores) == 3
    fitted = clone(CLASSIFIER).set_params(epochs=1).fit(X, names, groups=np.arange(48) // 2)
    assert set(fitted.predict(X)) <= {"benign", "malignant"}


@pytest.mark.parametrize("as_rows", [False, True])
def test_augmenter_returns_originals_then_neighbors(phantoms, as_rows):
    X, y = phantoms
    X = (X.reshape(48, -1) if as_rows else X) * 255
    augmenter = AdversarialAugmenter(negative_ratio=0.2, negative_class=2, budget=10, random_state=0)
    X_, y_ = augmenter.fit_resample(X, y)
    assert X_.shape[1:] == X.shape[1:]
    assert np.array_equal(X_[:48], X)
    assert len(X_) == len(y_) == len(augmenter.kinds_) == len(augmenter.parents_) == 68
    assert (y_ == np.where(augmenter.kinds_ < 0, 2, y[augmenter.parents_])).all()
    assert X_.min() >= X.min()
    assert X_.max() <= X.max()
    assert not (X_[48:, None] == X[None]).all(axis=tuple(range(2, X.ndim + 1))).any()  # no copies
    again, _ = clone(augmenter).fit_resample(X, y)
    assert np.array_equal(again, X_)


def test_one_channel_may_stand_first_and_colors_are_refused(phantoms):
    X, y = phantoms
    classifier = clone(CLASSIFIER).set_params(epochs=1, positive_ratio=0.0)
    plain, channel = (clone(classifier).fit(each, y) for each in (X, X[:, None]))
    assert np.array_equal(plain.predict_proba(X), channel.predict_proba(X[:, None]))
    X_, _ = AdversarialAugmenter(budget=5, random_state=0).fit_resample(X[:, None], y)
    flat, _ = AdversarialAugmenter(budget=5, random_state=0).fit_resample(X, y)
    assert np.array_equal(X_[:, 0], flat)
    message = r"`X` must be grey images \(n, height, width\), .* got \(48, 24, 24, 3\)"
    for ask in (
        lambda colors: clone(classifier).fit(colors, y),
        lambda colors: plain.predict(colors),
        lambda colors: AdversarialAugmenter(budget=5).fit_resample(colors, y),
    ):
        with pytest.raises(ValueError, match=message):
            ask(np.repeat(X[..., None], 3, axis=3))


def test_refuses_wrong_shapes(phantoms):
    X, y = phantoms
    with pytest.raises(ValueError, match="`image_shape` must have 576 pixels"):
        clone(CLASSIFIER).set_params(image_shape=(10, 10)).fit(X.reshape(48, -1), y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(CLASSIFIER).fit(X, y[:40])
    with pytest.raises(ValueError, match="at least two classes"):
        clone(CLASSIFIER).fit(X, np.zeros(48, int))


@pytest.mark.parametrize(
    ("change", "parameters", "message"),
    [
        (lambda X: X[:13], {}, "at least 2 images of each class, got 1 of class"),
        (np.ones_like, {}, "must differ within a class"),
        (lambda X: np.where(X.mean() < X, np.nan, X), {}, "NaN"),
        (lambda X: X, {"budget": 0}, "`budget` must be valid: input should be greater than or equal to 1, got 0"),
        (lambda X: X, {"search_space": "space"}, "`search_space` must be valid"),
    ],
)
def test_the_augmenter_says_in_one_line_what_it_cannot_use(phantoms, change, parameters, message):
    X, y = phantoms
    X = change(X)
    labels = np.array([1, *np.zeros(len(X) - 1)]) if len(X) < len(y) else y
    with pytest.raises((ValueError, DataError), match=message):
        AdversarialAugmenter(**{"budget": 5, **parameters}).fit_resample(X, labels)


def test_lists_and_one_hot_classes_come_back_as_such(phantoms):
    X, y = phantoms
    augmenter = AdversarialAugmenter(positive_ratio=0.1, negative_ratio=0.0, budget=1, random_state=0)
    _, y_ = augmenter.fit_resample(X, y)
    assert augmenter.sampling_strategy_ == {label: int((y_[48:] == label).sum()) for label in (0, 1)}
    listed = augmenter.fit_resample(X.reshape(48, -1).tolist(), y.tolist())
    assert (type(listed[0]), listed[1]) == (list, y_.tolist())
    one_hot = augmenter.fit_resample(X, np.eye(3, dtype=np.int32)[y])[1]
    assert one_hot.dtype == np.int32
    assert (one_hot == np.eye(3)[y_]).all()
    with pytest.raises(ValueError, match="must name one class an image, got several or none"):
        augmenter.fit_resample(X, np.ones((48, 2), dtype=int) * [[1, 1]] * (np.arange(48) % 2)[:, None])
    with pytest.raises(ValueError, match="at least two classes, got 1 class"):
        augmenter.fit_resample(X, np.zeros(48, dtype=int))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, 2], r"must have one entry an image, 4, got the shape \(2,\)"),
        ([[1], [2], [3], [4]], "must have one entry an image, 4"),
        ([1, 2, float("nan"), 4], "must be known for each image, got NaN or None"),
        (["a", None, "b", "c"], "must be known for each image, got NaN or None"),
    ],
)
def test_groups_are_checked(groups, message):
    images = np.random.default_rng(0).random((4, 16, 16))
    with pytest.raises(ValueError, match=message):
        DiagNetClassifier(epochs=1).fit(images, [0, 1, 0, 1], groups=groups)


def test_a_list_of_images_is_their_array(phantoms):
    X, labels = phantoms
    fitted = DiagNetClassifier(positive_ratio=0.0, epochs=1, random_state=0).fit(list(X), list(labels))
    again = DiagNetClassifier(positive_ratio=0.0, epochs=1, random_state=0).fit(X, labels)
    np.testing.assert_array_equal(fitted.predict_proba(list(X)), again.predict_proba(X))
    assert fitted.neighbors_ is None


@pytest.mark.parametrize("names", [np.array([3, 7], np.int8), np.array(["b", "m"]), np.array(["b", "m"], object)])
def test_shares_of_zero_return_the_originals_and_the_labels_own_dtype(phantoms, names):
    X, labels = phantoms
    y = names[np.asarray(labels)]
    found, classes = AdversarialAugmenter(positive_ratio=0.0, negative_ratio=0.0).fit_resample(X, y)
    np.testing.assert_array_equal(found, X)
    np.testing.assert_array_equal(classes, y)
    assert classes.dtype == y.dtype
    more = AdversarialAugmenter(positive_ratio=0.5, negative_ratio=0.0, budget=5).fit_resample(X, y)[1]
    assert more.dtype == y.dtype
    assert len(more) > len(y)


def test_groups_may_be_names_of_different_kinds(phantoms):
    X, labels = phantoms
    groups = np.array(["P1", 2] * (len(X) // 2) + ["P1"] * (len(X) % 2), object)
    assert DiagNetClassifier(positive_ratio=0.0, epochs=1).fit(X, labels, groups=groups).classes_.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.float64, bool])
def test_the_augmenter_keeps_the_dtype(dtype):
    rng = np.random.default_rng(0)
    X = (rng.random((24, 8, 8)) * (1 if dtype is bool else 200)).round().astype(dtype)
    y = np.tile(["benign", "malignant"], 12)
    found, labels = AdversarialAugmenter(budget=5, random_state=0).fit_resample(X, y)
    assert (found.dtype, labels.dtype) == (X.dtype, y.dtype)
    assert np.array_equal(found[:24], X)
    assert len(found) > 24


def test_the_classifier_takes_data_frames():
    pandas = pytest.importorskip("pandas", reason="not installed: data frames were not tested")
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    X = rng.random((24, 64)) + y[:, None]
    frame = pandas.DataFrame(X, columns=[f"pixel {k}" for k in range(64)])
    settings = {"epochs": 1, "positive_ratio": 0.0, "network": TINY, "random_state": 0}
    by_frame = DiagNetClassifier(**settings).fit(frame, pandas.Series(y)).predict_proba(frame)
    assert np.array_equal(by_frame, DiagNetClassifier(**settings).fit(X, y).predict_proba(X))


STRATEGIES = [
    "auto",
    "minority",
    "not minority",
    "not majority",
    "all",
    {"b": 9, "c": 8},
    lambda y: {"b": y.count("a")},
]


NAMED = ["auto", "minority", "not minority", "not majority", "all"]


@pytest.mark.parametrize("strategy", [*NAMED, {"b": 9, "c": 8}, lambda y: {"b": y.count("a")}])
def test_sampling_strategies_are_imbalanced_learns(strategy):
    utils = pytest.importorskip("imblearn.utils", reason="not installed: its strategies were not compared")
    y = [*"aaaaaaaaabbbbbbcccc"]
    expected = utils.check_sampling_strategy(strategy, y, "over-sampling")
    assert samples_to_make(strategy, y) == dict.fromkeys("abc", 0) | expected
    two = [*"aaaaaaaaabbbbbb"]
    assert samples_to_make(0.8, two) == {"a": 0, **utils.check_sampling_strategy(0.8, two, "over-sampling")}


@pytest.mark.parametrize("strategy", ["most", {"d": 9}, {"a": 3}, 0.0, 0.1, 1.5])
def test_a_sampling_strategy_that_cannot_be_met_is_refused(strategy):
    with pytest.raises(ValueError, match="`sampling_strategy` must"):
        samples_to_make(strategy, [*"aaaaaaaaabbbbbb"])


def test_the_augmenter_balances_classes_and_keeps_negatives_apart(phantoms):
    X, y = phantoms
    X, y = np.concatenate([X[y == 0], X[y == 1][:10]]), np.repeat(["benign", "malignant"], [24, 10])
    augmenter = AdversarialAugmenter(sampling_strategy="auto", negative_ratio=0.2, budget=5, random_state=0)
    X_, y_ = augmenter.fit_resample(X, y)
    assert [(y_ == name).sum() for name in ("benign", "malignant")] == [24, 24]
    assert (augmenter.kinds_ >= 0).all()
    assert augmenter.sampling_strategy_ == {"benign": 0, "malignant": 14}
    assert augmenter.negatives_.shape == (7, *X.shape[1:])
    assert len(augmenter.negative_parents_) == 7
    named = augmenter.set_params(negative_class="neither of both")
    both, names = named.fit_resample(X, y)
    assert np.array_equal(both[named.kinds_ >= 0], X_)
    assert np.array_equal(both[named.kinds_ < 0], augmenter.negatives_)
    assert (names == "neither of both").sum() == 7
    with pytest.raises(ValueError, match="`negative_class` must be a class of the kind of `y`"):
        named.set_params(negative_class=2).fit_resample(X, y)


def test_a_grid_search_may_turn_the_augmenter_off(phantoms):
    pipeline = pytest.importorskip("imblearn.pipeline", reason="not installed: pipelines were not tested")
    X, y = phantoms
    model = pipeline.make_pipeline(AdversarialAugmenter(budget=2, random_state=0), LogisticRegression())
    grid = {"adversarialaugmenter__positive_ratio": [0.0, 0.2]}
    off = {"adversarialaugmenter": ["passthrough"]}
    found = GridSearchCV(model, [grid, off], cv=2).fit(X.reshape(48, -1), y)
    scores = found.cv_results_["mean_test_score"]
    assert scores[0] == scores[2]  # shares of 0 are no augmenter
