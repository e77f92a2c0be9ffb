from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diagnet.data.manifest import read_manifest
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import Prepared, read_data, write_prepared
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.data.sources import merged, read_sources, source_names
from diagnet.errors import DataError

CLASSES = ("benign", "malignant")
SETTINGS = RoiSettings(size=16)


def write_source(folder, n=4, seed=0, patient="P", name="masses.csv"):
    """A table of `n` masses, two a patient, each with an image of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = ["image,patient_id,label,x0,y0,x1,y1"]
    for k in range(n):
        PIL.Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / f"{k}.png")
        rows.append(f"{k}.png,{patient}{k // 2},{CLASSES[k % 2]},4,4,30,30")
    path = folder / name
    path.write_text("\n".join([*rows, "0.png,P0,,1,1,9,9"]) + "\n")
    return path


@pytest.fixture
def two(tmp_path):
    return [write_source(tmp_path / "north", name="n.csv"), write_source(tmp_path / "south", seed=1, name="s.csv")]


def test_masses_of_one_source_follow_those_of_the_other(two):
    found = read_sources(two, CLASSES, SETTINGS)
    apart = [read_manifest(path) for path in two]
    assert [mass.image for mass in found.masses] == [mass.image for each in apart for mass in each.masses]
    assert [mass.source for mass in found.masses] == ["n"] * 4 + ["s"] * 4
    assert found.sources == {"n": str(two[0]), "s": str(two[1])}
    assert found.source == f"{two[0]}, {two[1]}"
    assert found.left_out == {"n: no label": 1, "s: no label": 1}
    assert [(mass.label, mass.source) for mass in found.unlabelled] == [(None, "n"), (None, "s")]
    assert found.labels.tolist() == [0, 1] * 4


def test_images_of_one_relative_name_are_different_images(two):
    found = read_sources(two, CLASSES, SETTINGS)
    assert found.image_names == [f"{source}/{k}.png" for source in "ns" for k in range(4)]


def test_an_image_has_one_name_in_all_sources(tmp_path):
    path = write_source(tmp_path)
    head, *rows, _ = path.read_text().splitlines()
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / "others.csv"
    other.write_text("\n".join([head, f"../{rows[0].replace('4,4,30,30', '1,1,9,9')}"]) + "\n")
    outside = tmp_path / "outside" / "third.csv"
    outside.parent.mkdir()
    outside.write_text("\n".join([head, f"{tmp_path}/{rows[0].replace('4,4,30,30', '2,2,9,9')}"]) + "\n")
    found = read_sources([path, other, outside], CLASSES, SETTINGS)
    assert found.image_names == [f"masses/{k}.png" for k in range(4)] + ["masses/0.png"] * 2
    assert read_sources([outside, path], CLASSES, SETTINGS).image_names[:2] == [str(tmp_path / "0.png")] * 2


def test_a_patient_of_one_name_is_one_patient_unless_told_otherwise(two):
    together, distinct = (read_sources(two, CLASSES, SETTINGS, distinct_patients=each) for each in (False, True))
    assert together.patients == ["P0", "P0", "P1", "P1"] * 2
    assert together.patient_numbers.tolist() == [0, 0, 1, 1] * 2
    assert distinct.patient_numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [mass.patient_id for mass in distinct.masses] == together.patients


def test_no_source_and_patient_are_taken_for_others():
    masses = [Mass(np.zeros((4, 4), np.float32), None, "benign", name) for name in ("b, c", "c")]
    found = merged({"a": MassSet(masses[:1]), "a, b": MassSet(masses[1:])}, distinct_patients=True)
    assert len(set(found.patients)) == 2


def test_one_source_alone_is_as_ever(two, tmp_path):
    assert read_sources(two[:1], CLASSES, SETTINGS, distinct_patients=True) == read_manifest(two[0])
    write_prepared(read_manifest(two[0]), tmp_path / "data", SETTINGS)
    found, alone = read_sources([tmp_path / "data"], CLASSES, SETTINGS), read_data(tmp_path / "data", CLASSES)
    assert isinstance(found.images, np.memmap)
    assert found.mass_set == alone.mass_set
    assert found.sha256 == alone.sha256


def test_prepared_folders_and_manifests_go_together(two, tmp_path):
    write_prepared(read_manifest(two[0]), tmp_path / "data", SETTINGS)
    found = read_sources([tmp_path / "data", two[1]], CLASSES, SETTINGS, workers=1)
    both = read_sources(two, CLASSES, SETTINGS)
    assert isinstance(found, Prepared)
    assert np.array_equal(found.images, read_rois(both.masses, SETTINGS))
    assert [mass.source for mass in found.mass_set.masses] == ["data"] * 4 + ["s"] * 4
    assert found.settings == SETTINGS
    other = read_sources([two[1], tmp_path / "data"], CLASSES, SETTINGS)
    assert found.sha256 != other.sha256
    with pytest.raises(DataError, match=r"`DATA` must be cut alike, got .*size=8 .* in data, .*size=16 .* Fix:") as e:
        read_sources([tmp_path / "data", two[1]], CLASSES, RoiSettings(size=8))
    assert "\n" not in str(e.value)


def test_prepared_folders_alone_need_only_be_cut_alike(two, tmp_path):
    for path, name, settings in ((two[0], "a", SETTINGS), (two[1], "b", SETTINGS), (two[1], "c", RoiSettings(size=8))):
        write_prepared(read_manifest(path), tmp_path / name, settings)
    found = read_sources([tmp_path / "a", tmp_path / "b"], CLASSES, RoiSettings(size=32))
    assert found.settings == SETTINGS
    assert found.images.shape == (8, 16, 16)
    with pytest.raises(DataError, match="`DATA` must be cut alike"):
        read_sources([tmp_path / "a", tmp_path / "c"], CLASSES, SETTINGS)


def test_sources_of_other_classes_are_refused_in_one_line(two, tmp_path):
    three = read_manifest(two[0], classes=(*CLASSES, "normal"))
    write_prepared(three, tmp_path / "data", SETTINGS)
    with pytest.raises(DataError, match=r"`classes` must be the same in all sources, got .* in s and .* in data") as e:
        read_sources([two[1], tmp_path / "data"], CLASSES, SETTINGS)
    assert "\n" not in str(e.value)


def test_a_mass_in_two_sources_is_refused(two):
    again = two[0].parent / "again.csv"
    again.write_text(two[0].read_text())
    with pytest.raises(DataError, match=r"must hold each mass once, got 4 with the image and box of another source's"):
        read_sources([two[0], again], CLASSES, SETTINGS)
    with pytest.raises(DataError, match="must hold each mass once, got 4"):
        read_sources([two[0], two[0]], CLASSES, SETTINGS)


@pytest.mark.parametrize(("change", "distinct"), [(("P", "Q"), False), (("P", "P"), True)])
def test_an_image_of_two_patients_is_refused(two, change, distinct):
    again = two[0].parent / "again.csv"
    again.write_text(two[0].read_text().replace("4,4,30,30", "5,5,30,30").replace(*change))
    with pytest.raises(DataError, match="`DATA` must give each image one patient, got 4 images of two") as e:
        read_sources([two[0], again], CLASSES, SETTINGS, distinct_patients=distinct)
    assert "Q0" not in str(e.value)
    assert "P0" not in str(e.value)


@pytest.mark.parametrize("label", ["benign", ""])
def test_an_image_of_two_patients_in_one_table_is_refused(two, label):
    first = two[0].read_text().splitlines()[1].split(",")
    header = two[0].read_text().splitlines()[0].split(",")
    row = dict(zip(header, first, strict=True)) | {"patient_id": "Q9", "x0": "5", "label": label}
    two[0].write_text(two[0].read_text().rstrip() + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(DataError, match="`DATA` must give each image one patient, got 1 images of two"):
        read_sources(two[:1], CLASSES, SETTINGS)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.csv", "b.csv"], ["a", "b"]),
        (["x/m.csv", "y/m.csv", "z.csv"], ["x-m", "y-m", "z"]),
        (["1/x/m.csv", "2/x/m.csv"], ["x-m", "x-m-2"]),
        (["m.csv", "m.csv", "m.csv"], ["folder-m", "folder-m-2", "folder-m-3"]),
        (["1/x/m.csv", "2/x/m.csv", "x-m-2.csv"], ["x-m", "x-m-3", "x-m-2"]),
        (["1/x/m.csv", "2/x/m.csv", "x-m.csv"], ["x-m", "x-m-2", "x-m-3"]),
        (["data.v2", "b.v2.csv"], ["data.v2", "b.v2"]),
        (["data.v2/..", "a.csv"], ["folder", "a"]),
    ],
)
def test_source_names_are_unique(tmp_path, monkeypatch, paths, names):
    folder = tmp_path / "folder"
    (folder / "data.v2").mkdir(parents=True)
    monkeypatch.chdir(folder)
    found = source_names([Path(path) for path in paths])
    assert found == names
    assert not any("/" in name for name in found)
