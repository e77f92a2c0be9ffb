import numpy as np
import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, generate_uid

from clinic_parts import BOX, CANARY, mammogram, marks
from diagnet.clinic.marks import MAX_MARKS, read_marks
from diagnet.errors import DataError, RefusedInputError

IMAGE = "1.2.3.4"


def item(value_type, *children, **elements):
    found = Dataset()
    found.ValueType = value_type
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    if children:
        found.ContentSequence = list(children)
    return found


def reference(uid=IMAGE, frame=None):
    image = Dataset()
    image.ReferencedSOPInstanceUID = uid
    if frame:
        image.ReferencedFrameNumber = frame
    return item("IMAGE", ReferencedSOPSequence=[image], RelationshipType="SELECTED FROM")


def outline(kind, data, **image):
    return item("SCOORD", reference(**image), GraphicType=kind, GraphicData=data)


def report(path, *items):
    dataset = item("CONTAINER", *items)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComprehensiveSRStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName = CANARY
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("kind", "data", "box"),
    [
        ("POLYLINE", [10, 20, 30, 20, 30, 50, 10, 50, 10, 20], (10, 20, 30, 50)),
        ("POLYLINE", [10, 20, 30, 25, 18, 50, 10, 20], (10, 20, 30, 50)),
        ("POLYLINE", [10, 20, 30, 20, 10, 50, 30, 50, 10, 20], (10, 20, 30, 50)),  # corners in another order
        ("POLYLINE", [10, 20, 20, 20, 30, 20, 30, 35, 30, 50, 20, 50, 10, 50, 10, 35], (10, 20, 30, 50)),  # a small gap
        ("CIRCLE", [50, 60, 53, 64], (45, 55, 55, 65)),
        ("ELLIPSE", [10, 50, 30, 50, 20, 40, 20, 60], (10, 40, 30, 60)),
        ("INTERPOLATED", [10, 20, 30, 20, 30, 50, 10, 20], (10, 20, 30, 50)),
    ],
)
def test_a_box_spans_its_outline(tmp_path, kind, data, box):
    path = report(tmp_path / "sr.dcm", item("CONTAINER", item("CONTAINER", outline(kind, data))))
    assert read_marks(path) == {IMAGE: [tuple(map(float, box))]}


def test_an_outline_that_is_no_box_is_kept(tmp_path):
    drawn = ("POLYLINE", [10, 20, 30, 25, 18, 50, 10, 20]), ("POLYLINE", [1, 1, 5, 1, 5, 9, 1, 9, 1, 1])
    path = report(tmp_path / "sr.dcm", *(outline(*each) for each in drawn), outline("CIRCLE", [50, 60, 53, 64]))
    first, square, circle = read_marks(path)[IMAGE]
    kept = read_marks(path).outlines[IMAGE]
    assert kept.keys() == {first, circle}
    assert square == (1, 1, 5, 9)
    np.testing.assert_array_equal(kept[first], [(10, 20), (30, 25), (18, 50), (10, 20)])
    np.testing.assert_allclose(np.hypot(*(kept[circle] - (50, 60)).T), 5)


def test_a_turned_ellipse_is_spanned():
    center, (a, b), angle = np.array([100.0, 80.0]), (30.0, 10.0), 0.6
    major, minor = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    ends = [center - a * major, center + a * major, center - b * minor, center + b * minor]
    t = np.linspace(0, 2 * np.pi, 10_000)
    curve = center + a * np.cos(t)[:, None] * major + b * np.sin(t)[:, None] * minor
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = report(Path(folder) / "sr.dcm", outline("ELLIPSE", np.concatenate(ends).tolist()))
        (box,) = read_marks(path)[IMAGE]
    np.testing.assert_allclose(box, [*curve.min(axis=0), *curve.max(axis=0)], atol=1e-3)


def test_images_points_and_repetitions_are_told_apart(tmp_path):
    square = [1, 1, 5, 1, 5, 5, 1, 5, 1, 1]
    path = report(
        tmp_path / "sr.dcm",
        outline("POLYLINE", square),
        outline("POLYLINE", square),
        outline("POINT", [3, 3]),
        outline("CIRCLE", [9, 9, 9, 11], uid="1.2.3.5", frame=1),
    )
    assert read_marks(path) == {IMAGE: [(1.0, 1.0, 5.0, 5.0)], "1.2.3.5": [(7.0, 7.0, 11.0, 11.0)]}


MASS = [488, 384, 611, 384, 611, 509, 488, 509, 488, 384]
NO_MASSES = {
    "horizontal caliper": ("POLYLINE", [490, 446, 610, 446]),
    "slanted caliper": ("POLYLINE", [490, 400, 600, 500]),
    "there and back": ("POLYLINE", [490, 400, 600, 500, 490, 400]),
    "angle": ("POLYLINE", [100, 100, 400, 300, 100, 500]),
    "two lines": ("POLYLINE", [100, 100, 400, 120, 100, 500, 400, 520]),
    "ruler with ticks": ("POLYLINE", [0, 5, 0, -5, 0, 0, 99, 0, 99, 5, 99, -5, 99, 0, 99, 1]),
    "arrow": ("POLYLINE", [0, 0, 90, 90, 80, 90, 90, 90, 90, 80]),
    "curve": ("INTERPOLATED", [0, 0, 30, 40, 90, 90]),
    "point": ("POINT", [3, 3]),
    "points": ("MULTIPOINT", [3, 3, 9, 3, 9, 9, 3, 3]),
    "ellipse without a width": ("ELLIPSE", [10, 50, 30, 50, 20, 50, 20, 50]),
    "circle without a radius": ("CIRCLE", [50, 60, 50, 60]),
    "half a point": ("POLYLINE", [1, 2, 3]),
    "no number": ("POLYLINE", [1, 2, float("nan"), 4, 5, 6, 1, 2]),
    "no data": ("POLYLINE", []),
    "another kind": ("SPLINE", MASS),
}


