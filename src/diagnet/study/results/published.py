"""What the paper prints in its Table 1, beside which a study sets its own figures."""

from collections.abc import Mapping
from typing import TypedDict


class Published(TypedDict):
    """A line of the paper's Table 1: fractions, as printed."""

    method: str
    accuracy: str | None
    auc: str | None


PROTOCOL = (
    "paper: one split of INbreast (full-field digital) by image, 80 % to train, what +- is not said; here: patient "
    "folds of the masses given, +- over folds and repeats, interval by patient"
)
# By the arm that is the same method, or the nearest to it; those without an arm are named for their authors.
PUBLISHED: Mapping[str, Published] = {
    "diagnet": {"method": "proposed DiagNet", "accuracy": "0.934 +- 0.019", "auc": "0.950 +- 0.02"},
    "zhu-2017": {"method": "Zhu et al. 2017", "accuracy": "0.90", "auc": "0.89"},
    "features-svm": {"method": "Domingues et al. 2012 (hand-crafted features)", "accuracy": "0.89", "auc": None},
    "dhungel-2016": {"method": "Dhungel et al. 2016", "accuracy": "0.91", "auc": "0.76"},
    "shams-2018": {"method": "Shams et al. 2018", "accuracy": "0.93", "auc": "0.92"},
    "li-2019": {"method": "Li et al. 2019", "accuracy": "0.88", "auc": "0.92"},
}
