import os
import re
import shutil
import traceback
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_windowing
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from diagnet.data import dicom_file
from diagnet.data.dicom import read_geometry, read_mammogram, read_uid
from diagnet.errors import DataError, MissingExtraError, RefusedInputError
from dicom_files import drawn_breast, lut, make_jpeg_lossless, write_dicom

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)  # 0, 64, ..., 4032
WINDOW = {"WindowCenter": 2048, "WindowWidth": 1024}


def read(path: Path, pixels: np.ndarray = RAMP, **elements: Any) -> np.ndarray:
    return read_mammogram(write_dicom(path, pixels, **elements)).pixels


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless], ids=lambda uid: uid.name
)
def test_every_core_syntax_decodes_alike(path: Path, syntax: Any) -> None:
    mammogram = read_mammogram(write_dicom(path, RAMP, syntax))
    np.testing.assert_allclose(mammogram.pixels, RAMP / 4032, atol=1e-6)
    assert mammogram.steps == (
        f"decode: {syntax.name}, 16 bits stored",
        "modality: none",
        "voi: none, whole range 0 to 4032",
        "inversion: none",
        "padding: none",
        "side: not told, no chest wall seen in the picture",
        "spacing: unknown",
    )
    assert mammogram.warnings == ()


def test_other_compressions_name_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm"), path)
    monkeypatch.setattr(dicom_file, "get_decoder", lambda _: SimpleNamespace(available_plugins=()))
    with pytest.raises(
        MissingExtraError, match=r"`pyjpegls` must be installed.*pip install 'diagnet-mammography\[dicom\]'"
    ):
        read_mammogram(path)


@pytest.mark.parametrize(
    "compressed", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"]
)
def test_lossless_compressions_give_the_same_pixels(path: Path, compressed: str) -> None:
    pytest.importorskip("jpeg_ls", reason="the extra `dicom` is not installed: its compressions were not tested")
    found = []
    for name in ("MR_small.dcm", compressed):
        shutil.copy(pydicom.data.get_testdata_file(name), path)
        found.append(read_mammogram(path).pixels)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless, None], ids=str)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_phantoms_are_alike_in_every_lossless_compression(path: Path, syntax: Any, photometric: str) -> None:
    pytest.importorskip("gdcm", reason="the extra `dicom` is not installed: its compressions were not tested")
    plain = read(path, drawn_breast(), PhotometricInterpretation=photometric)
    if syntax is None:
        make_jpeg_lossless(path)
    else:
        write_dicom(path, drawn_breast(), syntax, PhotometricInterpretation=photometric)
    mammogram = read_mammogram(path)
    assert "JPEG" in mammogram.steps[0] or "RLE" in mammogram.steps[0]
    np.testing.assert_array_equal(mammogram.pixels, plain)


@pytest.mark.parametrize("is_signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("n_bits", "high_bit"), [(12, 11), (12, 13), (12, 15), (10, 14), (16, 15)])
@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
        None,
    ],
    ids=lambda uid: "JPEG Lossless" if uid is None else uid.name,
)
def test_stored_bits_are_taken_out_of_their_words(
    path: Path, syntax: Any, n_bits: int, high_bit: int, is_signed: bool
) -> None:
    """Whatever stands above them, an overlay or garbage, and wherever in the word they are: PS3.5, 8.1.1."""
    if syntax in (JPEGLSLossless, JPEG2000Lossless, None):
        pytest.importorskip("gdcm", reason="the extra `dicom` is not installed: its compressions were not tested")
    rng = np.random.default_rng(0)
    values = drawn_breast()[:64, :64].astype(np.int64) % 2**n_bits - is_signed * 2 ** (n_bits - 1)
    below = high_bit + 1 - n_bits
    words = (values % 2**n_bits << below) + (rng.integers(0, 2, values.shape) << below + n_bits)
    words = (words % 2**16).astype(np.uint16).view(np.int16 if is_signed else np.uint16)
    write_dicom(path, words, ExplicitVRLittleEndian if syntax is None else syntax)
    if syntax is None:
        make_jpeg_lossless(path)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit = n_bits, high_bit
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = words.astype(">i2").tobytes()
    dataset.save_as(path)
    expected = (values - values.min()) / np.ptp(values)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-6)


