"""Each array shape that crosses a file border, named once (jaxtyping; checked in the test run)."""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

Image = Float32[np.ndarray, "height width"]  # grey values in [0, 1]
Images = Float32[np.ndarray, "image height width"]  # grey values in [0, 1]
Vectors = Float[np.ndarray, "point feature"]
Labels = Int[np.ndarray, "point"]  # class index; benign = 0, malignant = 1
Kinds = Int8[np.ndarray, "point"]  # 0 original, +1 positive neighbour, -1 negative neighbour


def as_array(values: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of a list, an array or a PyTorch tensor (which need not be installed), wherever it lies."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