@pytest.mark.parametrize("name", NO_MASSES)
def test_what_outlines_no_mass_is_passed_over_and_counted(tmp_path, name):
    kind, data = NO_MASSES[name]
    measure = item("NUM", outline(kind, data))
    found = read_marks(report(tmp_path / "sr.dcm", measure, item("NUM", outline("POLYLINE", MASS)), measure))
    assert found == {IMAGE: [(488.0, 384.0, 611.0, 509.0)]}
    assert found.n_passed == 2


def test_one_bad_item_does_not_lose_the_others(tmp_path):
    without = item("SCOORD", GraphicType="POLYLINE", GraphicData=MASS)
    no_uid = outline("POLYLINE", MASS)
    del no_uid.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    in_space = outline("POLYLINE", MASS)
    in_space.ValueType = "SCOORD3D"
    later = outline("POLYLINE", MASS, frame=3)
    path = report(tmp_path / "sr.dcm", without, no_uid, in_space, later, outline("CIRCLE", [9, 9, 9, 11], uid="1.5"))
    found = read_marks(path)
    assert found == {"1.5": [(7.0, 7.0, 11.0, 11.0)]}
    assert found.n_passed == 4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 180)] * 2, *[st.integers(1, 60)] * 2), min_size=1, max_size=4, unique=True))
def test_what_is_written_is_read_again(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("marks")
    image = mammogram(folder / "image.dcm")
    boxes = [tuple(map(float, (x, y, x + w, y + h))) for x, y, w, h in drawn]
    path = marks(folder / "marks.dcm", image, boxes)
    assert read_marks(path) == {dcmread(image).SOPInstanceUID: boxes}


def test_bad_marks_are_told_in_one_line(tmp_path):
    square = [1, 1, 5, 1, 5, 5, 1, 1]
    with pytest.raises(DataError, match=r"`marks` must hold outlines of masses, got none"):
        read_marks(report(tmp_path / "none.dcm", outline("POINT", [3, 3])))
    with pytest.raises(DataError, match=r"`marks` must hold outlines of masses, got none"):
        read_marks(report(tmp_path / "flat.dcm", outline("POLYLINE", [1, 1, 5, 1])))
    with pytest.raises(RefusedInputError, match=r"`marks` must be on images of one frame"):
        read_marks(report(tmp_path / "frame.dcm", outline("POLYLINE", square, frame=3)))
    with pytest.raises(DataError, match=r"`marks` must hold outlines of masses, got none"):
        read_marks(report(tmp_path / "odd.dcm", outline("POLYLINE", [1, 2, 3])))
    with pytest.raises(DataError, match=r"must have the points of their shape, got 3 of a CIRCLE"):
        read_marks(report(tmp_path / "round.dcm", outline("CIRCLE", [1, 2, 3, 4, 5, 6])))
    many = [outline("POLYLINE", square) for _ in range(MAX_MARKS + 1)]
    with pytest.raises(RefusedInputError, match=r"at most 1000 outlines"):
        read_marks(report(tmp_path / "many.dcm", *many))
    deep = outline("POLYLINE", square)
    for _ in range(60):
        deep = item("CONTAINER", deep)
    with pytest.raises(RefusedInputError, match=r"nested at most 50 deep"):
        read_marks(report(tmp_path / "deep.dcm", deep))
    with pytest.raises(DataError, match=r"got No such file or directory"):
        read_marks(tmp_path / "absent.dcm")


def test_broken_files_never_quote_themselves(tmp_path):
    whole = marks(tmp_path / "marks.dcm", mammogram(tmp_path / "image.dcm")).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        for place in rng.integers(132, len(data), 8):
            data[place] = int(rng.integers(256))
        path = tmp_path / "broken.dcm"
        path.write_bytes(bytes(data[: rng.integers(200, len(data) + 1)] if number % 2 else data))
        said = ""
        try:
            read_marks(path)
        except (DataError, RefusedInputError) as error:
            said = str(error)
        assert CANARY not in said
        assert "\n" not in said


def test_a_box_of_marks_is_the_box_that_is_scored(tmp_path):
    image = mammogram(tmp_path / "image.dcm")
    assert list(read_marks(marks(tmp_path / "marks.dcm", image)).values()) == [[BOX]]


def test_annotations_in_pixels_count_and_those_of_the_display_do_not(tmp_path):
    def drawn(units, data, *uids):
        graphic, annotation = Dataset(), Dataset()
        graphic.GraphicAnnotationUnits, graphic.GraphicType, graphic.GraphicData = units, "POLYLINE", data
        annotation.GraphicObjectSequence = [graphic]
        annotation.ReferencedImageSequence = [named(uid) for uid in uids]
        return annotation

    def named(uid):
        image = Dataset()
        image.ReferencedSOPInstanceUID = uid
        return image

    path = report(tmp_path / "state.dcm")
    state, series = dcmread(path), Dataset()
    series.ReferencedImageSequence = [named("1.1"), named("1.2")]
    state.ReferencedSeriesSequence = [series]
    state.GraphicAnnotationSequence = [
        drawn("PIXEL", [10, 20, 30, 20, 30, 50, 10, 20], "1.1"),
        drawn("DISPLAY", [0, 0, 1, 0, 1, 1], "1.1"),
        drawn("PIXEL", [1, 2, 8, 2, 8, 9, 1, 2]),  # of all images that the state is of
    ]
    state.save_as(path)
    everywhere = (1.0, 2.0, 8.0, 9.0)
    assert read_marks(path) == {"1.1": [(10.0, 20.0, 30.0, 50.0), everywhere], "1.2": [everywhere]}
