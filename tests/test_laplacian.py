"""The signed Laplacian of a linear score."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from diagnet import signed_graph
from diagnet.laplacian import SignedLaplacianClassifier, edge_spread, joined


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # checks that need pandas say so
@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")  # a check passes a column as `y`
@pytest.mark.usefixtures("unchecked_shapes")  # the checks pass what annotations forbid
@parametrize_with_checks([SignedLaplacianClassifier()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def points(n=40, d=5, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d))
    return vectors, (vectors[:, 0] + 0.7 * rng.standard_normal(n) > 0).astype(int), rng


def test_the_spread_is_the_mean_over_the_edges():
    vectors, _, rng = points(12)
    weights = rng.standard_normal((12, 12)) * (rng.uniform(size=(12, 12)) < 0.3)
    slow, total = np.zeros((5, 5)), 0.0
    for i, j in zip(*np.nonzero(weights), strict=True):
        move = vectors[i] - np.sign(weights[i, j]) * vectors[j]
        slow += abs(weights[i, j]) * np.outer(move, move)
        total += abs(weights[i, j])
    np.testing.assert_allclose(edge_spread(vectors, csr_array(weights)), slow / total, atol=1e-12)


def test_no_edge_is_a_logistic_regression():
    vectors, labels, _ = points()
    ours = SignedLaplacianClassifier(strength=3.0, C=0.5).fit(vectors, labels)
    theirs = LogisticRegression(C=0.5, tol=1e-8).fit(vectors, labels)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(vectors), theirs.predict_proba(vectors), atol=1e-4)


def test_the_solution_has_the_least_objective():
    vectors, labels, _ = points(30)
    graph = signed_graph(vectors, labels)
    labels[20:] = -1
    strength, ridge, own = 0.4, 0.5, slice(0, 20)
    model = SignedLaplacianClassifier(strength, C=1 / ridge, unlabelled=-1).fit(vectors, labels, graph=graph)

    def objective(weight, bias):
        scores = vectors @ weight
        edges = graph.signs.tocoo()
        moves = scores[edges.coords[0]] - np.sign(edges.data) * scores[edges.coords[1]]
        entropy = np.logaddexp(0, -(2 * labels[own] - 1) * (scores[own] + bias)).mean()
        return entropy + strength * np.mean(moves**2) + ridge * weight @ weight / (2 * 20)

    best = objective(model.coef_[0], model.intercept_[0])
    for step in (1e-2, 1e-3):
        for k in range(5):
            for sign in (-1, 1):
                move = sign * step * np.eye(5)[k]
                assert objective(model.coef_[0] + move, model.intercept_[0]) > best
        assert objective(model.coef_[0], model.intercept_[0] + step) > best


def test_edges_make_scores_agree_or_disagree():
    vectors, labels, _ = points()
    pair = np.zeros((40, 40))
    for sign in (1, -1):
        pair[0, 1] = sign
        free, bound = (SignedLaplacianClassifier(s).fit(vectors, labels, graph=pair) for s in (0.0, 1e4))
        apart = [abs((model.coef_ @ (vectors[0] - sign * vectors[1]))[0]) for model in (free, bound)]
        assert apart[1] < 0.01 < apart[0]


def test_rows_without_labels_count_through_their_edges_alone():
    vectors, labels, _ = points()
    labels[25:] = -1
    graph = joined(np.r_[np.arange(25), np.arange(15)])  # each of the last rows shows what one of the first does
    model = SignedLaplacianClassifier(unlabelled=-1)
    alone = SignedLaplacianClassifier().fit(vectors[:25], labels[:25]).coef_
    np.testing.assert_allclose(model.fit(vectors, labels).coef_, alone)
    assert not np.allclose(model.fit(vectors, labels, graph=graph).coef_, alone, atol=1e-2)


def test_known_edges_help_where_labels_are_few():
    rng, gained = np.random.default_rng(0), []
    for _ in range(10):  # two views share what the class depends on, and differ in the rest
        truth = rng.integers(0, 2, 300)
        shared = (2 * truth - 1)[:, None] * 0.7 + rng.standard_normal((300, 2))
        views = [
            np.hstack([shared + 0.2 * rng.standard_normal((300, 2)), rng.standard_normal((300, 30))]) for _ in "ab"
        ]
        rows, labels = np.concatenate(views), np.full(600, -1)
        labels[:20] = truth[:20]
        graph = joined(np.tile(np.arange(300), 2))
        scores = [
            model.fit(rows, labels, graph=graph).decision_function(views[0][20:])
            for model in (SignedLaplacianClassifier(strength, unlabelled=-1) for strength in (0.0, 0.3))
        ]
        gained.append(roc_auc_score(truth[20:], scores[1]) - roc_auc_score(truth[20:], scores[0]))
    assert np.mean(gained) > 0.02


def test_points_of_one_name_are_joined():
    found = joined(["a", "b", "a", "c", "a"]).signs.toarray()
    expected = np.zeros((5, 5), int)
    expected[np.ix_([0, 2, 4], [0, 2, 4])] = 1
    np.fill_diagonal(expected, 0)
    np.testing.assert_array_equal(found, expected)
    assert joined([]).n_points == 0


def test_labels_may_be_words():
    vectors, labels, _ = points()
    words = np.array(["benign", "malignant"])[labels]
    words[:5] = "?"
    model = SignedLaplacianClassifier(unlabelled="?").fit(vectors, words)
    assert model.classes_.tolist() == ["benign", "malignant"]
    assert set(model.predict(vectors)) <= {"benign", "malignant"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"graph": np.zeros((3, 3))}, "`graph` must be 40 x 40"),
        ({"graph": np.full((40, 40), np.nan)}, "`graph` must hold finite numbers"),
        ({"y": np.full(40, -1)}, "`y` must have labels of two classes at least, got 0 class"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(change, told):
    vectors, labels, _ = points()
    with pytest.raises(ValueError, match=told):
        SignedLaplacianClassifier(unlabelled=-1).fit(vectors, **{"y": labels, **change})


def test_numbers_out_of_range_are_refused():
    vectors, labels, _ = points()
    for wrong in ({"strength": -0.1}, {"C": 0.0}, {"strength": np.nan}):
        with pytest.raises(ValueError, match="`strength` must be at least 0 and `C` above 0"):
            SignedLaplacianClassifier(**wrong).fit(vectors, labels)
