"""The marked pixels as a segmentation: as a loop counts them, as readers read them back, as the report names them."""

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

import highdicom
from pydicom import dcmread

from clinic_parts import BOX, assessed, mammogram
from diagnet.clinic.marks import read_marks
from diagnet.clinic.report import corners, write_structured_report
from diagnet.clinic.segmentation import MAX_PIXELS, pixels_inside, write_segmentation
from diagnet.data.box import Box
from diagnet.errors import RefusedInputError
from diagnet.notice import NOTICE

ODD = (10.4, 10.5, 30.6, 40.25)
OUTSIDE = (400.0, 10.0, 500.0, 60.0)
MASSES = (assessed(), assessed(ODD, "benign"), assessed(OUTSIDE, "refused", malignancy=None, reason="outside"))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return mammogram(tmp_path_factory.mktemp("image") / "image.dcm")


def by_loop(outline, height, width):
    """Even-odd rule, pixel by pixel: a ray to the left crosses an odd number of sides."""
    mask = np.zeros((height, width), dtype=bool)
    for row in range(height):
        for column in range(width):
            x, y = column + 0.5, row + 0.5
            for (ax, ay), (bx, by) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
                if (ay <= y) != (by <= y) and ax + (y - ay) / (by - ay) * (bx - ax) <= x:
                    mask[row, column] ^= True
    return mask


numbers = st.floats(-5, 15)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=8))
def test_the_pixels_inside_are_those_of_a_loop(points):
    outline = np.array(points)
    np.testing.assert_array_equal(pixels_inside(outline, 7, 9), by_loop(outline, 7, 9))


def test_a_box_holds_the_pixels_whose_centers_it_holds():
    mask = pixels_inside(corners(Box(*BOX)), 240, 200)
    assert mask[60:116, 40:104].all()
    assert mask.sum() == 56 * 64
    odd = pixels_inside(corners(Box(*ODD)), 240, 200)
    assert odd[10:40, 10:31].all()
    assert odd.sum() == 30 * 21
    assert pixels_inside(corners(Box(-1e300, -5.0, 1e300, 3.0)), 240, 200).sum() == 3 * 200
    for box in (OUTSIDE, (0.0, 0.0, 0.0, 0.0), (0.0, float("nan"), 9.0, 9.0), (0.0, 0.0, float("inf"), 9.0)):
        assert not pixels_inside(corners(Box(*box)), 240, 200).any()


def test_readers_read_back_the_same_pixels(image, tmp_path):
    uid = write_segmentation(MASSES, image, tmp_path / "seg.dcm")
    source = dcmread(image, stop_before_pixels=True)
    masks = [pixels_inside(corners(mass.box), 240, 200) for mass in MASSES]
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert found.SOPInstanceUID == uid
    assert found.SeriesDescription == found.ContentDescription == NOTICE
    assert (found.StudyInstanceUID, found.PatientID) == (source.StudyInstanceUID, source.PatientID)
    assert found.get_source_image_uids() == [(source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)]
    for number in (1, 2):
        (mask,) = found.get_pixels_by_source_instance([source.SOPInstanceUID], segment_numbers=[number])
        np.testing.assert_array_equal(mask[..., 0] > 0, masks[number - 1])
    plain = dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(plain.pixel_array > 0, masks[:2])
    assert [int(each.SegmentNumber) for each in plain.SegmentSequence] == [1, 2, 3]
    assert {each.SegmentAlgorithmType for each in plain.SegmentSequence} == {"MANUAL"}
    (side,) = plain.SegmentSequence[0].AnatomicRegionSequence[0].AnatomicRegionModifierSequence
    assert side.CodeMeaning == "Left"


def test_dcmtk_reads_it(image, tmp_path):
    if shutil.which("dcmdump") is None:
        pytest.skip("dcmdump is not there: not read by it. Fix: apt-get install dcmtk")
    write_segmentation(MASSES, image, tmp_path / "seg.dcm")
    dumped = ["dcmdump", "+L", "+P", "0008,0016", "+P", "0062,0001", "+P", "0028,0008", str(tmp_path / "seg.dcm")]
    done = subprocess.run(dumped, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("=SegmentationStorage", "[BINARY]", "[2]"):
        assert text in done.stdout


def test_the_same_marks_give_the_same_file_but_for_its_dates(image, tmp_path):
    for name in "ab":
        write_segmentation(MASSES, image, tmp_path / name)
    a, b = (dcmread(tmp_path / name) for name in "ab")
    for each in (a, b):
        for keyword in ("InstanceCreationTime", "InstanceCreationDate", "ContentTime", "ContentDate"):
            delattr(each, keyword)
        del each.ContributingEquipmentSequence[0].ContributionDateTime
    assert a == b


def test_the_report_names_the_segmentation_and_shares_its_tracking_uids(image, tmp_path):
    seg, sr, alone = tmp_path / "seg.dcm", tmp_path / "sr.dcm", tmp_path / "alone.dcm"
    uid = write_segmentation(MASSES, image, seg)
    assert write_structured_report(MASSES, image, sr, seg) != write_structured_report(MASSES, image, alone)
    report = highdicom.sr.srread(sr)
    segmentation = dcmread(seg, stop_before_pixels=True)
    named = [entry for entry in report.get_evidence(current_procedure_only=True) if entry[2] == uid]
    assert named == [(segmentation.StudyInstanceUID, segmentation.SeriesInstanceUID, uid, segmentation.SOPClassUID)]
    groups = report.content.get_planar_roi_measurement_groups()
    tracked = [(each.TrackingID, each.TrackingUID) for each in segmentation.SegmentSequence]
    assert [(group.tracking_identifier, group.tracking_uid) for group in groups] == tracked
    assert all(group.roi is not None for group in groups)  # TID 1410 lets a group have an outline or a segment
    if shutil.which("dciodvfy") is not None:
        done = subprocess.run(["dciodvfy", str(sr)], capture_output=True, text=True, timeout=60)
        assert "Error" not in done.stdout + done.stderr
    assert read_marks(sr) == read_marks(alone)


def test_outlines_are_filled_as_they_were_drawn(image, tmp_path):
    points = np.array([(50.0, 70.0), (90.0, 65.0), (100.0, 110.0), (45.0, 100.0)])
    mass = assessed((45.0, 65.0, 100.0, 110.0))
    boxed = write_segmentation([mass], image, tmp_path / "box.dcm")
    assert write_segmentation([mass], image, tmp_path / "seg.dcm", {mass.box: points}) != boxed
    assert write_segmentation([mass], image, tmp_path / "o.dcm", {Box(*BOX): points}) == boxed  # of another mass
    np.testing.assert_array_equal(dcmread(tmp_path / "seg.dcm").pixel_array > 0, pixels_inside(points, 240, 200))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((assessed(), assessed(input_sha256="")), r"`source` must be an image that can be read"),
        ((assessed(OUTSIDE),), r"`box` must hold a pixel of its image"),
        ((assessed(),) * (MAX_PIXELS // (240 * 200) + 1), r"`assessments` must be at most \d+ for this image's size"),
    ],
)
def test_what_has_no_pixels_or_too_many_is_refused(image, tmp_path, found, message):
    with pytest.raises(RefusedInputError, match=message):
        write_segmentation(found, image, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()
