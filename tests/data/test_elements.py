"""Headers as real archives have them: what is malformed is ignored and named, what is missing is refused and named."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from diagnet.data.dicom import read_geometry, read_mammogram
from diagnet.errors import DataError
from dicom_files import drawn_breast, lut, patched, write_dicom

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)  # 0, 64, ..., 4032
WINDOW = {"WindowCenter": 2048, "WindowWidth": 1024}
EMPTY_ITEM = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def code(value: str) -> list[Dataset]:
    found = Dataset()
    found.CodeValue = value
    return [found]


@pytest.mark.parametrize(
    ("elements", "keyword", "vr", "value"),
    [
        ({"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [1, 1]}, "PixelSpacing", "DS", rb"0,28\0,28 "),
        ({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", "DS", b"[0.28, 0.28]"),
        ({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", "LO", b"0.28 mm "),
        ({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", "DS", b"0.28"),
        ({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", "DS", rb"0\0 "),
        ({"PixelSpacing": [0.5, 0.5]}, "PixelSpacing", "FL", b"\0\1"),
        ({"ImagerPixelSpacing": [0.5, 0.5]}, "ImagerPixelSpacing", "DS", rb"nan\nan "),
        (WINDOW, "WindowCenter", "DS", b"[01150, 01150]"),
        (WINDOW, "WindowWidth", "DS", b"2,50"),
        (WINDOW, "WindowWidth", "OB", b"\1\2\3\4"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, "RescaleIntercept", "DS", b"0,00"),
        ({"RescaleSlope": 1, "RescaleIntercept": 0}, "RescaleSlope", "DS", rb"1\1 "),
        ({"VOILUTSequence": lut([1], 0, 8)}, "VOILUTSequence", "SQ", EMPTY_ITEM),
        ({"VOILUTSequence": lut([1], 0, 8)}, "VOILUTSequence", "LO", b"none"),
        ({"ModalityLUTSequence": lut([1], 0, 8)}, "ModalityLUTSequence", "SQ", EMPTY_ITEM),
        ({"PixelPaddingValue": 9}, "PixelPaddingValue", "LO", b"none"),
        ({"PixelPaddingValue": 9}, "PixelPaddingValue", "UL", b"\1\0"),
        ({"NumberOfFrames": 1}, "NumberOfFrames", "IS", b"one "),
        ({"ViewCodeSequence": code("399162004")}, "ViewCodeSequence", "LO", b"CC"),
        ({"EstimatedRadiographicMagnificationFactor": 1}, "EstimatedRadiographicMagnificationFactor", "DS", b"1,00"),
        ({"Laterality": "L"}, "Laterality", "US", b"\1\0"),
        ({"ViewPosition": "CC"}, "ViewPosition", "US", b"\1\0"),
        ({"PresentationLUTShape": "IDENTITY"}, "PresentationLUTShape", "FD", b"\1\0\0\0\0\0\0\0"),
    ],
)
def test_a_malformed_optional_element_is_ignored_and_named(
    path: Path, elements: dict[str, Any], keyword: str, vr: str, value: bytes
) -> None:
    mammogram = read_mammogram(patched(write_dicom(path, RAMP, **elements), keyword, vr, value))
    np.testing.assert_allclose(mammogram.pixels, RAMP / 4032, atol=1e-6)
    assert f"{keyword} is malformed and was ignored" in mammogram.warnings
    assert mammogram.spacing_mm is None
    assert read_geometry(path).spacing_mm is None


@pytest.mark.parametrize("vr", ["LO", "DS", "UN", "US", "IS"])
def test_a_number_under_another_vr_is_read(path: Path, vr: str) -> None:
    write_dicom(path, RAMP, **WINDOW)
    mammogram = read_mammogram(patched(path, "WindowWidth", vr, b"\x00\x04" if vr == "US" else b"1024"))
    assert "voi: window 1 of 1, LINEAR, center 2048, width 1024" in mammogram.steps
    assert mammogram.warnings == ()


@pytest.mark.parametrize(
    "keyword",
    ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"],
)
@pytest.mark.parametrize(("value", "got"), [(None, "none"), (b"", "none"), (rb"12\12 ", "a malformed one")])
def test_a_required_element_that_is_missing_or_malformed_is_named(
    path: Path, keyword: str, value: bytes | None, got: str
) -> None:
    write_dicom(path, RAMP, **({keyword: None} if value is None else {}))
    if value is not None:
        patched(path, keyword, "US" if value == b"" else "LO", value)
    with pytest.raises(DataError, match=f"`{keyword}` must be a whole number in the header of an image, got {got} in"):
        read_mammogram(path)


def test_a_missing_photometric_interpretation_is_named(path: Path) -> None:
    with pytest.raises(DataError, match="`PhotometricInterpretation` must be in the header of an image, got none in"):
        read_mammogram(write_dicom(path, RAMP, PhotometricInterpretation=None))


@pytest.mark.parametrize("n_excess", [2, 6, 14, 22, 250])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bytes_after_the_pixels_are_accepted(path: Path, syntax: Any, n_excess: int) -> None:
    """PS3.5, 8.1.1; but none that a whole row or column more would explain, see test_dicom.py."""
    ramp = RAMP.astype(RAMP.dtype.newbyteorder("<" if syntax.is_little_endian else ">"))
    write_dicom(path, ramp, syntax, PixelData=ramp.tobytes() + b"\x7f" * n_excess)
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4032, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("dtype", "elements", "stored", "vr", "word"),
    [
        (np.int16, {}, -2000, "US", 63536),
        (np.int16, {}, -2000, "SS", -2000),
        (np.uint16, {}, 63536, "SS", -2000),
        (np.uint16, {}, 63536, "US", 63536),
        (np.int16, {"BitsStored": 12, "HighBit": 11}, -48, "US", 4048),  # as its 12 bits stand in the word
        (np.int16, {"BitsStored": 12, "HighBit": 11}, -48, "US", 65488),
        (np.int16, {"BitsStored": 12, "HighBit": 11}, -48, "SS", -48),
        (np.uint8, {}, 255, "SS", -1),
    ],
)
def test_padding_is_read_as_the_pixels_are(
    path: Path, dtype: Any, elements: dict[str, Any], stored: int, vr: str, word: int, photometric: str
) -> None:
    """Whatever VR the value has: PS3.3, C.7.5.1.1.2."""
    pixels = np.arange(64, dtype=dtype).reshape(8, 8)
    pixels[:2] = stored
    write_dicom(path, pixels, PixelPaddingValue=1, PhotometricInterpretation=photometric, **elements)
    mammogram = read_mammogram(patched(path, "PixelPaddingValue", vr, struct.pack("<h" if vr == "SS" else "<H", word)))
    assert "padding: 16 pixels set to background" in mammogram.steps
    assert not mammogram.pixels[:2].any()
    assert np.ptp(mammogram.pixels[2:]) == 1


@pytest.mark.parametrize(
    ("elements", "warning"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMO", "GENERATED_2D"]}, "a picture computed from tomosynthesis"),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "GENERATED_2D"]}, "a picture computed from tomosynthesis"),
        ({"ImageType": ["DERIVED", "PRIMARY", "TOMO_2D"]}, "a picture computed from tomosynthesis"),
        ({"SeriesDescription": "R CC C-View"}, "a picture computed from tomosynthesis"),
        ({"AcquisitionDeviceProcessingDescription": "Insight 2D"}, "a picture computed from tomosynthesis"),
        ({"BurnedInAnnotation": "YES"}, "text is burned into the picture"),
        ({"LossyImageCompression": "01"}, "the pixels went through lossy compression"),
        ({"ImageType": ["ORIGINAL", "PRIMARY"], "BurnedInAnnotation": "NO", "LossyImageCompression": "00"}, None),
        ({"ImageType": "DERIVED", "SeriesDescription": "CC VIEW"}, None),
    ],
)
def test_pictures_of_another_making_are_flagged(path: Path, elements: dict[str, Any], warning: str | None) -> None:
    found = read_mammogram(write_dicom(path, RAMP, **elements)).warnings
    assert [each.partition(":")[0] for each in found] == ([warning] if warning else [])


@pytest.mark.parametrize(
    ("syntax", "warning"),
    [
        (JPEGLSNearLossless, "the pixels went through lossy compression"),
        (JPEG2000, "the pixels may have gone through lossy compression"),
        (JPEGLSLossless, None),
        (JPEG2000Lossless, None),
    ],
)
def test_a_lossy_syntax_is_flagged_whatever_the_header_says(path: Path, syntax: Any, warning: str | None) -> None:
    pytest.importorskip("jpeg_ls", reason="the extra `dicom` is not installed: its compressions were not tested")
    lossless = JPEG2000Lossless if "2000" in syntax.name else JPEGLSLossless
    dataset = pydicom.dcmread(write_dicom(path, drawn_breast(), lossless, LossyImageCompression="00"))
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    assert read_mammogram(path).warnings == ((warning,) if warning else ())
