"""What is written about masses: reports, pictures, states, segmentations, pages, as validators and readers see them."""

import shutil
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

import highdicom
from pydicom import dcmread
from pydicom.uid import generate_uid

from clinic_parts import BOX, CANARY, assessed, canaries, mammogram
from diagnet.clinic.identifiers import mass_uid, result_uid, series_of, stable_uid
from diagnet.clinic.marks import read_marks
from diagnet.clinic.picture import drawn, write_secondary_capture
from diagnet.clinic.presentation import write_presentation_state
from diagnet.clinic.report import write_structured_report
from diagnet.clinic.result_page import write_result_page
from diagnet.clinic.segmentation import write_segmentation
from diagnet.errors import DataError, RefusedInputError
from diagnet.notice import NOTICE
from dicom_files import lut, patched


def write_enclosed(found, source, out):
    """The page's DICOM object without its page, whose drawing takes a second (test_result_page.py)."""
    with patch("diagnet.clinic.result_page.page", return_value=b"%PDF-1.4\n%%EOF"):
        return write_result_page(found, source, out)


WRITERS = {
    "report": write_structured_report,
    "picture": write_secondary_capture,
    "presentation": write_presentation_state,
    "segmentation": write_segmentation,
}
if find_spec("matplotlib"):
    WRITERS["page"] = write_enclosed
MASSES = (
    assessed(flags=("Modality is not MG: this may be no mammogram",)),
    assessed((10.0, 10.5, 30.0, 40.25), "abstained", malignancy=0.44, reason="the score is too near the threshold"),
    assessed((150.0, 180.0, 199.0, 239.0), "refused", malignancy=None, reason="the box is mostly background"),
)


