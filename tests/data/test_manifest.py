import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.data.manifest import ALIASES, OPTIONAL, REQUIRED, UNUSABLE_SPACING, read_manifest, write_manifest
from diagnet.data.mass import Mass, MassSet
from diagnet.errors import DataError
from dicom_files import write_dicom

HEADER = "image,patient_id,laterality,view,label,x0,y0,x1,y1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / name)
    write_dicom(tmp_path / "c.dcm", np.zeros((20, 30), np.uint16))
    return tmp_path


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "masses.csv"
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


def test_all_columns(folder: Path) -> None:
    path = table(
        folder,
        f"{HEADER},label_source,row_spacing_mm,column_spacing_mm,original_width,original_height,split_group,Note",
        "a.png,P1,LEFT,mlo,Malignant,1,2,10.5,20,biopsy,0.07,0.08,300,400,dev, spiculated ",
        f"{folder}/b.png,P2,r,CC,BENIGN,,,,,,,,,,,",
        "c.dcm,P2,,,benign,0,0,30,20,,,,,,,",
    )
    found = read_manifest(path)
    assert found.masses[0] == Mass(
        image=folder / "a.png",
        box=(1.0, 2.0, 10.5, 20.0),
        label="malignant",
        patient_id="P1",
        laterality="L",
        view="MLO",
        label_source="biopsy",
        spacing_mm=(0.07, 0.08),
        original_size=(300.0, 400.0),
        extra={"split_group": "dev", "Note": "spiculated"},
    )
    assert found.masses[1] == Mass(
        folder / "b.png", None, "benign", "P2", "R", "CC", extra={"split_group": "", "Note": ""}
    )
    assert found.masses[2].box == (0, 0, 30, 20)
    assert found.labels.tolist() == [1, 0, 0]
    assert found.source == str(path)
    assert found.left_out == {}


def test_three_columns_are_enough_in_any_order_case_and_dialect(folder: Path) -> None:
    lines = ["Label;FILE_PATH ;Patient_ID", ";b.png;P2", ";;", "benign;a.png;'P;1'"]
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_manifest(table(folder, *(line.replace("'", '"') for line in lines), encoding=encoding))
        assert list(found.masses) == [Mass(folder / "a.png", None, "benign", "P;1")]
        assert found.left_out == {"no label": 1}


def test_an_alias_yields_to_the_column_itself(folder: Path) -> None:
    (mass,) = read_manifest(table(folder, "file_path,image,patient_id,label", "z.png,a.png,P1,benign")).masses
    assert mass.image == folder / "a.png"
    assert mass.extra == {"file_path": "z.png"}


def test_other_classes_by_argument(folder: Path) -> None:
    path = table(folder, "image,patient_id,label", "a.png,P1,Cyst", "b.png,P2,cancer")
    found = read_manifest(path, classes=("normal", "cyst", "cancer"))
    assert found.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"must be one of benign, malignant, or empty, got 'Cyst' in .*, row 2"):
        read_manifest(path)


