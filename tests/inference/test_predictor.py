"""The model as a user of Python meets it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diagnet
from diagnet.errors import DataError
from diagnet.inference.assessment import assess


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 160), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


BOX = (60.0, 70.0, 100.0, 110.0)


def test_a_path_a_text_and_an_array_give_one_score(finished_run: Path, picture: Path):
    model = diagnet.load_model(str(finished_run), engine="torch")
    (by_path,) = model.predict(picture, [BOX])
    (by_text,) = model.predict(str(picture), [BOX])
    (by_array,) = model.predict(np.asarray(Image.open(picture), dtype=np.float32) / 255, [BOX])
    (by_command,) = assess(model, picture, [BOX])
    scores = {each.malignancy for each in (by_path, by_text, by_command)}
    assert len(scores) == 1
    assert by_array.malignancy == pytest.approx(by_path.malignancy, abs=1e-6)
    assert by_array.input_sha256 == by_path.input_sha256


@pytest.mark.usefixtures("unchecked_shapes")
def test_arrays_of_another_range_or_shape_are_refused(finished_run: Path):
    model = diagnet.load_model(finished_run, engine="torch")
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got values outside"):
        model.predict(np.full((50, 50), 255.0, np.float32), [BOX])
    with pytest.raises(DataError, match=r"2-dimensional and of floats, got uint8 of shape \(50, 50\)"):
        model.predict(np.zeros((50, 50), np.uint8), [BOX])
    with pytest.raises(DataError, match="2-dimensional"):
        model.predict(np.zeros((1, 50, 50), np.float32), [BOX])
