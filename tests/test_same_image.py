"""One image, stored in many ways, has one score; laws on the genuine mammograms: benchmarks/same_image.py."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "same_image.py"


@pytest.mark.skipif(importlib.util.find_spec("gdcm") is None, reason="the extra dicom is not installed")
def test_every_pair_scores_alike():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", "--quirks"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["quirks"]["pairs"] >= 30
    assert found["quirks"]["alike"] == found["quirks"]["pairs"], found["quirks"]["not_equal"]
    assert all(row["apart"] < 1e-6 for row in found["quirks"]["not_equal"])