@pytest.mark.parametrize(("n_bits", "high_bit"), [(6, 7), (5, 4), (7, 6)])
def test_stored_bits_of_bytes_are_found_too(path: Path, n_bits: int, high_bit: int) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2**n_bits
    words = (values << high_bit + 1 - n_bits) | (0 if high_bit == 7 else 128)
    found = read(path, words.astype(np.uint8), BitsStored=n_bits, HighBit=high_bit)
    np.testing.assert_allclose(found, values / values.max(), atol=1e-6)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"BitsStored": 12, "HighBit": 15}, "`HighBit` must be that of the pixels, got 15 .* bits below bit 4 in"),
        ({"BitsStored": 12, "HighBit": 10}, "must be at least BitsStored - 1 and below BitsAllocated, got 10 of 12"),
        ({"BitsStored": 12, "HighBit": 16}, "must be at least BitsStored - 1 and below BitsAllocated, got 16 of 12"),
    ],
)
def test_a_high_bit_that_contradicts_the_pixels_is_refused(path: Path, elements: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(path, RAMP + np.uint16(1), **elements)


def test_what_no_permissive_decoder_reads_is_told(path: Path) -> None:
    pytest.importorskip("gdcm", reason="the extra `dicom` is not installed: its compressions were not tested")
    shutil.copy(pydicom.data.get_testdata_file("JPEG-lossy.dcm"), path)
    with pytest.raises(DataError, match=r"as a permissively licensed .* got JPEG Extended .* of 12 bits in"):
        read_mammogram(path)


def test_several_voi_luts_are_told(path: Path) -> None:
    tables = [*lut([0, 100], 0, 8), *lut([100, 0], 0, 8)]
    mammogram = read_mammogram(write_dicom(path, np.array([[0, 1]], np.uint16), VOILUTSequence=tables))
    assert "voi: LUT 1 of 2" in mammogram.steps
    assert mammogram.pixels[0, 0] == 0


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 1024), (100.5, 1), (2048, 3.5), (-10, 20000)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, -100)])
def test_windows_are_those_of_pydicom(
    path: Path, function: str | None, center: float, width: float, slope: float, intercept: float
) -> None:
    elements = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    elements |= {"RescaleSlope": slope, "RescaleIntercept": intercept}
    found = read(path, **elements)
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(RAMP, dataset)
    dataset.PixelRepresentation, dataset.BitsStored = 0, 1  # pydicom's output range is then [0, 1]
    del dataset.RescaleSlope
    with np.errstate(over="ignore"):  # of exp, in pydicom's sigmoid
        np.testing.assert_allclose(found, apply_windowing(values, dataset), atol=2e-6)


def test_first_of_several_windows_is_taken_and_recorded(path: Path) -> None:
    write_dicom(path, RAMP, WindowCenter=[2048, 50], WindowWidth=[1024, 60])
    mammogram = read_mammogram(path)
    assert "voi: window 1 of 2, LINEAR, center 2048, width 1024" in mammogram.steps
    np.testing.assert_array_equal(mammogram.pixels, read(path, **WINDOW))


def test_voi_lut_goes_before_window_and_8_bit_entries_may_be_many(path: Path) -> None:
    table = [round(255 * (index / 999) ** 2) for index in range(1000)]
    write_dicom(path, RAMP, VOILUTSequence=lut(table, first=500, bits=8), **WINDOW)
    mammogram = read_mammogram(path)
    expected = np.array(table)[np.clip(RAMP.astype(int) - 500, 0, 999)] / 255
    np.testing.assert_allclose(mammogram.pixels, expected, atol=1e-6)
    assert "voi: LUT 1 of 1" in mammogram.steps


