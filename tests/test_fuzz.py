import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from diagnet.data.image import read_picture
from diagnet.errors import DiagNetError
from dicom_files import drawn_breast, write_dicom

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
SIDES = st.lists(st.sampled_from(["A", "P", "L", "R", "F"]), max_size=3)
NUMBERS = st.one_of(st.integers(0, 2**16 - 1), st.sampled_from([0, 1, 7, 8, 16, 128, 159, 160, 161, 65535]))
DECIMALS = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0, 1e-30, 1e30, -1, 1])).map(lambda x: f"{x:.6g}")
ELEMENTS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"), NUMBERS),
    **dict.fromkeys(("PixelPaddingValue", "PixelPaddingRangeLimit"), NUMBERS),
    "PixelRepresentation": st.integers(0, 3),
    **dict.fromkeys(("RescaleSlope", "RescaleIntercept", "EstimatedRadiographicMagnificationFactor"), DECIMALS),
    **dict.fromkeys(
        ("WindowCenter", "WindowWidth", "PixelSpacing", "ImagerPixelSpacing"), st.lists(DECIMALS, max_size=3)
    ),
    "VOILUTFunction": st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", "other"]),
    "PhotometricInterpretation": st.sampled_from(["MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR"]),
    "PresentationLUTShape": st.sampled_from(["IDENTITY", "INVERSE", "other"]),
    **dict.fromkeys(
        ("PatientOrientation", "Laterality"), st.lists(st.sampled_from(["A", "P", "L", "R", "F"]), max_size=3)
    ),
    "NumberOfFrames": st.sampled_from(["", "0", "1", "2", "-1"]),
}


@given(st.fixed_dictionaries({}, optional={name: st.one_of(st.none(), values) for name, values in ELEMENTS.items()}))
@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_elements_give_grey_values_or_one_line(tmp_path: Path, elements: dict[str, Any]) -> None:
    path = tmp_path / "image.dcm"
    try:
        write_dicom(path, drawn_breast(), **elements)
    except Exception:  # what pydicom cannot even write
        assume(False)
    try:
        picture = read_picture(path)
    except DiagNetError:
        return
    assert np.isfinite(picture.pixels).all()
    assert picture.pixels.min() >= 0
    assert picture.pixels.max() <= 1


@pytest.mark.skipif(not SCRIPT.is_file(), reason="benchmarks/ is not there: mutated files were not tried")
def test_mutated_files_give_scores_or_one_line() -> None:
    """500 here; `DIAGNET_FUZZ=10000`, or `python benchmarks/fuzz.py --n 10000`, in a nightly run."""
    n = os.environ.get("DIAGNET_FUZZ", "500")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--n", n, "--json"], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout)
    assert figures["findings"] == []
    assert figures["inputs"] == int(n)
    assert figures["decisions"]["refused"] > int(n)
    assert len(figures["decisions"]) >= 2  # some are still scored
    assert figures["slowest"]["seconds"] < 5
    assert figures["largest_growth_mb"] < 1024
    # libjpeg, inside gdcm, speaks of broken JPEG in words of its own; anything else must be silent.
    assert figures["lines_on_the_terminal"] == figures["lines_of_libjpeg"]
