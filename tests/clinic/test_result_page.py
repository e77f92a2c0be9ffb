"""The page that people read: one page, the report's facts, the same bytes for the same input, in a valid DICOM file."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("matplotlib", reason="the extra is missing: not run. Fix: pip install diagnet-mammography[report]")

import highdicom
from pydicom import dcmread

from clinic_parts import CANARY, assessed, canaries, mammogram
from diagnet.clinic import result_page
from diagnet.clinic.identifiers import mass_uid
from diagnet.clinic.report import write_structured_report
from diagnet.clinic.result_page import write_result_page
from diagnet.errors import MissingExtraError
from diagnet.notice import NO_DEVICE, NOTICE, SYNTHETIC_FLAG, notice_of

MEANING = "Of 39 masses with scores like this one (2 to 38 %), 11 were malignant: 28 %, 95 % interval 15 to 43 %."
MASSES = (
    assessed(flags=("Modality is not MG: this may be no mammogram",)),
    assessed((10.0, 10.5, 30.0, 40.25), "abstained", malignancy=0.44, reason="the score is too near the threshold"),
    assessed((150.0, 180.0, 199.0, 239.0), "refused", malignancy=None, reason="the box is mostly background"),
)


def tool(name, package):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not there: not run. Fix: apt-get install {package}")
    return name


def text_of(pdf):
    """What can be copied from a PDF, without the breaks of its lines."""
    done = subprocess.run(
        [tool("pdftotext", "poppler-utils"), str(pdf), "-"], capture_output=True, text=True, check=True, timeout=60
    )
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return mammogram(tmp_path_factory.mktemp("image") / "image.dcm", **canaries())


@pytest.fixture(scope="module")
def pdf(image):
    write_result_page(MASSES, image, image.with_name("page.pdf"), [MEANING, "", ""])
    return image.with_name("page.pdf")


def test_the_page_has_the_facts_of_the_report_and_no_patient(image, pdf):
    text = text_of(pdf)
    source = dcmread(image, stop_before_pixels=True)
    write_structured_report(MASSES, image, image.with_name("sr.dcm"))
    for group in highdicom.sr.srread(image.with_name("sr.dcm")).content.get_planar_roi_measurement_groups():
        said = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        said = [part for each in said if not each.startswith("Step: ") for part in each.split("sha256 ")[-1:]]
        assert {*said} >= {NOTICE, "DiagNet", "malignant from 43 %"}
        for each in (*said, group.tracking_uid):
            assert each.replace(" ", "") in text.replace(" ", ""), each
    for each in ("1: malignant, probability 81.2 %", "2: abstained, probability 44.0 %", "3: refused", MEANING):
        assert each in text
    for each in (NO_DEVICE, "decode: RLE Lossless; voi: window", "12.8 x 11.2 mm", "2026-01-02", "left"):
        assert each in text
    assert source.SOPInstanceUID in text.replace(" ", "")
    assert str(mass_uid(source.SOPInstanceUID, MASSES[0].box)) in text
    assert "SYNTHETIC" not in text
    assert CANARY not in text
    assert CANARY.encode() not in pdf.read_bytes()


def test_a_model_trained_on_phantoms_says_so(image, tmp_path):
    found = [replace(MASSES[0], is_synthetic=True, flags=(SYNTHETIC_FLAG,))]
    write_result_page(found, image, tmp_path / "page.pdf")
    text = text_of(tmp_path / "page.pdf")
    assert text.count(notice_of(True)) == 2
    assert text.count(SYNTHETIC_FLAG) == 1
    assert "1: SYNTHETIC MODEL: malignant" in text


def test_the_same_input_gives_the_same_bytes(image, pdf, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")  # what matplotlib would take for a date
    uid = write_result_page(MASSES, image, tmp_path / "page.pdf", [MEANING, "", ""])
    assert (tmp_path / "page.pdf").read_bytes() == pdf.read_bytes()
    assert b"CreationDate" not in pdf.read_bytes()
    drawn = []
    monkeypatch.setattr(result_page, "page", lambda *_: drawn.append(1) or b"%PDF-")
    assert write_result_page(MASSES, image, tmp_path / "a.dcm", [MEANING, "", ""]) == uid
    assert write_result_page(MASSES, image, tmp_path / "b.dcm") != uid
    assert drawn == [1, 1]


def test_dicom_readers_find_the_pdf_again(image, pdf, tmp_path):
    path = tmp_path / "page.dcm"
    uid = write_result_page(MASSES, image, path, [MEANING, "", ""])
    found, source = dcmread(path), dcmread(image, stop_before_pixels=True)
    assert found.EncapsulatedDocument[: found.EncapsulatedDocumentLength] == pdf.read_bytes()
    assert found.SOPInstanceUID == uid
    assert (found.SOPClassUID.keyword, found.Modality) == ("EncapsulatedPDFStorage", "DOC")
    assert found.SeriesDescription == found.DocumentTitle == NOTICE
    assert found.SourceInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (found.StudyInstanceUID, found.PatientID) == (source.StudyInstanceUID, source.PatientID)
    subprocess.run([tool("dcm2pdf", "dcmtk"), str(path), str(tmp_path / "out.pdf")], check=True, timeout=60)
    assert (tmp_path / "out.pdf").read_bytes().rstrip(b"\0") == pdf.read_bytes()
    done = subprocess.run(
        [tool("dciodvfy", "dicom3tools"), str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Error" not in done.stdout + done.stderr


def test_any_number_of_masses_is_one_page_inside_its_edges(image, tmp_path):
    long = "word " * 30 + "x" * 300
    found = [assessed(MASSES[0].box, reason=long, flags=(f"$\\alpha$ {n}", "中")) for n in range(60)]
    write_result_page(found, image, tmp_path / "page.pdf", ["y" * 400] * 60)
    text = text_of(tmp_path / "page.pdf")
    assert "$\\alpha$ 0 Note: ?" in text
    n_left = int(text.split(" more masses: the structured report has them")[0].split()[-1])
    assert all(f"Mass {number}: malignant" in text for number in range(1, 61 - n_left))
    assert 0 < n_left < 58
    out = tmp_path / "page"
    drawn = [tool("pdftoppm", "poppler-utils"), "-r", "36", "-gray", str(tmp_path / "page.pdf"), str(out)]
    subprocess.run(drawn, check=True, timeout=60)
    (only,) = tmp_path.glob("page-*.pgm")  # one page
    pixels = np.frombuffer(only.read_bytes()[-298 * 421 :], dtype=np.uint8).reshape(421, 298)
    assert (pixels[40:, 279:] == 255).all()  # nothing beyond the right edge
    assert (pixels[402:] == 255).all()  # nor below the foot


@pytest.mark.parametrize(
    ("box", "allowed"),
    [((0.0, 0.0, 0.0, 0.0), False), ((float("nan"), 0.0, 9.0, 9.0), True), ((900.0, 900.0, 950.0, 950.0), True)],
)
def test_what_cannot_be_shown_has_a_page_with_its_reason(tmp_path, box, allowed):
    raw, out = mammogram(tmp_path / "raw.dcm", PresentationIntentType="FOR PROCESSING"), tmp_path / "page.pdf"
    found = [assessed(box, "refused", malignancy=None, reason=f"raw data in {raw}", input_sha256="", image=raw)]
    write_result_page(found, raw, out, allow_for_processing=allowed)
    assert "Reason: raw data in the file" in text_of(out)
    assert out.read_bytes().count(b"/Subtype /Image") == allowed


def test_a_missing_library_is_one_line(image, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "matplotlib" else Path)
    with pytest.raises(MissingExtraError, match=r"`matplotlib` must be installed for this. Fix: .*\[report\]"):
        write_result_page(MASSES, image, tmp_path / "page.pdf")