def test_packed_lut_bytes_are_understood(path: Path) -> None:
    sequence = lut([0, 0], first=0, bits=8)
    sequence[0].LUTDescriptor = [4, 0, 8]
    sequence[0].LUTData = bytes([0, 85, 170, 255])
    sequence[0]["LUTData"].VR = "OW"
    found = read(path, np.array([[0, 1], [2, 9]], np.uint16), VOILUTSequence=sequence)
    np.testing.assert_allclose(found, [[0, 1 / 3], [2 / 3, 1]], atol=1e-6)


def test_modality_lut_goes_before_the_window(path: Path) -> None:
    table = list(range(4095, -1, -1))
    found = read(path, ModalityLUTSequence=lut(table, first=0, bits=16), **WINDOW)
    np.testing.assert_allclose(found, read(path, 4095 - RAMP, **WINDOW), atol=1e-6)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda uid: uid.name)
@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize(
    ("pixels", "elements", "first"),
    [
        (RAMP, {"RescaleSlope": 1, "RescaleIntercept": -1000}, -1000),  # unsigned, and below 0 once rescaled
        (RAMP, {"RescaleSlope": -1, "RescaleIntercept": 100}, -3995),
        (RAMP.astype(np.int16) - 2000, {}, -2000),
        (RAMP.astype(np.int16) - 2000, {"RescaleSlope": 1, "RescaleIntercept": 52000}, 50000),  # signed, and above
        (RAMP + 60000, {}, 60000),
        (RAMP.astype(np.int16), {"ModalityLUTSequence": lut([40000 + i for i in range(4096)], 0, 16)}, 40000),
    ],
)
def test_a_voi_lut_begins_at_a_value_of_the_modality_output(
    path: Path, syntax: Any, vr: str, pixels: np.ndarray, elements: dict[str, Any], first: int
) -> None:
    """PS3.3, C.11.2.1.1; not PixelRepresentation decides, nor the VR."""
    pixels = pixels.astype(np.int16 if pixels.dtype.kind == "i" else np.uint16)
    table = lut([entry * 16 for entry in range(4096)], 0, 16)
    word = (first + 2**15) % 2**16 - 2**15 if vr == "SS" else first % 2**16
    table[0].add_new("LUTDescriptor", vr, [4096, word, 16])
    slope, intercept = elements.get("RescaleSlope", 1), elements.get("RescaleIntercept", 0)
    entries = pixels.astype(int) * slope + intercept - first * ("ModalityLUTSequence" not in elements)
    found = read_mammogram(write_dicom(path, pixels, syntax, VOILUTSequence=table, **elements)).pixels
    np.testing.assert_allclose(found, entries * 16 / 65535, atol=1e-6)


def test_signed_values_keep_their_order(path: Path) -> None:
    values = np.array([[-500, 0], [250, 500]], np.int16)
    np.testing.assert_allclose(read(path, values), [[0, 0.5], [0.75, 1]])


@pytest.mark.parametrize(
    ("photometric", "shape", "reason"),
    [
        ("MONOCHROME1", None, "MONOCHROME1"),
        ("MONOCHROME1", "INVERSE", "MONOCHROME1 and PresentationLUTShape INVERSE"),
        ("MONOCHROME2", "INVERSE", "PresentationLUTShape INVERSE"),
    ],
)
def test_inversion_is_once_and_after_the_window(path: Path, photometric: str, shape: str | None, reason: str) -> None:
    upright = read(path, **WINDOW)
    write_dicom(path, RAMP, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **WINDOW)
    mammogram = read_mammogram(path)
    np.testing.assert_allclose(mammogram.pixels, 1 - upright, atol=1e-6)
    assert f"inversion: {reason}" in mammogram.steps


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_background_and_has_no_part_in_the_range(path: Path, photometric: str) -> None:
    padded = RAMP + np.uint16(1000)
    padded[:, 0], padded[:, 7] = 65000, 65010
    elements = {
        "PixelPaddingValue": 65010,
        "PixelPaddingRangeLimit": 65000,
        "PhotometricInterpretation": photometric,
    }
    mammogram = read_mammogram(write_dicom(path, padded, **elements))
    assert not mammogram.pixels[:, [0, 7]].any()
    assert mammogram.pixels[:, 1:7].min() == 0
    assert mammogram.pixels[:, 1:7].max() == 1
    assert "padding: 16 pixels set to background" in mammogram.steps
    assert "voi: none, whole range 1064 to 4968" in mammogram.steps


