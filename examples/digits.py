"""Adversarial neighbors of handwritten digits: any images will do, not masses alone.

python examples/digits.py
"""

import numpy as np
from sklearn.datasets import load_digits

from diagnet import AdversarialAugmenter

digits = load_digits()
few = np.isin(digits.target, (3, 8)) & (np.arange(len(digits.target)) < 600)
X, y = digits.images[few], digits.target[few]  # (n, 8, 8), grey values 0 to 16

augmenter = AdversarialAugmenter(negative_ratio=0.2, budget=50, random_state=0)
X_, y_ = augmenter.fit_resample(X, y)

# Negative neighbors are of no class: they do not come back among the digits.
for name, made, parents in (
    ("positive", X_[len(X) :], augmenter.parents_[len(X) :]),
    ("negative", augmenter.negatives_, augmenter.negative_parents_),
):
    print(f"{len(made)} {name} neighbors, {np.abs(made - X[parents]).mean():.2f} grey levels from their digits")
