"""Slow loops in the papers' symbols: what the fast code is compared with.

Eqs. 3-6 of the paper, and the AUCs of clustered data by Obuchowski. Eqs. 1-2: reference_neighbors.
"""

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


def obuchowski(scores, targets, clusters):
    """AUCs theta^r of several scores of the same points, and their covariances S^rs, for points in clusters.

    Source: Obuchowski, Nonparametric analysis of clustered ROC curve data, Biometrics 1997.
    """
    affected = [k for k in range(len(targets)) if targets[k]]  # its X_ij
    unaffected = [k for k in range(len(targets)) if not targets[k]]  # its Y_ik
    M, N = len(affected), len(unaffected)
    names = sorted(set(clusters))
    I = len(names)  # noqa: E741
    I_10 = len({clusters[x] for x in affected})
    I_01 = len({clusters[y] for y in unaffected})

    def psi(x, y):
        return 1.0 if x > y else 0.5 if x == y else 0.0

    theta, X_sums, Y_sums = [], [], []  # the sums, for each score: V_10(X_i.) - m_i theta, V_01(Y_i.) - n_i theta
    for score in scores:
        V_10 = {x: sum(psi(score[x], score[y]) for y in unaffected) / N for x in affected}
        V_01 = {y: sum(psi(score[x], score[y]) for x in affected) / M for y in unaffected}
        theta.append(sum(V_10.values()) / M)
        X_sums.append([sum(V_10[x] - theta[-1] for x in affected if clusters[x] == i) for i in names])
        Y_sums.append([sum(V_01[y] - theta[-1] for y in unaffected if clusters[y] == i) for i in names])

    def S(r, s):
        S_10 = I_10 / ((I_10 - 1) * M) * sum(X_sums[r][i] * X_sums[s][i] for i in range(I))
        S_01 = I_01 / ((I_01 - 1) * N) * sum(Y_sums[r][i] * Y_sums[s][i] for i in range(I))
        S_11 = I / (I - 1) * sum(X_sums[r][i] * Y_sums[s][i] for i in range(I))
        S_11_turned = I / (I - 1) * sum(X_sums[s][i] * Y_sums[r][i] for i in range(I))
        return S_10 / M + S_01 / N + (S_11 + S_11_turned) / (M * N)

    return theta, [[S(r, s) for s in range(len(scores))] for r in range(len(scores))]