def test_spacing_prefers_the_plane_of_the_breast(path: Path) -> None:
    write_dicom(path, RAMP, PixelSpacing=[0.07, 0.08], ImagerPixelSpacing=[0.1, 0.1])
    assert read_mammogram(path).spacing_mm == (0.07, 0.08)
    write_dicom(path, RAMP, ImagerPixelSpacing=[0.1, 0.1])
    mammogram = read_mammogram(path)
    assert mammogram.spacing_mm == (0.1, 0.1)
    assert mammogram.steps[-1] == "spacing: 0.1 x 0.1 mm, ImagerPixelSpacing"
    assert read_geometry(path).spacing_mm == (0.1, 0.1)


def coded(value: str, modifier: str | None = None) -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", "a view"
    if modifier:
        code.ViewModifierCodeSequence = coded(modifier)
    return [code]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ViewCodeSequence": coded("399260004"), "ViewPosition": "MLO"}, "ML"),
        ({"ViewCodeSequence": coded("R-10226"), "ViewPosition": "ML"}, "MLO"),
        ({"ViewPosition": "ML"}, "ML"),
        ({"ViewPosition": "mlo"}, "MLO"),
        ({"PatientOrientation": "CC"}, "CC"),  # as digitized film has it
        ({"PatientOrientation": ["A", "R"]}, ""),
        ({"ViewPosition": "DOE^JANE"}, ""),
        ({}, ""),
    ],
)
def test_view_is_read_where_the_file_has_it(path: Path, elements: dict[str, Any], expected: str) -> None:
    assert read_mammogram(write_dicom(path, RAMP, **elements)).view == expected


def test_side_is_read_where_the_file_has_it(path: Path) -> None:
    assert read_mammogram(write_dicom(path, RAMP, Laterality="L", ImageLaterality="R")).laterality == "R"
    assert read_mammogram(write_dicom(path, RAMP, Laterality="L")).laterality == "L"
    assert read_mammogram(write_dicom(path, RAMP)).laterality == ""


def test_doubts_are_warned_of(path: Path) -> None:
    view = coded("399162004", modifier="399163009")
    elements = {"PresentationIntentType": None, "LossyImageCompression": "01", "Modality": "CR"}
    mammogram = read_mammogram(write_dicom(path, RAMP, ViewCodeSequence=view, **elements))
    assert mammogram.warnings == (
        "PresentationIntentType is absent: the pixels are taken as FOR PRESENTATION",
        "Modality is not MG: this may be no mammogram",
        "the pixels went through lossy compression",
        "magnification view",
    )
    assert mammogram.intent == ""


@pytest.mark.parametrize(
    "elements",
    [
        {"PresentationIntentType": "FOR PROCESSING"},
        {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing, "PresentationIntentType": None},
    ],
)
def test_raw_data_are_refused_unless_allowed(path: Path, elements: dict[str, Any]) -> None:
    write_dicom(path, RAMP, **elements)
    with pytest.raises(RefusedInputError, match="must be FOR PRESENTATION, got raw data FOR PROCESSING in"):
        read_mammogram(path)
    mammogram = read_mammogram(path, allow_for_processing=True)
    assert mammogram.intent == "FOR PROCESSING"
    assert mammogram.warnings == ("raw data FOR PROCESSING",)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPClassUID": BreastTomosynthesisImageStorage}, "must be one mammogram, got tomosynthesis of 1 frames"),
        ({"NumberOfFrames": 3}, "must be one mammogram, got 3 frames"),
        ({"PhotometricInterpretation": "RGB"}, "must be MONOCHROME1 or MONOCHROME2, got another value"),
        ({"Rows": 60_000, "Columns": 60_000}, "at most 100 million pixels, got 60000 x 60000"),
    ],
)
def test_what_is_no_single_mammogram_is_refused(path: Path, elements: dict[str, Any], message: str) -> None:
    write_dicom(path, RAMP, **elements)
    with pytest.raises(RefusedInputError, match=message):
        read_mammogram(path)


