"""When a model does not call a mass: its score is too near to the operating point, or its networks disagree."""

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, Field

from diagnet.evaluation.calibration import PointScores

BAND_SHARE = 0.1  # of the validation masses lies in the band
LEAST_HALF_WIDTH = 0.02  # a network that tells nothing puts all masses within a hair of the operating point


class Abstention(BaseModel, frozen=True, extra="forbid"):
    """Limits within which no call is made. Runs from before they were stored have these defaults."""

    half_width: float = Field(0.05, ge=0, le=1, description="Half the width of the band around the operating point.")
    dissent: float = Field(1 / 3, ge=0, le=1, description="Fraction of the networks that may call a mass otherwise.")


def band_half_width(malignancy: PointScores, threshold: float) -> float:
    """Half the width of the band around the operating point that holds a tenth of these (validation) masses.

    They are the ones that a small change of the network, the box or the patients would call otherwise.

    Returns:
        The 10 % quantile of the distance to `threshold`, at least 0.02; the default where there is no mass.
    """
    if not len(malignancy):
        return Abstention().half_width
    return max(float(np.quantile(np.abs(malignancy - threshold), BAND_SHARE)), LEAST_HALF_WIDTH)


def reason_to_abstain(
    malignancy: float, each: Float[np.ndarray, "network"], threshold: float, limits: Abstention
) -> str:
    """Say why a mass is not called, "" where it is.

    Args:
        malignancy: the model's calibrated score.
        each: the same by each network.
        threshold: malignancy from which a mass is called malignant.
        limits: of the model.
    """
    if abs(malignancy - threshold) < limits.half_width:
        low, high = max(threshold - limits.half_width, 0.0), min(threshold + limits.half_width, 1.0)
        return (
            f"malignancy {100 * malignancy:.1f} % lies between {100 * low:.1f} and {100 * high:.1f} %, too near to the"
            f" operating point of {100 * threshold:.1f} % to call"
        )
    n_dissenting = int(((each >= threshold) != (malignancy >= threshold)).sum())
    if n_dissenting > limits.dissent * len(each):
        return f"{n_dissenting} of {len(each)} networks call it otherwise than their mean"
    return ""