def test_rounded_boxes_are_clipped(folder: Path) -> None:
    (mass,) = read_manifest(table(folder, HEADER, "a.png,P1,,,benign,-0.4,0,31,20.9")).masses
    assert mass.box == (0, 0, 30, 20)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,label", "a.png,benign"], "`patient_id` must be a column, got none of this name in {path}, row 1"),
        (["image,patient_id,label,Label", "a.png,P,benign,x"], "`label` must be one column, got 2 of this name"),
        ([HEADER, "a.png,P1,,,maybe,,,,"], "one of benign, malignant, or empty, got 'maybe' in {path}, row 2"),
        ([HEADER, "a.png,P1,,,benign,1,2,3"], "`y1` must be a number, got an empty cell beside filled ones"),
        ([HEADER, "a.png,P1,,,benign,1,two,3,4"], "`y0` must be a number, got text in {path}, row 2"),
        ([HEADER, "a.png,P1,,,benign,1,nan,3,4"], "`y0` must be a finite number, got nan"),
        ([HEADER, "a.png,P1,,,benign,1,2,inf,4"], "`x1` must be a finite number, got inf"),
        ([HEADER, "a.png,P1,,,benign,5,2,5,4"], "`x1` must be above x0, got the box (5, 2, 5, 4)"),
        ([HEADER, "a.png,P1,,,benign,5,4,6,2"], "`y1` must be above y0, got the box (5, 4, 6, 2)"),
        (
            [HEADER, "b.png,P1,,,benign,,,,", "a.png,P1,,,benign,1,2,32,4"],
            "`x1` must lie inside the image of 30 x 20 pixels, got the box (1, 2, 32, 4) in {path}, row 3",
        ),
        ([HEADER, "a.png,P1,,,benign,1,-3,3,4"], "`y0` must lie inside the image of 30 x 20 pixels"),
        ([HEADER, "a.png,P1,,,benign,40,2,50,4"], "`x0` must lie inside the image of 30 x 20 pixels"),
        ([HEADER, "a.png,P1,,,benign,30,2,31,4"], "must lie inside the image of 30 x 20 pixels"),
        (
            [HEADER, "a.png,P1,,,benign,1,2,3,4", "", "./a.png,P9,,,,1.0,2,3,4"],
            "`image` must differ in file or box from every other row, got row 2 again in {path}, row 4",
        ),
        ([HEADER, "none.png,P1,,,benign,,,,"], "`image` must name a file relative to the table's folder, got none"),
        ([HEADER, f"{'n' * 999}.png,P1,,,benign,,,,"], "`image` must name a file relative to the table's folder"),
        ([HEADER, ",P1,,,benign,,,,"], "`image` must name a file, got an empty cell"),
        ([HEADER, "masses.csv,P1,,,benign,,,,"], "must be a PNG, JPEG, TIFF, PGM or DICOM image that may be read"),
        ([HEADER, "a.png, ,,,benign,,,,"], "`patient_id` must be given, got an empty cell in {path}, row 2"),
        ([HEADER, "a.png,P1,both,,benign,,,,"], "`laterality` must be L, R, LEFT, RIGHT or empty"),
        ([HEADER, "a.png,P1,,,benign,,,,,more"], "`row` must have 9 cells as the header has, got 10 in"),
        ([HEADER + ",original_width,original_height", "a.png,P,,,,,,,,0,9"], "`original_width` must be above 0"),
        ([HEADER + ",original_width", "a.png,P,,,,,,,,7"], "`original_height` must be a number"),
        ([HEADER], "`table` must have a row below its header, got none in {path}"),
        ([HEADER, " , "], "`table` must have a row below its header, got none in {path}"),
        ([], "`table` must have a header, got an empty file: {path}"),
        ([HEADER, 'a.png,"P1'], "`table` must be CSV, got unexpected end of data in {path}"),
    ],
)  # fmt: skip
def test_bad_tables_are_told_in_one_line(folder: Path, lines: list[str], message: str) -> None:
    path = table(folder, *lines)
    with pytest.raises(DataError, match="`") as caught:
        read_manifest(path)
    assert message.format(path=path) in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "P1" not in str(caught.value)


@pytest.mark.parametrize("cells", ["0,0.07", "-1,0.07", "nan,0.07", "0.07 mm,0.07", "[0.07],0.07", ",0.07"])
def test_one_unusable_spacing_is_counted_and_does_not_stop_the_table(folder: Path, cells: str) -> None:
    header = f"{HEADER},row_spacing_mm,column_spacing_mm"
    found = read_manifest(table(folder, header, f"a.png,P1,,,benign,,,,,{cells}", "b.png,P2,,,malignant,,,,,0.07,0.08"))
    assert [mass.spacing_mm for mass in found.masses] == [None, (0.07, 0.08)]
    assert found.notes == {UNUSABLE_SPACING: 1}
    assert not found.left_out