@pytest.mark.parametrize(
    ("drawn", "elements", "step", "doubt"),
    [
        ("L", {"Laterality": "L"}, "L, chest wall on the left of the picture, as expected", ""),
        ("R", {"ImageLaterality": "R"}, "R, chest wall on the right of the picture, as expected", ""),
        ("R", {}, "not told, chest wall on the right of the picture", ""),
        (
            "R",
            {"Laterality": "L"},
            "L, chest wall on the right of the picture, expected on the left",
            "the chest wall is on the right of the picture, but belongs on the left by the laterality",
        ),
        (  # mirrored, and the file says so
            "R",
            {"Laterality": "L", "PatientOrientation": ["P", "F"]},
            "L, chest wall on the right of the picture, as expected",
            "",
        ),
        (
            "L",
            {"PatientOrientation": ["P", "L"]},
            "not told, chest wall on the left of the picture, expected on the right",
            "belongs on the right by PatientOrientation: mirrored, or labeled wrongly",
        ),
    ],
)
def test_the_side_is_checked_against_the_pixels(
    path: Path, drawn: str, elements: dict[str, Any], step: str, doubt: str
) -> None:
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        pixels = drawn_breast(drawn)
        stored = pixels if photometric == "MONOCHROME2" else 4095 - pixels
        mammogram = read_mammogram(write_dicom(path, stored, PhotometricInterpretation=photometric, **elements))
        assert f"side: {step}" in mammogram.steps
        assert len(mammogram.warnings) == bool(doubt)
        assert doubt in "".join(mammogram.warnings)


@pytest.mark.parametrize(
    ("elements", "warning"),
    [
        ({"ViewPosition": "ML"}, "view ML: models are trained on CC and MLO"),
        ({"ViewCodeSequence": coded("399196006")}, "view FB: models are trained on CC and MLO"),
        ({"ViewPosition": "MLO"}, None),
        ({"ViewPosition": "CC", "EstimatedRadiographicMagnificationFactor": 1.8}, "magnification view"),
        ({"EstimatedRadiographicMagnificationFactor": 1.07}, None),
        ({"ViewCodeSequence": coded("399162004", modifier="399055006")}, "spot compression view"),
        ({"BreastImplantPresent": "YES"}, "breast implant"),
        ({"BreastImplantPresent": "NO"}, None),
    ],
)
def test_views_that_differ_are_flagged(path: Path, elements: dict[str, Any], warning: str | None) -> None:
    assert read_mammogram(write_dicom(path, RAMP, **elements)).warnings == ((warning,) if warning else ())


def test_a_preamble_may_be_asked_for(path: Path) -> None:
    whole = write_dicom(path, RAMP, ImplicitVRLittleEndian).read_bytes()
    read_mammogram(path, require_preamble=True)
    path.write_bytes(whole[whole.index(b"\x08\x00\x16\x00") :])
    with pytest.raises(RefusedInputError, match=r"must have the preamble .*Fix: --allow-missing-preamble"):
        read_mammogram(path, require_preamble=True)


def test_the_uid_that_other_files_know_this_one_by(path: Path) -> None:
    write_dicom(path, RAMP, SOPInstanceUID="1.2.3")
    assert read_uid(path) == "1.2.3"
    write_dicom(path, RAMP, SOPInstanceUID=None)
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI"))
    assert read_uid(path) == ""
    path.write_text("no image")
    with pytest.raises(DataError, match="must be a DICOM"):
        read_uid(path)


