import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from diagnet.data.image import read_image
from diagnet.data.mass import Mass
from diagnet.data.preprocessing import Preprocessing, stored_preprocessing
from diagnet.data.roi import RoiSettings, cut_roi
from diagnet.errors import RunFolderError
from dicom_files import drawn_breast, lut, write_dicom

NOW = Preprocessing(roi=RoiSettings(size=32))


def facts(**changes):
    stored = NOW.model_dump(mode="json")
    return {"roi": stored["roi"], "preprocessing": stored, "preprocessing_sha256": NOW.sha256} | changes


def test_what_was_stored_is_read():
    assert stored_preprocessing(facts(), "fold-0.json") == NOW


def test_models_from_before_it_was_stored_are_those_of_the_first_chain():
    assert stored_preprocessing({"roi": {"size": 32}}, "fold-0.json") == Preprocessing(
        display_chain=1, intensity=1, resampling=1, roi=RoiSettings(size=32, grey_range="image")
    )


@pytest.mark.parametrize("name", ["display_chain", "intensity", "resampling"])
def test_another_chain_is_refused_and_named(name):
    other = NOW.model_copy(update={name: 99})
    changed = {"preprocessing": other.model_dump(mode="json"), "preprocessing_sha256": other.sha256}
    with pytest.raises(RunFolderError, match=rf"trained with, got {name} 99, here 1 in fold-0\.json\. Fix: use"):
        stored_preprocessing(facts(**changed), "fold-0.json")


@pytest.mark.parametrize(
    "changed",
    [
        {"preprocessing_sha256": "0" * 64},
        {"roi": {"size": 64}},
        {"preprocessing": NOW.model_dump(mode="json") | {"roi": {"size": 33}}},
    ],
)
def test_an_edited_one_is_refused(changed):
    with pytest.raises(RunFolderError, match="as training stored it, got an edited one in"):
        stored_preprocessing(facts(**changed), "fold-0.json")


@pytest.mark.parametrize(
    "changed", [{"preprocessing": {"sharpening": 2}}, {"preprocessing": 3}, {"roi": {"size": "x"}}]
)
def test_one_of_a_later_version_is_refused(changed):
    with pytest.raises(RunFolderError, match="one that this version of diagnet knows, got another one in"):
        stored_preprocessing(facts(**changed), "fold-0.json")


def test_the_hash_depends_on_every_value():
    values = [NOW, NOW.model_copy(update={"display_chain": 2}), NOW.model_copy(update={"intensity": 2})]
    values += [Preprocessing(roi=RoiSettings(size=32, square=True)), Preprocessing(roi=RoiSettings(size=33))]
    assert len({each.sha256 for each in values}) == len(values)


@pytest.mark.parametrize(
    ("elements", "row"),
    [
        ({}, [0.3468, 0.3194, 0.7178, 0.8114, 0.3789, 0.2727]),
        (
            {"WindowCenter": 1200, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"},
            [0.3552, 0.319, 0.8132, 0.8943, 0.3995, 0.2586],
        ),
        (
            {"VOILUTSequence": lut([index**2 // 4096 for index in range(4096)], 0, 12), "PixelPaddingValue": 0},
            [0.1629, 0.1435, 0.5592, 0.6908, 0.1892, 0.1115],
        ),
        (
            {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": -7},
            [0.5854, 0.61, 0.253, 0.169, 0.5567, 0.6519],
        ),
    ],
    ids=["plain", "sigmoid", "lut", "inverted"],
)
def test_the_numbers_stand_for_these_grey_values(tmp_path, elements, row):
    """Where this fails, a network sees something else: raise the number of what changed, then pin the new values."""
    path = write_dicom(tmp_path / "image.dcm", drawn_breast(), ExplicitVRLittleEndian, **elements)
    mass = Mass(path, (20.0, 60.0, 60.0, 100.0), None, "")
    region = cut_roi(read_image(path), mass, RoiSettings(size=16, grey_range="image"))
    np.testing.assert_allclose(region[6, ::3], row, atol=2e-4)
