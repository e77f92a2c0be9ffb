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
        ("POLYLINE", [10, 20, 30, 25, 18, 50], (10, 20, 30, 50)),
        ("CIRCLE", [50, 60, 53, 64], (45, 55, 55, 65)),
        ("ELLIPSE", [10, 50, 30, 50, 20, 40, 20, 60], (10, 40, 30, 60)),
        ("INTERPOLATED", [10, 20, 30, 20, 30, 50], (10, 20, 30, 50)),
    ],
)
def test_a_box_spans_its_outline(tmp_path, kind, data, box):
    path = report(tmp_path / "sr.dcm", item("CONTAINER", item("CONTAINER", outline(kind, data))))
    assert read_marks(path) == {IMAGE: [tuple(map(float, box))]}


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
    with pytest.raises(DataError, match=r"`marks` must be outlines with an area"):
        read_marks(report(tmp_path / "flat.dcm", outline("POLYLINE", [1, 1, 5, 1])))
    with pytest.raises(RefusedInputError, match=r"`marks` must be on images of one frame"):
        read_marks(report(tmp_path / "frame.dcm", outline("POLYLINE", square, frame=3)))
    with pytest.raises(DataError, match=r"got a broken or other file"):
        read_marks(report(tmp_path / "odd.dcm", outline("POLYLINE", [1, 2, 3])))
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
        drawn("PIXEL", [10, 20, 30, 20, 30, 50], "1.1"),
        drawn("DISPLAY", [0, 0, 1, 0, 1, 1], "1.1"),
        drawn("PIXEL", [1, 2, 8, 2, 8, 9]),  # of all images that the state is of
    ]
    state.save_as(path)
    everywhere = (1.0, 2.0, 8.0, 9.0)
    assert read_marks(path) == {"1.1": [(10.0, 20.0, 30.0, 50.0), everywhere], "1.2": [everywhere]}