def test_a_frame_of_another_size_is_refused_before_it_is_decoded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jpeg_ls", reason="the extra `dicom` is not installed: its compressions were not tested")
    monkeypatch.setattr(dicom_file, "pixel_array", lambda *_, **__: pytest.fail("it was decoded"))
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        whole = write_dicom(path, drawn_breast(), syntax).read_bytes()
        rows = b"\x28\x00\x10\x00US\x02\x00"
        assert rows in whole
        path.write_bytes(whole.replace(rows + b"\xa0\x00", rows + b"\x9f\x00"))
        with pytest.raises(DataError, match="must hold 128 x 159 pixels of 1 sample, got 128 x 160 of 1 in"):
            read_mammogram(path)
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([b"\xff\xd8 no frame of any kind"])
        dataset.save_as(path)
        with pytest.raises(DataError, match="got a frame that does not say its size in"):
            read_mammogram(path)


def test_rle_that_unpacks_to_more_is_refused_before_it_is_decoded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_file, "pixel_array", lambda *_, **__: pytest.fail("it was decoded"))
    monkeypatch.setattr(dicom_file, "_SURE_BYTES", 0)
    header = np.zeros(16, "<u4")
    header[:3] = 2, 64, 64 + 20000
    bomb = header.tobytes() + bytes([129, 0]) * 20000
    whole = write_dicom(path, RAMP, RLELossless)
    dataset = pydicom.dcmread(whole)
    dataset.PixelData = encapsulate([bomb])
    dataset.save_as(path)
    with pytest.raises(DataError, match="`PixelData` must unpack to 128 bytes, got more in"):
        read_mammogram(path)


def test_files_that_are_too_large_or_no_files_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(path, RAMP)
    monkeypatch.setattr(dicom_file, "MAX_BYTES", 2**8)
    with pytest.raises(RefusedInputError, match=r"must have at most 0 MB, got \d+ bytes in"):
        read_mammogram(path)
    os.mkfifo(path.with_name("pipe.dcm"))  # reading one would wait for ever
    with pytest.raises(DataError, match="must be a file, got something else"):
        read_geometry(path.with_name("pipe.dcm"))


def test_a_length_that_lies_costs_no_memory(path: Path) -> None:
    whole = write_dicom(path, RAMP).read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00OW") + 8
    path.write_bytes(whole[:start] + b"\xfe\xff\xff\xff" + whole[start + 4 :])
    tracemalloc.start()
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4032, atol=1e-6)  # the data are all there
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_huge_header_is_refused_before_anything_is_allocated(path: Path) -> None:
    write_dicom(path, RAMP, Rows=60_000, Columns=60_000)
    with pytest.raises(RefusedInputError, match="at most 100 million pixels"):
        read_geometry(path)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"WindowCenter": 100, "WindowWidth": 0}, "`WindowWidth` must be at least 1, got 0 with center 100 in"),
        ({**WINDOW, "VOILUTFunction": "DOE"}, "must be LINEAR, LINEAR_EXACT or SIGMOID, got another value in"),
        ({"RescaleSlope": 0, "RescaleIntercept": 3}, "`RescaleSlope` must be a number other than 0, got 0 with"),
        ({"Rows": 9}, "must hold 8 x 9 pixels of 16 bits, 144 bytes, got 128 in"),
        ({"Rows": 7}, "must hold 8 x 7 pixels of 16 bits, 112 bytes, got 128 in"),
        ({"Columns": 7}, "must hold 7 x 8 pixels of 16 bits, 112 bytes, got 128 in"),
        (
            {"Rows": None, "Columns": None, "BitsAllocated": None},
            "must be a DICOM file with whole pixel data, got none",
        ),
        ({"PixelData": None}, "must be a DICOM file with whole pixel data, got none in"),
    ],
)
def test_bad_elements_are_told_in_one_line(path: Path, elements: dict[str, Any], message: str) -> None:
    write_dicom(path, RAMP, **elements)
    with pytest.raises(DataError, match=message) as caught:
        read_mammogram(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no image", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\xff" * 99])
def test_what_is_no_dicom_is_told_in_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for reader in (read_mammogram, read_geometry):
        with pytest.raises(DataError, match=re.escape(str(path))):
            reader(path)