def validated(path):
    """The errors that dciodvfy finds."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not there: not validated. Fix: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def group_texts(group):
    return [item.TextValue for item in group.ContentSequence if item.ValueType == "TEXT"]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return mammogram(tmp_path_factory.mktemp("image") / "image.dcm")


@pytest.fixture(scope="module")
def written(image):
    return {name: write(MASSES, image, image.with_name(f"{name}.dcm")) for name, write in WRITERS.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_validator_finds_no_error(written, image, name):
    assert written[name]
    assert validated(image.with_name(f"{name}.dcm")) == []


@pytest.mark.parametrize(
    "elements",
    [
        dict.fromkeys(
            [
                "PatientName",
                "PatientID",
                "PatientBirthDate",
                "PatientSex",
                "StudyDate",
                "StudyTime",
                "StudyID",
                "AccessionNumber",
                "ReferringPhysicianName",
                "StudyDescription",
                "ImageLaterality",
                "WindowCenter",
            ]
        ),
        {"PatientBirthDate": "soon", "StudyTime": "noon", "PatientSex": "unknown", "PatientName": "OneName"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"VOILUTSequence": lut(list(range(256)), 0, 8), "WindowCenter": None, "WindowWidth": None},
        {"RescaleSlope": "1", "RescaleIntercept": "0", "RescaleType": "US", "VOILUTFunction": "SIGMOID"},
        {"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Müller^Jürgen"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": "FOO", "PatientAge": "old"},
        {"WindowCenter": [2048, 1000], "WindowWidth": [4096, 300]},
        {"WindowCenter": [2048, 1000], "WindowWidth": 4096},
    ],
    ids=[
        "no_type_2",
        "invalid",
        "inverse",
        "voi_lut",
        "rescale",
        "utf-8",
        "Japanese",
        "unknown_letters",
        "windows",
        "odd_windows",
    ],
)
def test_real_files_lack_and_misuse_elements(tmp_path, elements):
    image = mammogram(tmp_path / "image.dcm", **elements)
    for name, write in WRITERS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(MASSES, image, tmp_path / f"{name}.dcm")
        assert validated(tmp_path / f"{name}.dcm") == [], name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert dcmread(tmp_path / f"{name}.dcm").get("PatientName", "") == dcmread(image).get("PatientName", "")


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("WindowCenter", "DS", b"2,50"),
        ("WindowWidth", "OB", b"\1\2\3\4"),
        ("PixelSpacing", "DS", rb"0,28\0,28 "),
        ("PixelSpacing", "LO", b"[0.28]"),
        ("RescaleSlope", "DS", b"1,00"),
        ("ViewPosition", "US", b"\1\0"),
        ("ImageLaterality", "US", b"\1\0"),
        ("StudyDescription", "US", b"\1\0"),
        ("PatientSex", "US", b"\1\0"),
        ("StudyDate", "FD", b"\0\0\0\0\0\0\0\0"),
    ],
)
def test_a_malformed_optional_element_stops_no_result(tmp_path, keyword, vr, value):
    image = mammogram(tmp_path / "image.dcm", RescaleSlope=1, RescaleIntercept=0, RescaleType="US")
    patched(image, keyword, vr, value)
    for name, write in WRITERS.items():
        write(MASSES, image, tmp_path / f"{name}.dcm")
        assert not validated(tmp_path / f"{name}.dcm")


def test_only_the_patient_and_the_study_are_copied(tmp_path):
    image = mammogram(tmp_path / "image.dcm", **canaries())
    for name, write in WRITERS.items():
        write(MASSES, image, tmp_path / f"{name}.dcm")
        holding = {each.keyword for each in dcmread(tmp_path / f"{name}.dcm").iterall() if CANARY in str(each.value)}
        assert {"PatientName", "PatientID"} <= holding
        assert holding <= {"PatientName", "PatientID", "IssuerOfPatientID", "ReferringPhysicianName"} | {
            "StudyID",
            "StudyDescription",
            "AccessionNumber",
            "DeidentificationMethod",
        }


def test_real_mammograms_get_valid_results(shared_masses, tmp_path):
    for path in sorted((shared_masses / "dicom").glob("mammogram_*.dcm")):
        found = (assessed((928.0, 2304.0, 1239.0, 2575.0)),)
        for name, write in WRITERS.items():
            write(found, path, tmp_path / f"{name}.dcm")
            assert validated(tmp_path / f"{name}.dcm") == [], name
            header, result = dcmread(path, stop_before_pixels=True), dcmread(tmp_path / f"{name}.dcm")
            assert result.StudyInstanceUID == header.StudyInstanceUID
            assert result.PatientID == header.PatientID


def test_dsrdump_reads_the_report(written, image):
    if shutil.which("dsrdump") is None:
        pytest.skip("dsrdump is not there: the report was not read by it. Fix: apt-get install dcmtk")
    path = image.with_name("report.dcm")
    done = subprocess.run(["dsrdump", "+Pl", str(path)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "error" not in done.stderr.lower()
    for text in ("Comprehensive SR Document", "Imaging Measurement Report", "Probability of cancer", NOTICE):
        assert text in done.stdout
    assert written["report"]


def test_highdicom_finds_each_mass_again(written, image):
    report = highdicom.sr.srread(image.with_name("report.dcm"))
    assert report.SOPInstanceUID == written["report"]
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 3
    source = dcmread(image, stop_before_pixels=True)
    for group, mass in zip(groups, MASSES, strict=True):
        region = group.roi.value
        x0, y0, x1, y1 = mass.box
        np.testing.assert_array_equal(region, [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
        assert group.roi.graphic_type.value == "POLYLINE"
        measured = group.get_measurements()
        if mass.malignancy is None:
            assert not measured
        else:
            assert measured[0].name.value == "111047"
            assert measured[0].unit.value == "%"
            assert measured[0].value == pytest.approx(100 * mass.malignancy, abs=1e-9)
        (decision,) = [each for each in group.get_qualitative_evaluations() if each.name.value == "decision"]
        assert decision.value.value == mass.decision
        texts = group_texts(group[0])
        assert NOTICE in texts
        assert not mass.reason or f"Reason: {mass.reason}" in texts
        assert all(f"Note: {flag}" in texts for flag in mass.flags)
        assert {"DiagNet", f"model sha256 {mass.model_sha256}"} <= set(texts)
        assert group.tracking_uid
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (report.StudyInstanceUID, report.PatientName) == (source.StudyInstanceUID, source.PatientName)
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


def test_the_same_input_and_model_give_the_same_uids(written, image, tmp_path):
    for name, write in WRITERS.items():
        assert write(MASSES, image, tmp_path / f"{name}.dcm") == written[name]
    other = (assessed(model_sha256="ef" * 32),)
    uids = {result_uid(name, "1.2.3", masses) for name in WRITERS for masses in (MASSES, other, MASSES[:1])}
    assert len(uids) == 3 * len(WRITERS)
    assert all(uid.is_valid for uid in uids)
    assert stable_uid("a", 1) == stable_uid("a", 1) != stable_uid("a", 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "benign"},  # an operating point on the other side of the score
        {"decision": "abstained", "reason": "the score is too near the threshold"},
        {"reason": "another reason"},
        {"threshold": 0.43001},
        {"model_sha256": "ef" * 32},
        {"input_sha256": "ef" * 32},
        *({"box": tuple(value + (k == side) for k, value in enumerate(BOX))} for side in range(4)),
    ],
    ids=str,
)
def test_a_result_that_says_something_else_has_another_uid(changes):
    # An archive takes the second of two results with one UID for the first, and keeps what was said before.
    before, after = assessed(), assessed(**changes)
    assert result_uid("report", "1.2.3", [before]) != result_uid("report", "1.2.3", [after])
    # Neither is a later mass overlooked.
    assert result_uid("report", "1.2.3", [before, before]) != result_uid("report", "1.2.3", [before, after])
    assert result_uid("report", "1.2.3", [before, after]) != result_uid("report", "1.2.3", [before])


def test_a_result_of_another_kind_image_or_version_has_another_uid(monkeypatch):
    found = [assessed()]
    uids = {result_uid("report", "1.2.3", found), result_uid("picture", "1.2.3", found)}
    uids.add(result_uid("report", "1.2.4", found))
    monkeypatch.setattr("diagnet.clinic.identifiers.__version__", "0.0.0")
    uids.add(result_uid("report", "1.2.3", found))
    assert len(uids) == 4


def test_when_and_where_a_file_was_read_is_not_in_a_uid():
    reasons = [f"`image` must be a mammogram, got a photograph in {name}." for name in ("a.dcm", "queue/b.dcm")]
    here, there = (
        assessed(decision="refused", reason=reason, image=Path(name), latency_ms=latency)
        for reason, name, latency in zip(reasons, ("a.dcm", "queue/b.dcm"), (1.0, 2.0), strict=True)
    )
    assert result_uid("report", "1.2.3", [here]) == result_uid("report", "1.2.3", [there])


def test_a_mass_is_the_same_mass_whatever_scores_it():
    boxes = [BOX, *(tuple(value + (k == side) for k, value in enumerate(BOX)) for side in range(4))]
    uids = {mass_uid(source, box) for source in ("1.2.3", "1.2.4") for box in boxes}
    assert len(uids) == 10
    assert mass_uid("1.2.3", tuple(map(np.float64, BOX))) == mass_uid("1.2.3", BOX)  # which are written otherwise


def test_each_result_is_a_series_of_its_own():
    series = [series_of(stable_uid(name), 1)["series_instance_uid"] for name in ("a", "b", "a")]
    assert series[0] == series[2] != series[1]
    assert series[0] != stable_uid("a")
    assert stable_uid("ab", "c") != stable_uid("a", "bc")


def test_the_reasons_of_a_result_never_hold_the_source(image, tmp_path):
    secret = tmp_path / f"{CANARY}.dcm"
    reason = f"`image` must be FOR PRESENTATION, got raw data FOR PROCESSING in {secret}."
    found = (assessed(decision="refused", malignancy=None, reason=reason, image=secret),)
    write_structured_report(found, image, tmp_path / "report.dcm")
    texts = group_texts(highdicom.sr.srread(tmp_path / "report.dcm").content.get_planar_roi_measurement_groups()[0][0])
    assert "Reason: `image` must be FOR PRESENTATION, got raw data FOR PROCESSING in the file." in texts


def test_the_picture_shows_frames_beside_untouched_pixels(written, image):
    picture = dcmread(image.with_name("picture.dcm"))
    assert written["picture"] == picture.SOPInstanceUID
    assert (picture.PhotometricInterpretation, picture.BurnedInAnnotation) == ("RGB", "YES")
    assert picture.SeriesDescription == NOTICE
    pixels = np.zeros((240, 320), dtype=np.float32)
    shown = drawn(pixels, MASSES[:1]).astype(int)
    bar = (shown.shape[0] - 240 - 21) // 2
    rows, columns = np.nonzero((shown[bar : bar + 240] == (255, 96, 96)).all(axis=2))
    x0, y0, x1, y1 = map(int, BOX)
    inside = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    assert not inside.any()
    assert rows.min() < y0
    assert rows.max() >= y1
    assert (shown[:bar] > 128).any()  # the notice above
    assert (shown[-bar:] > 128).any()  # and below


def test_large_mammograms_make_pictures_of_a_viewers_size():
    shown = drawn(np.zeros((4096, 3000), dtype=np.float32), MASSES)
    assert 2048 < shown.shape[0] < 2400
    assert shown.shape[1] == 1500


def test_the_presentation_state_draws_in_pixels_of_the_image(written, image):
    state = dcmread(image.with_name("presentation.dcm"))
    source = dcmread(image, stop_before_pixels=True)
    assert written["presentation"] == state.SOPInstanceUID
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert len(annotation.GraphicObjectSequence) == 3
    assert all(NOTICE in text.UnformattedTextValue for text in annotation.TextObjectSequence)
    assert "81.2 %" in annotation.TextObjectSequence[0].UnformattedTextValue
    assert state.GraphicLayerSequence[0].GraphicLayerDescription == NOTICE
    assert read_marks(image.with_name("presentation.dcm")) == {source.SOPInstanceUID: [mass.box for mass in MASSES]}


def test_an_image_that_nothing_can_refer_to_is_refused(tmp_path):
    image = mammogram(tmp_path / "image.dcm", StudyInstanceUID=None)
    for write in WRITERS.values():
        with pytest.raises(RefusedInputError, match=r"`StudyInstanceUID` must be a UID that a result can refer to"):
            write(MASSES, image, tmp_path / "out.dcm")
    assert not (tmp_path / "out.dcm").exists()


def test_no_masses_are_a_mistake(image, tmp_path):
    with pytest.raises(ValueError, match=r"`assessments` must hold at least one mass"):
        write_structured_report((), image, tmp_path / "out.dcm")


def test_other_files_are_told_in_one_line(tmp_path):
    other = tmp_path / "other.dcm"
    other.write_bytes(b"no DICOM at all" * 20)
    with pytest.raises((DataError, RefusedInputError), match=r"must be"):
        write_structured_report(MASSES, other, tmp_path / "out.dcm")
    with pytest.raises(DataError, match=r"`source` must be a DICOM image"):
        write_structured_report(MASSES, tmp_path / "absent.dcm", tmp_path / "out.dcm")


def test_libraries_that_quote_names_are_silent(tmp_path, caplog, recwarn, capfd):
    image = mammogram(tmp_path / "image.dcm", PatientName=f"{CANARY}", PatientID=f"{CANARY} {generate_uid()}")
    with caplog.at_level(0):
        warnings.simplefilter("always")
        for name, write in WRITERS.items():
            write(MASSES, image, tmp_path / f"{name}.dcm")
    said = caplog.text + "".join(str(each.message) for each in recwarn) + "".join(capfd.readouterr())
    assert CANARY not in said


@pytest.mark.parametrize(("laterality", "name"), [("L", "Left"), ("R", "Right"), ("", None)])
def test_a_report_names_the_side_and_the_threshold_in_percent(image, tmp_path, laterality, name):
    write_structured_report((assessed(laterality=laterality),), image, tmp_path / "report.dcm")
    (group,) = highdicom.sr.srread(tmp_path / "report.dcm").content.get_planar_roi_measurement_groups()
    (site,) = group.finding_sites
    assert (site.laterality and site.laterality.meaning) == name
    assert "malignant from 43 %" in group_texts(group[0])