def test_other_encodings_and_missing_tables_are_told(folder: Path) -> None:
    path = table(folder, "image,patient_id,label,note", "a.png,P1,benign,Größe", encoding="latin-1")
    with pytest.raises(DataError, match=r"`table` must be UTF-8 text, got other bytes in .* Fix: save it as UTF-8"):
        read_manifest(path)
    with pytest.raises(DataError, match="`table` must be a file that can be read, got No such file or directory"):
        read_manifest(folder / "none.csv")
    with pytest.raises(DataError, match="`table` must be a file, got a folder"):
        read_manifest(folder)


def test_images_need_not_be_there_when_not_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, HEADER, "gone.png,P1,,,benign,1,2,3000,4000")
    (mass,) = read_manifest(path, check_images=False).masses
    assert mass.box == (1, 2, 3000, 4000)
    with pytest.raises(DataError, match="`x1` must be above x0"):
        read_manifest(table(tmp_path, HEADER, "gone.png,P1,,,benign,3,2,3,4000"), check_images=False)


numbers = st.floats(0, 1e6, allow_subnormal=False)
texts = st.text(min_size=1).filter(lambda text: text == text.strip())  # st.text() has no lone surrogates
columns = texts.filter(
    lambda name: name.casefold() not in {each.casefold() for each in (*REQUIRED, *OPTIONAL, *ALIASES)}
)


@settings(deadline=None)  # it writes files
@given(
    st.lists(
        st.builds(
            Mass,
            image=texts.map(lambda name: Path("/nowhere") / name.replace("/", "_").replace(".", "_")),
            box=st.none() | st.builds(lambda x, y, w, h: (x, y, x + 1 + w, y + 1 + h), *[numbers] * 4),
            label=st.sampled_from(["benign", "malignant"]),
            patient_id=texts,
            laterality=st.sampled_from(["", "L", "R"]),
            view=st.sampled_from(["", "CC", "MLO"]),
            label_source=texts | st.just(""),
            spacing_mm=st.none() | st.just((0.07, 1 / 3)),
            original_size=st.none() | st.just((3328.0, 2560.5)),
            extra=st.fixed_dictionaries({"note": texts | st.just(""), "Split Group": st.just('a,;"b')}),
        ),
        min_size=1,
        unique_by=lambda mass: (mass.image, mass.box),
    ),
    columns,
)
def test_written_masses_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, masses: list[Mass], column: str
) -> None:
    masses = [replace(mass, extra={**mass.extra, column: str(number)}) for number, mass in enumerate(masses)]
    path = tmp_path_factory.mktemp("table") / "masses.csv"
    write_manifest(path, MassSet(masses))
    assert list(read_manifest(path, check_images=False).masses) == masses


@settings(deadline=None)  # it writes files
@given(st.lists(texts, min_size=2, max_size=4, unique=True))
@example(["ss", "ß"])
@example(["cyst", "Cyst"])
@example(["a\rb", "a\nb"])
def test_labels_of_any_classes_read_back_equal(tmp_path_factory: pytest.TempPathFactory, classes: list[str]) -> None:
    masses = [Mass(Path(f"/nowhere/{k}.png"), None, name, "P1") for k, name in enumerate(classes)]
    path = tmp_path_factory.mktemp("table") / "masses.csv"
    write_manifest(path, MassSet(masses, classes=tuple(classes)))
    assert list(read_manifest(path, classes=tuple(classes), check_images=False).masses) == masses


@settings(deadline=None)  # it writes files
@given(st.text(), st.text(), st.text())
def test_white_space_around_a_cell_is_stripped(
    tmp_path_factory: pytest.TempPathFactory, patient: str, view: str, note: str
) -> None:
    mass = Mass(Path("/nowhere/a.png"), None, "benign", patient, view=view, extra={"note": note})
    path = tmp_path_factory.mktemp("table") / "masses.csv"
    if not patient.strip():
        with pytest.raises(DataError, match=r"`patient_id` must be text, got none, or white space alone\. Fix: name"):
            write_manifest(path, MassSet([mass]))
        assert not path.exists()
        return
    write_manifest(path, MassSet([mass]))
    (found,) = read_manifest(path, check_images=False).masses
    assert (found.patient_id, found.view) == (patient.strip(), view.strip().upper())
    assert found.extra == {"note": note.strip()}