def test_a_missing_file_is_told(path: Path) -> None:
    with pytest.raises(DataError, match="got No such file or directory"):
        read_mammogram(path)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_told(path: Path, syntax: Any, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 4096, (64, 64), np.uint16)
    whole = write_dicom(path, noise, syntax).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"got none in|got a broken or truncated file|must hold 64 x 64"):
        read_mammogram(path)


def test_a_file_without_preamble_is_read_where_it_is_an_image(path: Path) -> None:
    whole = write_dicom(path, RAMP, ImplicitVRLittleEndian).read_bytes()
    dataset_only = whole[whole.index(b"\x08\x00\x16\x00") :]
    path.write_bytes(dataset_only)
    mammogram = read_mammogram(path)
    np.testing.assert_allclose(mammogram.pixels, RAMP / 4032, atol=1e-6)
    assert mammogram.warnings == ("the file has no DICOM preamble",)


def test_nothing_quotes_the_patient(
    path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    canary = "CANARY^JANE"
    names = {"PatientName": canary, "PatientID": canary, "StudyDescription": canary, "Laterality": canary}
    names |= {"PatientOrientation": canary, "PresentationLUTShape": canary, "ViewPosition": canary}
    write_dicom(path, RAMP, **names)
    path.write_bytes(path.read_bytes()[:-90])
    with pytest.raises(DataError, match="must hold 8 x 8 pixels") as caught:
        read_mammogram(path)
    shown = "".join(traceback.format_exception(caught.value))
    write_dicom(path, RAMP, PixelSpacing=[111.25, 222.25], BitsStored=[12, 12], **names)
    path.write_bytes(path.read_bytes().replace(b"111.25", b"CANARY"))
    assert read_geometry(path).spacing_mm is None
    with pytest.raises(DataError, match=r"`BitsStored` must be a whole number .* got a malformed one") as caught:
        read_mammogram(path)
    shown += "".join(traceback.format_exception(caught.value))
    write_dicom(path, RAMP, **names)
    caplog.clear()
    shown += repr(read_mammogram(path)) + caplog.text + "".join(capsys.readouterr())
    assert "CANARY" not in shown


@pytest.mark.parametrize(
    ("name", "side", "view", "box", "size"),
    [
        ("mammogram_P_00173_L_CC.dcm", "L", "CC", (928, 2304, 1239, 2575), (2864, 4432)),
        ("mammogram_P_00820_L_MLO.dcm", "L", "MLO", (80, 3176, 327, 3415), (2576, 4680)),
    ],
)
def test_real_mammograms(
    shared_masses: Path, name: str, side: str, view: str, box: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    mammogram = read_mammogram(shared_masses / "dicom" / name)
    assert (mammogram.laterality, mammogram.view, mammogram.spacing_mm) == (side, view, None)
    assert mammogram.pixels.shape == size[::-1]
    assert [step.partition(":")[0] for step in mammogram.steps] == (
        ["decode", "modality", "voi", "inversion", "padding", "side", "spacing"]
    )
    assert mammogram.steps[0] == "decode: RLE Lossless, 16 bits stored"
    assert "PresentationIntentType is absent: the pixels are taken as FOR PRESENTATION" in mammogram.warnings
    geometry = read_geometry(shared_masses / "dicom" / name)
    assert (geometry.width, geometry.height) == size
    x0, y0, x1, y1 = box
    inside = mammogram.pixels[y0:y1, x0:x1]
    assert (inside > 0).all()  # on the breast
    assert inside.mean() > 1.5 * mammogram.pixels.mean()
    assert np.median(mammogram.pixels) == 0  # the air


def test_real_small_files(shared_masses: Path) -> None:
    for path in sorted((shared_masses / "dicom").glob("crop_*.dcm")):
        mammogram = read_mammogram(path)
        assert mammogram.steps[0] == "decode: Implicit VR Little Endian, 16 bits stored"
        assert mammogram.pixels.max() == 1
