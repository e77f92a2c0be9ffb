import csv
from pathlib import Path

import numpy as np
import pytest

from diagnet.data.box import Box
from diagnet.data.breast import find_breast
from diagnet.data.image import read_image
from diagnet.data.mammogram import scaled_over_breast
from diagnet.data.suitability import BoxLimits
from dicom_files import drawn_breast


@pytest.mark.parametrize(("side", "wall"), [("L", "left"), ("R", "right")])
@pytest.mark.parametrize("size", [(160, 128), (1001, 703)])
def test_the_breast_and_its_chest_wall(side: str, wall: str, size: tuple[int, int]) -> None:
    drawn = drawn_breast(side, size)
    breast = find_breast(scaled_over_breast(drawn))
    assert breast.chest_wall == wall
    assert breast.share == pytest.approx(float((drawn > 0).mean()), abs=0.04)
    inside = Box(5.0, 70.0, 45.0, 100.0) if side == "L" else Box(size[1] - 45.0, 70.0, size[1] - 5.0, 100.0)
    if size[0] < 200:
        assert breast.share_of(inside) == 1
    corner = Box(size[1] - 20.0, 0.0, float(size[1]), 15.0) if side == "L" else Box(0.0, 0.0, 20.0, 15.0)
    assert breast.share_of(corner) == 0


def test_a_label_in_the_air_is_no_breast() -> None:
    drawn = drawn_breast()
    drawn[5:15, 110:125] = 4000
    breast = find_breast(scaled_over_breast(drawn))
    assert breast.share_of(Box(108.0, 3.0, 127.0, 17.0)) == 0
    assert breast.chest_wall == "left"


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 600), (3, 5), (300, 300)])
def test_a_picture_of_one_grey_has_no_chest_wall(value: float, size: tuple[int, int]) -> None:
    breast = find_breast(np.full(size, value, np.float32))
    assert breast.chest_wall == ""
    assert 0 <= breast.share_of(Box.whole(size[1], size[0])) <= 1


def test_real_masses_lie_on_the_breast(shared_masses: Path) -> None:
    """The limits of BoxLimits leave every mass of CBIS-DDSM alone; a sample of them here."""
    with (shared_masses / "mammograms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::40]
    for row in rows:
        breast = find_breast(read_image(shared_masses / row["image"]))
        x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
        assert breast.share_of(Box(x0, y0, x1, y1)) >= BoxLimits().min_breast_share
        assert breast.chest_wall  # one side is always clear