def test_images_below_the_table_are_named_relatively(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    mass_set = MassSet([Mass(folder / "a.png", (1.0, 2.0, 3.0, 4.0), "benign", "P1")])
    path = folder / "new.csv"
    write_manifest(path, mass_set)
    assert path.read_text() == f"{HEADER}\na.png,P1,,,benign,1,2,3,4\n"
    assert list(read_manifest(path).masses) == list(mass_set.masses)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "new.csv"
    write_manifest(elsewhere, mass_set)
    assert list(read_manifest(elsewhere).masses) == list(mass_set.masses)


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "masses.csv"
    with pytest.raises(ValueError, match="`image` must be a path to be written in a table, got pixels"):
        write_manifest(path, MassSet([Mass(np.zeros((2, 2), np.float32), None, "benign", "P1")]))
    with pytest.raises(ValueError, match="must not use the names of known columns, got 'x0'"):
        write_manifest(path, MassSet([Mass(tmp_path / "a.png", None, "benign", "P1", extra={"x0": "1"})]))
    for name in ("Image", "FILE_PATH"):
        with pytest.raises(ValueError, match=f"must not use the names of known columns, got '{name}'"):
            write_manifest(path, MassSet([Mass(tmp_path / "a.png", None, "benign", "P1", extra={name: "1"})]))
    for name in ("", " a"):
        with pytest.raises(ValueError, match="must name columns without white space around their names"):
            write_manifest(path, MassSet([Mass(tmp_path / "a.png", None, "benign", "P1", extra={name: "1"})]))
    with pytest.raises(ValueError, match="`label` must be one of benign, malignant, got 'cyst'"):
        write_manifest(path, MassSet([Mass(tmp_path / "a.png", None, "cyst", "P1")]))
    for classes in (("benign", " "), ("benign", " benign")):
        masses = [Mass(tmp_path / f"{k}.png", None, name, "P1") for k, name in enumerate(classes)]
        with pytest.raises(DataError, match=r"`classes` must differ in more than white space.* Fix: name the classes"):
            write_manifest(path, MassSet(masses, classes=classes))
    for mass in (
        Mass(tmp_path / "a\udcff.png", None, "benign", "P1"),
        Mass(tmp_path / "a.png", None, "benign", "P\ud8001"),
    ):
        with pytest.raises(
            DataError, match=r"`text` must be text that UTF-8 can hold, got .* U\+D[8C].*\. Fix: "
        ) as told:
            write_manifest(path, MassSet([mass]))
        assert told.value.__cause__ is None
        assert "P" not in str(told.value).replace("UTF-8", "")
    assert not path.exists()


def test_a_column_that_an_alias_left_over_is_written_too(folder: Path) -> None:
    read = read_manifest(table(folder, "file_path,image,patient_id,label", "z.png,a.png,P1,benign"))
    write_manifest(folder / "new.csv", read)
    assert list(read_manifest(folder / "new.csv").masses) == list(read.masses)


def test_real_tables(shared_masses: Path) -> None:
    start = time.process_time()
    rois, mammograms = (read_manifest(shared_masses / name) for name in ("rois.csv", "mammograms.csv"))
    assert time.process_time() - start < 5  # measured: 0.4 s
    assert Counter(mass.label for mass in rois.masses) == {"benign": 398, "malignant": 396}
    assert len(set(rois.patients)) == 512
    assert rois.left_out == {}
    assert rois.masses[0].extra["mass_margins"] == "SPICULATED"
    assert Counter(mass.label for mass in mammograms.masses) == {"benign": 675, "malignant": 629}
    assert mammograms.left_out == {"no label": 14}
    assert mammograms.masses[0].original_size == (3024, 4808)
    assert len({mass.image for mass in mammograms.masses}) > 1200
