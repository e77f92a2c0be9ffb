import plistlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from diagnet.data.inbreast import InbreastSettings, read_inbreast
from diagnet.data.phantom import make_inbreast_release
from diagnet.errors import DataError
from dicom_files import write_dicom

HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
OVAL = ["(10.5, 20.25)", "(30, 22)", "(25.5,40)", "(12.0, 38.0)"]


def roi(name: str, points: Any = OVAL) -> dict[str, Any]:
    return {"Name": name, "NumberOfPoints": len(points), "Point_px": points, "Type": 15}


class Release:
    """A release folder of 50 × 100 pixel images, made image by image."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "INbreast Release 1.0"
        for name in ("AllDICOMs", "AllXML"):
            (self.folder / name).mkdir(parents=True)
        self.rows: list[str] = []

    def add(
        self,
        number: int,
        birads: str,
        *rois: dict[str, Any],
        token: str = "6c613a14b80a8591",  # noqa: S107 -- a patient's key in file names
        name_view: str = "R_ML",
        row: str | None = None,
        dicom: bool = True,
    ) -> None:
        if dicom:
            path = self.folder / "AllDICOMs" / f"{number}_{token}_MG_{name_view}_ANON.dcm"
            write_dicom(path, np.zeros((100, 50), np.uint16), ImagerPixelSpacing=[0.07, 0.07])
        if rois:
            content = plistlib.dumps({"Images": [{"ImageIndex": 0, "NumberOfROIs": len(rois), "ROIs": list(rois)}]})
            (self.folder / "AllXML" / f"{number}.xml").write_bytes(content)
        self.rows.append(f"removed;removed;R;MLO;201001;{number};    ;{birads}" if row is None else row)
        text = "".join(f"{line}\r\n" for line in [HEADER, *self.rows] if line)
        (self.folder / "INbreast.csv").write_bytes(text.encode())


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


def test_masses_of_an_image(release: Release) -> None:
    release.add(
        20586908,
        "4a",
        roi("Calcification", ["(3, 3)"]),
        roi("Mass"),
        roi("Spiculated Region"),
        roi("", ["(1, 1)"]),
        roi("Asimmetry"),
        roi("mass ", ["(40.5, 90)", "(55, 95)", "(45, 120.5)"]),
    )
    found = read_inbreast(release.folder)
    first, second = found.masses
    assert first.image == release.folder / "AllDICOMs" / "20586908_6c613a14b80a8591_MG_R_ML_ANON.dcm"
    assert first.box == (10.5, 20.25, 30.0, 40.0)
    assert second.box == (40.5, 90.0, 50.0, 100.0)
    assert (first.label, first.label_source) == ("malignant", "birads")
    assert (first.patient_id, first.laterality, first.view) == ("6c613a14b80a8591", "R", "MLO")
    assert first.spacing_mm == (0.07, 0.07)
    assert first.extra == {"birads": "4a", "acr": ""}
    assert found.notes == {"outline clipped to its image": 1}
    assert found.left_out == {}


def test_the_folder_above_will_do(release: Release) -> None:
    release.add(1, "5", roi("Mass"))
    assert list(read_inbreast(release.folder.parent).masses) == list(read_inbreast(release.folder).masses)


def test_the_label_rule_is_a_setting(release: Release) -> None:
    categories = ["1", "2", "3", "4a", "4b", "4c", "5", "6"]
    for number, category in enumerate(categories):
        release.add(number, category, roi("Mass"))
    assert read_inbreast(release.folder).labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    found = read_inbreast(release.folder, InbreastSettings(malignant_from=5))
    assert found.labels.tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        InbreastSettings(malignant_from=1)


def test_whatever_is_left_out_is_counted(release: Release) -> None:
    release.add(1, "2", roi("Mass"))
    release.add(2, "2", roi("Mass"), roi("Mass"))
    release.add(3, "2", roi("Cluster"))
    release.add(4, "1")
    release.add(5, "5", roi("Mass"), dicom=False)
    release.add(6, "5", roi("Mass"), row="")
    release.add(7, "", roi("Mass"))
    release.add(8, "5", roi("Mass", ["(60, 10)", "(70, 20)", "(80, 10)"]), roi("Mass", ["(1, 1)", "(2, 2)"]))
    release.add(9, "5", roi("Mass", ["(1, 1)", "(2, x)", "(3, 3)"]), roi("Mass", ["1 1", "2 2", "3 3"]))
    release.add(10, "5", {"Name": "Mass"}, roi("Mass", ["(1, 1)", "(nan, 2)", "(3, 3)"]))
    release.add(11, "5", roi("Mass"), roi("Mass", ["(1, 1)", "(2, 5)", "(3, 3)"]), name_view="L_CC")
    release.add(12, "5", roi("Mass"), dicom=False, row="removed;removed;;;;;;")
    (release.folder / "AllDICOMs" / "11_6c613a14b80a8591_MG_L_CC_ANON.dcm").write_bytes(b"broken")
    found = read_inbreast(release.folder)
    assert [mass.label for mass in found.masses] == ["benign", "benign"]
    assert found.left_out == {
        "table row without its DICOM file": 1,
        "DICOM file without a row in the table": 1,
        "table row without a file number": 1,
        "outline file of no known image": 1,
        "mass with the box of another mass of its image": 1,
        "mass without a BI-RADS category": 1,
        "mass whose outline lies outside its image": 1,
        "mass whose outline cannot be read": 5,
        "mass whose image cannot be read": 2,
    }
    assert found.notes == {
        "image without a mass": 1,
        "image without an outline file": 1,
        "side or view of the table is not the file name's": 1,
    }


def test_file_numbers_that_a_spreadsheet_touched(release: Release) -> None:
    release.add(20586908, "3", roi("Mass"), row="removed;removed;R;MLO;201001;20586908.0;1;3")
    assert len(read_inbreast(release.folder).masses) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no xml",
        b"<svg></svg>",
        b"<plist><dict><key>Images</key></dict></plist>",
        plistlib.dumps({"Pictures": []}),
        plistlib.dumps([1, 2]),
        plistlib.dumps({"Images": [{"ROIs": "none"}]}),
        b'<!DOCTYPE p [<!ENTITY a "a">]><plist><dict><key>Images</key><string>&a;</string></dict></plist>',
    ],
)  # fmt: skip
def test_an_xml_that_is_no_outline_file_is_told(release: Release, content: bytes) -> None:
    release.add(1, "5", roi("Mass"))
    (release.folder / "AllXML" / "1.xml").write_bytes(content)
    message = r"`outlines` must be a property list of Images and ROIs, got another file: .*1\.xml\.$"
    with pytest.raises(DataError, match=message):
        read_inbreast(release.folder)


def test_a_release_without_its_parts_is_told(release: Release, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`folder` must hold AllDICOMs, AllXML and"):
        read_inbreast(tmp_path / "none")
    with pytest.raises(DataError, match="`folder` must hold AllDICOMs, AllXML and"):
        read_inbreast(release.folder)
    release.add(1, "5", roi("Mass"), dicom=False)
    release.add(2, "5", roi("Mass"), dicom=False)
    with pytest.raises(DataError, match=r"`AllDICOMs` must hold the DICOM files of INbreast\.csv, got none of 2"):
        read_inbreast(release.folder)


def test_a_table_with_faults_is_told(release: Release) -> None:
    release.add(1, "5", roi("Mass"))
    release.add(2, "5", roi("Mass"), row="removed;removed;R;MLO;201001;1;2;5")
    with pytest.raises(DataError, match=r"must be listed once, got row 2 again in .*INbreast\.csv, row 3"):
        read_inbreast(release.folder)
    (release.folder / "INbreast.csv").write_text("File Name;Bi-Rads\n1;5\n")
    with pytest.raises(DataError, match="`Laterality` must be a column, got none of this name"):
        read_inbreast(release.folder)


def test_a_synthetic_release_reads_as_it_was_made(tmp_path: Path) -> None:
    make_inbreast_release(tmp_path, n_patients=4, rng=np.random.default_rng(0))
    found = read_inbreast(tmp_path)
    assert len(set(found.patients)) == 4
    assert set(Counter(mass.label for mass in found.masses)) == {"benign", "malignant"}
    assert {mass.view for mass in found.masses} == {"CC", "MLO"}
    assert found.left_out == {}
