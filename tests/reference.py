"""Eqs. 3-6 as slow loops in the paper's symbols: what the fast code is compared with. Eqs. 1-2: reference_neighbors."""

import math

import numpy as np


def d(a, b):
    """Angular cosine distance of the readings: 1 - cos; a zero vector is at right angles to everything."""
    norms = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return 1.0 - (sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms > 0 else 0.0)


def phi(X, y, kinds, n_plus, n_minus):
    """Eq. 3: +1 for the n+ nearest of {X_c, X_c+}, -1 for the n- nearest of {X_-c, X_c-}; rows are anchors."""
    N = len(X)
    matrix = np.zeros((N, N), dtype=np.int8)
    for i in range(N):
        if kinds[i] < 0:
            continue  # reading 5
        own = [j for j in range(N) if j != i and y[j] == y[i] and kinds[j] >= 0]
        other = [j for j in range(N) if y[j] != y[i] or (y[j] == y[i] and kinds[j] < 0)]
        for j in sorted(own, key=lambda j: d(X[i], X[j]))[:n_plus]:
            matrix[i, j] = 1
        for j in sorted(other, key=lambda j: d(X[i], X[j]))[:n_minus]:
            matrix[i, j] = -1
    return matrix


def J_g(H, Phi, m=1.0, dist=d):
    """Eq. 4, summed."""
    total = 0.0
    for i in range(len(H)):
        for j in range(len(H)):
            if Phi[i, j] > 0:
                total += Phi[i, j] * dist(H[i], H[j])
            elif Phi[i, j] < 0:
                total += max(0.0, m + Phi[i, j] * dist(H[i], H[j]))
    return total


def J_l(logits, y):
    """Eq. 5; a label of -1 is left out (reading 7)."""
    total, N = 0.0, 0
    for scores, label in zip(logits, y, strict=True):
        if label < 0:
            continue
        N += 1
        for c in range(len(scores)):
            delta = 1 if c == label else 0
            total += delta * (scores[c] - math.log(sum(math.exp(s) for s in scores)))
    return -total / N


def J(logits, y, H, Phi, lam, m=1.0):
    """Eq. 6, with J_g divided by the number of anchors (reading 8)."""
    anchors = sum(1 for i in range(len(H)) if any(Phi[i, j] != 0 for j in range(len(H))))
    return J_l(logits, y) + lam * J_g(H, Phi, m) / max(1, anchors)
