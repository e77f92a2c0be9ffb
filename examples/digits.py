"""Adversarial neighbors of handwritten digits: any images will do, not masses alone.

python examples/digits.py
"""

import numpy as np
from sklearn.datasets import load_digits

from diagnet import AdversarialAugmenter

digits = load_digits()
few = np.isin(digits.target, (3, 8)) & (np.arange(len(digits.target)) < 600)
X, y = digits.images[few], digits.target[few]  # (n, 8, 8), grey values 0 to 16

augmenter = AdversarialAugmenter(budget=50, random_state=0)
X_, y_ = augmenter.fit_resample(X, y)

for kind, name in ((1, "positive"), (-1, "negative")):
    made = X_[augmenter.kinds_ == kind]
    parents = X[augmenter.parents_[augmenter.kinds_ == kind]]
    print(f"{len(made)} {name} neighbors, {np.abs(made - parents).mean():.2f} grey levels from their digits")
