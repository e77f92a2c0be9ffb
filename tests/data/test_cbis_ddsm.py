import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import RLELossless

from diagnet.data.cbis_ddsm import read_cbis_ddsm
from diagnet.data.dicom import read_geometry
from diagnet.errors import DataError
from dicom_files import write_dicom

COLUMNS = [
    "patient_id", "breast_density", "left or right breast", "image view", "abnormality id", "abnormality type",
    "mass shape", "mass margins", "assessment", "pathology", "subtlety", "image file path",
    "cropped image file path", "ROI mask file path",
]  # fmt: skip
NOISE = np.random.default_rng(0).integers(0, 65536, (120, 80), np.uint16)


def lesion(height: int = 120, width: int = 80, box: tuple[int, int, int, int] = (20, 30, 41, 62)) -> np.ndarray:
    x0, y0, x1, y1 = box
    mask = np.zeros((height, width), np.uint8)
    mask[y0:y1, x0:x1] = 255
    return mask


class Collection:
    """A folder as the archive releases it, made mass by mass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, list[list[str]]] = {}

    def add(
        self,
        patient: str = "P_00001",
        pathology: str = "MALIGNANT",
        *,
        number: int = 1,
        mask: np.ndarray | None = None,
        image: bool = True,
        swapped: bool = False,
        renamed: bool = False,
        two_series: bool = False,
        split: str = "train",
        syntax: Any = RLELossless,
    ) -> None:
        kind = {"train": "Training", "test": "Test"}[split]
        name = f"Mass-{kind}_{patient}_LEFT_MLO"
        crop_series, mask_series = f"9.1.{number}11111", f"9.1.{number}{'22222' if two_series else '11111'}"
        released = {
            "image": (name, f"1.2.{number}", "1.2.300000", "000000.dcm"),
            "crop": (f"{name}_{number}", "1.2.4", crop_series, "000000.dcm"),
            "mask": (f"{name}_{number}", "1.2.4", mask_series, "000000.dcm" if two_series else "000001.dcm"),
        }
        mask = lesion() if mask is None else mask
        contents = {"image": NOISE, "crop": NOISE[:30, :20], "mask": mask}
        if swapped:
            contents["crop"], contents["mask"] = contents["mask"], contents["crop"]
        for role, parts in released.items():
            if role == "image" and not image:
                continue
            series, study, uid, file = parts
            if renamed:  # as the newer downloads of the archive
                study, uid = "07-20-2016-DDSM-NA-96009", f"1.000000-{role} images-{uid[-5:]}"
                file = f"1-{int(file[:6]) + 1}.dcm"
            path = self.folder / "CBIS-DDSM" / series / study / uid / file
            write_dicom(path, contents[role], syntax, PatientOrientation="MLO", Laterality="L")
        paths = ["/".join(parts) for parts in released.values()]
        row = [patient, "3", "LEFT", "MLO", str(number), "mass", "OVAL", "SPICULATED", "4", pathology, "5"]
        self.rows.setdefault(split, []).append([*row, paths[0], paths[1] + "\n", paths[2] + "\n"])
        self.write()

    def write(self) -> None:
        for split, rows in self.rows.items():
            with (self.folder / f"mass_case_description_{split}_set.csv").open("w", newline="") as file:
                csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


@pytest.mark.parametrize("renamed", [False, True])
def test_a_mass(collection: Collection, renamed: bool) -> None:
    collection.add(renamed=renamed)
    found = read_cbis_ddsm(collection.folder)
    (mass,) = found.masses
    assert isinstance(mass.image, Path)
    assert mass.image.is_file()
    assert mass.box == (20.0, 30.0, 41.0, 62.0)
    assert (mass.label, mass.label_source) == ("malignant", "pathology")
    assert (mass.patient_id, mass.laterality, mass.view) == ("P_00001", "L", "MLO")
    assert mass.extra == {
        "pathology": "MALIGNANT",
        "abnormality_id": "1",
        "mass_shape": "OVAL",
        "mass_margins": "SPICULATED",
        "birads": "4",
        "subtlety": "5",
        "breast_density": "3",
        "split_group": "train",
    }
    assert found.notes == {}
    assert found.left_out == {}


def test_pathology_and_official_split(collection: Collection) -> None:
    collection.add("P_00001", "BENIGN")
    collection.add("P_00002", "BENIGN_WITHOUT_CALLBACK", split="test")
    collection.add("P_00003", "MALIGNANT", split="test")
    found = read_cbis_ddsm(collection.folder)
    masses = {mass.patient_id: mass for mass in found.masses}
    assert {patient: mass.label for patient, mass in masses.items()} == {
        "P_00001": "benign",
        "P_00002": "benign",
        "P_00003": "malignant",
    }
    assert [masses[patient].extra["split_group"] for patient in sorted(masses)] == ["train", "test", "test"]


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("two_series", [False, True])
def test_swapped_mask_and_crop_are_noticed(collection: Collection, renamed: bool, two_series: bool) -> None:
    collection.add("P_00001", swapped=True, renamed=renamed, two_series=two_series)
    collection.add("P_00002", renamed=renamed, two_series=two_series)
    found = read_cbis_ddsm(collection.folder)
    assert [mass.box for mass in found.masses] == [(20.0, 30.0, 41.0, 62.0)] * 2
    assert found.notes == {"mask and crop were swapped": 1}


def test_masks_of_another_size_are_scaled(collection: Collection) -> None:
    collection.add(mask=lesion(240, 160, (40, 60, 82, 124)))
    found = read_cbis_ddsm(collection.folder)
    assert found.masses[0].box == (20.0, 30.0, 41.0, 62.0)
    assert found.notes == {"mask of another size than its image": 1}


def test_several_masses_of_one_image(collection: Collection) -> None:
    collection.add(number=1)
    collection.add(number=2, mask=lesion(box=(1, 2, 3, 4)))
    collection.add(number=3, mask=lesion(box=(1, 2, 3, 4)))
    found = read_cbis_ddsm(collection.folder)
    assert len({mass.image for mass in found.masses}) == 1
    assert [mass.box for mass in found.masses] == [(20.0, 30.0, 41.0, 62.0), (1.0, 2.0, 3.0, 4.0)]
    assert found.left_out == {"mass with the box of another mass of its image": 1}


def test_whatever_is_left_out_is_counted(collection: Collection) -> None:
    collection.add("P_00001")
    collection.add("P_00002", image=False)
    collection.add("P_00003", mask=lesion(80, 120))
    collection.add("P_00004", mask=lesion(box=(0, 0, 0, 0)))
    collection.add("P_00005", mask=NOISE)
    for patient in ("P_00006", "P_00007", "P_00008"):
        collection.add(patient)
    for path in collection.folder.rglob("Mass-Training_P_00006_LEFT_MLO_1/**/*.dcm"):
        path.unlink()
    for path in collection.folder.rglob("Mass-Training_P_00007_LEFT_MLO/**/*.dcm"):
        path.write_bytes(b"broken")
    for path in collection.folder.rglob("Mass-Training_P_00008_LEFT_MLO_1/**/*.dcm"):
        path.write_bytes(path.read_bytes()[:-20])
    found = read_cbis_ddsm(collection.folder)
    assert found.patients == ["P_00001"]
    assert found.left_out == {
        "mass without its image file": 1,
        "mass whose mask has not the proportions of its image": 1,
        "mass whose mask is empty": 1,
        "mass whose mask cannot be read": 2,
        "mass without its mask file": 1,
        "mass whose image cannot be read": 1,
    }


def test_progress_is_told(collection: Collection) -> None:
    collection.add("P_00001")
    collection.add("P_00002")
    told: list[tuple[str, int, int]] = []
    read_cbis_ddsm(collection.folder, progress=lambda *step: told.append(step))
    assert told == [("masks", 0, 2), ("masks", 1, 2), ("masks", 2, 2)]


def test_faults_are_told_in_one_line(collection: Collection) -> None:
    with pytest.raises(DataError, match=r"must hold mass_case_description_train_set\.csv or .*got neither"):
        read_cbis_ddsm(collection.folder)
    with pytest.raises(DataError, match=r"must hold mass_case_description_train_set\.csv or .*got neither"):
        read_cbis_ddsm(collection.folder / "none")
    collection.add()
    table = collection.folder / "mass_case_description_train_set.csv"
    for column, value, message in (
        ("pathology", "UNPROVEN", r"`pathology` must be one of BENIGN, .*, got 'UNPROVEN' in .*\.csv, row 2"),
        ("patient_id", "", r"`patient_id` must be given, got an empty cell in .*\.csv, row 2"),
        ("ROI mask file path", "", r"`ROI mask file path` must be a path, got an empty cell in .*\.csv, row 2"),
    ):
        row = list(collection.rows["train"][0])
        row[COLUMNS.index(column)] = value
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, row])
        with pytest.raises(DataError, match=message):
            read_cbis_ddsm(collection.folder)
    collection.write()
    (collection.folder / "copy").mkdir()
    (collection.folder / "copy" / table.name).write_bytes(table.read_bytes())
    with pytest.raises(DataError, match=r"must hold each table once, got mass_case_.*\.csv 2 times in"):
        read_cbis_ddsm(collection.folder)


def test_the_real_table_alone_is_told(shared_masses: Path) -> None:
    with pytest.raises(DataError, match="must hold the DICOM series of its tables, got none of 1318 in"):
        read_cbis_ddsm(shared_masses / "tcia")


def test_a_real_row_with_its_real_image(shared_masses: Path, tmp_path: Path) -> None:
    """The real table, with an image that is here and a mask of its size in place of the archive's series."""
    with (shared_masses / "tcia" / "mass_case_description_train_set.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    (tmp_path / "mass_case_description_train_set.csv").symlink_to(
        shared_masses / "tcia" / "mass_case_description_train_set.csv"
    )
    image = tmp_path / "CBIS-DDSM" / row["image file path"].strip()
    image.parent.mkdir(parents=True)
    image.symlink_to(shared_masses / "dicom" / "mammogram_P_00173_L_CC.dcm")
    geometry = read_geometry(image)
    mask = lesion(geometry.height, geometry.width, (928, 2304, 1239, 2575))
    write_dicom(tmp_path / "CBIS-DDSM" / row["ROI mask file path"].strip(), mask)
    found = read_cbis_ddsm(tmp_path)
    assert [(mass.patient_id, mass.box) for mass in found.masses] == [("P_00001", (928.0, 2304.0, 1239.0, 2575.0))]
    assert found.left_out == {"mass without its image file": 1317}
