import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diagnet.app.exam import Exam, exam_of
from diagnet.clinic.privacy import Pseudonyms
from diagnet.data.marked import Marked, read_marked
from dicom_files import drawn_breast, write_dicom
from served import CANARY

NAMES = Pseudonyms(b"k" * 32)
HERS = {"PatientID": f"{CANARY}-1", "StudyInstanceUID": "1.2.3", "ImageLaterality": "L"}


@pytest.fixture
def told(tmp_path):
    """What is told of a file with some elements, and of its row in a table."""

    def told(row=None, **elements):
        path = write_dicom(tmp_path / "a.dcm", drawn_breast(), **elements)
        return exam_of(path, NAMES, row and Marked(path, **row))

    return told


def test_a_file_tells_patient_study_side_and_view_as_keyed_hashes(told):
    found = told(**HERS, ViewPosition="CC")
    assert (found.laterality, found.view, found.unpaired) == ("L", "CC", "")
    assert len(found.patient) == len(found.study) == 32
    assert CANARY not in str(found)
    assert "1.2.3" not in str(found)
    other = told(**HERS | {"PatientID": "another"}, ViewPosition="CC")
    assert other.patient != found.patient
    assert other.study == found.study
    assert told(**HERS, IssuerOfPatientID="elsewhere", ViewPosition="CC").patient != found.patient
    assert Pseudonyms(b"o" * 32).of(HERS["PatientID"], "file ") != found.patient


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("PatientID", "patient is"),
        ("StudyInstanceUID", "study is"),
        ("ImageLaterality", "side is"),
        ("ViewPosition", "view is"),
    ],
)
def test_what_is_not_known_pairs_nothing(told, left_out, missing):
    elements = HERS | {"ViewPosition": "CC"}
    del elements[left_out]
    assert told(**elements).unpaired == f"its {missing} not given by the file or the table of --images"


def test_a_table_tells_of_files_that_do_not(tmp_path):
    (tmp_path / "boxes.csv").write_text(
        "image,patient_id,exam_id,laterality,view\na.png,P1,E1,left,cc\na.png,P1,E1,left,cc\nb.png,P1,E1,L,MLO\n"
        "c.png,P1,,R,CC\nd.png,P1,E1,L,CC\nd.png,P2,E1,R,CC\n"
    )
    rows = read_marked(tmp_path / "boxes.csv")
    assert (rows[0].patient_id, rows[0].study, rows[0].laterality, rows[0].view) == ("P1", "E1", "L", "CC")
    a, b, c, d = (exam_of(row.image, NAMES, row) for row in rows)
    assert (a.patient, a.study, a.laterality) == (b.patient, b.study, b.laterality)
    assert not a.unpaired
    assert not a.by_patient_alone
    assert c.by_patient_alone
    assert not c.unpaired
    assert d.unpaired == "its patient and side are not given by the file or the table of --images"  # its rows disagree


def test_file_and_table_that_differ_pair_nothing(told):
    row = {"patient_id": "P1", "laterality": "R", "view": "CC"}
    found = told(row, **HERS)
    assert found.unpaired == "the file and the table name different sides"
    assert found.laterality == ""
    found = told(row | {"laterality": "L"}, **HERS, ViewPosition="MLO")
    assert found.unpaired == "the file and the table name different views"


def test_the_tables_patient_is_taken_and_the_files_study_kept(told):
    found = told({"patient_id": "P1", "view": "CC"}, **HERS)
    assert found.patient == NAMES.of("P1", "table")
    assert found.study == NAMES.of("1.2.3", "study of a file")
    assert not found.by_patient_alone


def test_a_file_that_tells_nothing_and_one_that_would_be_unpacked_whole(tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    deflated = write_dicom(tmp_path / "d.dcm", drawn_breast(), DeflatedExplicitVRLittleEndian, **HERS)
    for path in (tmp_path / "broken.dcm", tmp_path / "gone.png", deflated):
        found = exam_of(path, NAMES)
        assert found == Exam(unpaired=found.unpaired)
        assert found.unpaired.startswith("its patient and study and side and view are")


def test_the_server_tells_what_belongs_together_and_no_name(make_client):
    images = make_client().get("/v1/images").json()
    assert {each["laterality"] for each in images} == {"L", "R", ""}  # before any of them was read
    of_files = [each for each in images if each["patient"]]
    assert len({each["patient"] for each in of_files}) == len({each["study"] for each in of_files}) == 1
    assert CANARY not in str(images)
