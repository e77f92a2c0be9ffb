"""Eqs. 1-2 and SRACOS's region as slow loops in the paper's symbols."""

import math


def d_cosine(x, y):
    """1 - cos; a zero vector is at distance 1."""
    xy = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    xx = math.sqrt(sum(float(a) ** 2 for a in x))
    yy = math.sqrt(sum(float(b) ** 2 for b in y))
    return 1.0 if xx == 0 or yy == 0 else 1.0 - xy / (xx * yy)


def d_angular(x, y):
    """arccos(cos) / pi; a zero vector is at distance 1/2."""
    return math.acos(max(-1.0, min(1.0, 1.0 - d_cosine(x, y)))) / math.pi


def P(decision_value):
    """Logistic sigmoid of the discriminator's signed distance (Sec. 3.1)."""
    return 1.0 / (1.0 + math.exp(-decision_value))


def eq1(x, P_x, X_c_plus, gamma, r1, d=d_cosine):
    """Objective of Eq. 1, to be maximized; the minimum runs over the positive neighbors so far."""
    nearest = min((d(x, x_i) for x_i in X_c_plus), default=math.inf)
    return P_x - gamma * max(0.0, r1 - nearest)


def eq2(x, P_x, X_c_minus, X_c, gamma, r2, r3, d=d_cosine):
    """Objective of Eq. 2, to be minimized."""
    nearest_minus = min((d(x, x_j) for x_j in X_c_minus), default=math.inf)
    nearest = min(d(x, x_i) for x_i in X_c)
    return P_x + gamma * max(0.0, r2 - nearest_minus) + gamma * max(0.0, nearest - r3)
