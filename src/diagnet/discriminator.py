"""The discriminator P(x; X_c, X_c±): a class-balanced SVM on a growing kernel matrix (Sec. 3.1)."""

import numpy as np
from jaxtyping import Float64
from scipy.special import expit

_MAX_STEPS = 1_000_000  # a bound that no real problem reaches
_TINY = 1e-12


class Discriminator:
    """Tell originals from generated points with a support vector machine whose kernel matrix grows (reading 11).

    The dual problem, beta_i = y_i alpha_i with y = +1 for originals and -1 for generated points, is

        min 1/2 beta' K beta - y' beta,   0 <= y_i beta_i <= C w_i,   sum beta = 0,

    with class-balanced weights w (each class weighs half). It is solved by sequential minimal optimization, always
    on the pair of points that violates optimality most (Keerthi and others 2001), from the last solution.

    Args:
        kernel: kernel matrix of the originals.
        capacity: how many generated points there will be at most.
        n_pool: the first generated points, which weigh `1 - late_share` of all as soon as there are later ones; by
            default all weigh alike.
        late_share: what the later ones weigh together, in (0, 1).
        cost: C.
        tolerance: largest violation of the optimality conditions, in units of the decision value.
    """

    def __init__(
        self,
        kernel: Float64[np.ndarray, "original original"],
        capacity: int,
        *,
        n_pool: int = 0,
        late_share: float = 0.5,
        cost: float = 1.0,
        tolerance: float = 1e-3,
    ) -> None:
        self._n_originals = self._n_points = len(kernel)
        size = self._n_originals + capacity
        self._kernel = np.zeros((size, size))
        self._kernel[: self._n_originals, : self._n_originals] = kernel
        self._signs = np.where(np.arange(size) < self._n_originals, 1.0, -1.0)  # y
        self._duals = np.zeros(size)  # beta
        self._bounds = np.full(size, np.inf)  # C w, those of the last solution
        self._bias, self._is_fitted = 0.0, True
        self._cost, self._tolerance = cost, tolerance
        self._n_pool, self._late_share = n_pool, late_share

    @property
    def n_points(self) -> int:
        """Originals and generated points known at present."""
        return self._n_points

    def add(self, row: Float64[np.ndarray, "point"], own: float) -> None:
        """Learn one more generated point.

        Args:
            row: its kernel values to all known points.
            own: its kernel value to itself.
        """
        n = self._n_points
        self._kernel[n, :n] = row
        self._kernel[:n, n] = row
        self._kernel[n, n] = own
        self._duals[n], self._bounds[n] = 0.0, np.inf
        self._n_points, self._is_fitted = n + 1, False

    def decision_value(self, row: Float64[np.ndarray, "point"]) -> float:
        """Return the signed distance of a point, > 0 on the originals' side.

        Before the first generated point there is nothing to tell apart: 0.

        Args:
            row: the point's kernel values to all known points.
        """
        self._fit()
        return float(row @ self._duals[: self._n_points]) + self._bias

    def _fit(self) -> None:
        if self._is_fitted:
            return
        n, originals = self._n_points, self._n_originals
        self._is_fitted = True
        if n == originals:
            self._duals[:n], self._bias = 0.0, 0.0
            return
        duals, bounds, signs = self._duals[:n], self._bounds[:n], self._signs[:n]
        is_bounded = np.abs(duals) >= bounds
        bounds[:originals] = self._cost * n / (2 * originals)
        bounds[originals:] = self._cost * n / (2 * (n - originals))
        late = originals + self._n_pool
        if originals < late < n:
            bounds[originals:late] *= (1 - self._late_share) * (n - originals) / self._n_pool
            bounds[late:] *= self._late_share * (n - originals) / (n - late)
        duals[is_bounded] = (signs * bounds)[is_bounded]  # most points move with their bounds
        _make_feasible(duals, bounds, originals)
        self._bias = _solve(self._kernel[:n, :n], signs, bounds, duals, self._tolerance)


def probability(decision_value: float) -> float:
    """P(x; X_c, X_c±), the logistic sigmoid of the signed distance (Sec. 3.1)."""
    return float(expit(decision_value))


def _make_feasible(duals: Float64[np.ndarray, "point"], bounds: Float64[np.ndarray, "point"], originals: int) -> None:
    """Bring the last solution into the new bounds, with a sum of zero; in place."""
    np.clip(duals, -bounds, bounds, out=duals)
    surplus = float(duals.sum())
    if surplus > 0:  # the newest generated point is where the multipliers are missing
        taken = min(surplus, float(bounds[-1] + duals[-1]))
        duals[-1] -= taken
        if surplus > taken:
            duals[:originals] *= 1 - (surplus - taken) / duals[:originals].sum()
    elif surplus < 0:
        duals[originals:] *= 1 - surplus / duals[originals:].sum()


def _solve(
    kernel: Float64[np.ndarray, "point point"],
    signs: Float64[np.ndarray, "point"],
    bounds: Float64[np.ndarray, "point"],
    duals: Float64[np.ndarray, "point"],
    tolerance: float,
) -> float:
    """Solve the dual problem in place, from a feasible start, and return the bias."""
    lowest, highest = np.minimum(signs, 0) * bounds, np.maximum(signs, 0) * bounds
    errors = signs - kernel @ duals  # the negative gradient with respect to beta
    closed_up = np.where(duals < highest, 0.0, -np.inf)  # where beta cannot grow
    closed_down = np.where(duals > lowest, 0.0, np.inf)  # where beta cannot shrink
    growing, shrinking, change = np.empty((3, len(duals)))
    # Single numbers are read and written below: lists are faster at that than arrays.
    beta, low, high, diagonal = duals.tolist(), lowest.tolist(), highest.tolist(), kernel.diagonal().tolist()
    for _ in range(_MAX_STEPS):
        np.add(errors, closed_up, out=growing)
        np.add(errors, closed_down, out=shrinking)
        i, j = int(growing.argmax()), int(shrinking.argmin())
        gap = growing.item(i) - shrinking.item(j)
        if gap < tolerance:
            break
        curvature = max(diagonal[i] + diagonal[j] - 2 * kernel.item(i, j), _TINY)
        step = min(gap / curvature, high[i] - beta[i], beta[j] - low[j])
        for k, value in ((i, beta[i] + step), (j, beta[j] - step)):
            if high[k] - value <= _TINY * (high[k] - low[k]):
                value = high[k]
            elif value - low[k] <= _TINY * (high[k] - low[k]):
                value = low[k]
            beta[k] = value
            closed_up[k] = 0.0 if value < high[k] else -np.inf
            closed_down[k] = 0.0 if value > low[k] else np.inf
        np.subtract(kernel[i], kernel[j], out=change)
        change *= step
        errors -= change
    duals[:] = beta
    free = (closed_up == 0) & (closed_down == 0)
    if free.any():
        return float(errors[free].mean())
    return (growing.item(i) + shrinking.item(j)) / 2
