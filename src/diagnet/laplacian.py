"""The signed Laplacian of a linear score: cross-entropy, and (f_i - s_ij f_j)^2 over edges of any rows."""

from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array, diags_array, issparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from diagnet.graph import SignedGraph

_LEAST = 1e-12  # ridge beside which a classifier has none: the problem would have no single answer


def joined(names: ArrayLike) -> SignedGraph:
    """Attract all points of one name to each other: views of one lesion, flips of one image.

    Args:
        names: of each point; what names are is free.

    Returns:
        A graph with an edge both ways between any two points of a name.
    """
    numbers = np.unique(np.asarray(names), return_inverse=True)[1]
    shape = (len(numbers), int(numbers.max(initial=-1)) + 1)
    member = csr_array((np.ones(len(numbers), np.int8), (np.arange(len(numbers)), numbers)), shape=shape)
    both = csr_array(member @ member.T)
    both.setdiag(0)
    both.eliminate_zeros()
    return SignedGraph(both)


def edge_spread(vectors: Float64[np.ndarray, "n d"], signs: Any) -> Float64[np.ndarray, "d d"]:
    """Mean of |w_ij| (x_i - s_ij x_j)(x_i - s_ij x_j)' over edges, as X' L X with the signed Laplacian L.

    For a linear score f = w'x, w' of it w is the mean of (f_i - s_ij f_j)^2.

    Args:
        vectors: X, one row a point.
        signs: (n, n) sparse W; the sign s_ij of an entry says whether it attracts, its size how much it counts.

    Source: L = D - (W + W') with D the sums of |w| by row and column; Kunegis et al., Spectral analysis of signed
        graphs, SDM 2010.
    """
    weights = csr_array(signs).astype(np.float64)
    total = abs(weights).sum()
    if total == 0:
        return np.zeros((vectors.shape[1], vectors.shape[1]))
    degree = np.asarray(abs(weights).sum(axis=0)).ravel() + np.asarray(abs(weights).sum(axis=1)).ravel()
    laplacian = diags_array(degree) - weights - weights.T
    return np.asarray(vectors.T @ (laplacian @ vectors) / total)


class SignedLaplacianClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A logistic regression whose scores agree along attracting edges and disagree along repelling ones.

    J = mean over labelled rows of cross-entropy + strength * mean over edges of (f_i - s_ij f_j)^2
        + |w|^2 / (2 C n), n labelled rows. Rows without a label count through their edges.

    With 85 labelled masses and edges between the views of each lesion it gains 0.01 to 0.02 AUC; with a thousand it
    gains nothing (docs/evidence/feature-space.md). Repelling edges ask for f_i = -f_j, so features should be centered.

    Args:
        strength: of the edges. 0.3 was chosen most often with few labels.
        C: inverse of the ridge, as in scikit-learn.
        unlabelled: value in `y` of rows without a label, such as -1 or "?"; None: all rows have one.
        max_iter: most iterations of the solver.

    Attributes:
        classes_: labels, sorted.
        coef_: weights, (1, d) for two classes, (classes, d) for more.
        intercept_: of each row of `coef_`.
        n_iter_: iterations taken.

    Source: the paper's signed graph for a linear score; Belkin, Niyogi and Sindhwani, Manifold regularization, JMLR
        2006.
    """

    def __init__(
        self,
        strength: float = 0.3,
        C: float = 1.0,  # noqa: N803 -- scikit-learn's name
        *,
        unlabelled: Any = None,
        max_iter: int = 1000,
    ) -> None:
        self.strength = strength
        self.C = C
        self.unlabelled = unlabelled
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, graph: Any = None) -> "SignedLaplacianClassifier":  # noqa: N803
        """Fit to rows with labels, and to edges between any rows.

        Args:
            X: (n, d), one row a point.
            y: a label for each row, or `unlabelled`.
            graph: a `SignedGraph`, as from `joined` or `signed_graph`, or an (n, n) matrix, sparse or dense; None: no
                edges.

        Raises:
            ValueError: fewer than two classes have labels, a number is out of range, or shapes differ.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        if not (self.strength >= 0 and self.C > 0):
            raise ValueError(f"`strength` must be at least 0 and `C` above 0, got {self.strength} and {self.C}")
        has_label = _has_label(labels, self.unlabelled)
        self.classes_ = np.unique(labels[has_label])
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must have labels of two classes at least, got {len(self.classes_)} class(es)")
        ridge = max(1 / self.C, _LEAST) * np.eye(rows.shape[1])
        spread = edge_spread(rows, _signs(graph, len(rows)))
        root = np.linalg.cholesky(ridge + 2 * self.strength * has_label.sum() * spread)
        # With w = root'^-1 v the whole quadratic term is v'v / 2: an ordinary logistic regression of turned rows.
        turned = solve_triangular(root, rows[has_label].T, lower=True).T
        model = LogisticRegression(C=1.0, max_iter=self.max_iter, tol=1e-6).fit(turned, labels[has_label])
        self.coef_ = solve_triangular(root, model.coef_.T, lower=True, trans="T").T
        self.intercept_, self.n_iter_ = model.intercept_, model.n_iter_
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 -- scikit-learn's name
        """Return log-odds of the second class, (n,), or with more classes a score of each, (n, classes)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        scores = np.asarray(rows @ self.coef_.T + self.intercept_)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 -- scikit-learn's name
        """Return the probability of each class, (n, classes)."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], axis=1)
        return np.asarray(softmax(scores, axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 -- scikit-learn's name
        """Return the most probable class of each row, one of `classes_`."""
        check_is_fitted(self)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])


def _has_label(y: NDArray[Any], unlabelled: Any) -> NDArray[np.bool_]:
    if unlabelled is None or (y.dtype.kind in "US") != isinstance(unlabelled, str):
        return np.ones(len(y), bool)
    return np.asarray(y != unlabelled)


def _signs(graph: Any, n: int) -> csr_array:
    if graph is None:
        return csr_array((n, n))
    given = graph.signs if isinstance(graph, SignedGraph) else graph
    signs = csr_array(given if issparse(given) else np.asarray(given))
    if signs.shape != (n, n):
        raise ValueError(f"`graph` must be {n} x {n}, one row and column a row of `X`, got {signs.shape}")
    if not np.isfinite(signs.data).all():
        raise ValueError("`graph` must hold finite numbers, got NaN or infinity")
    return signs
