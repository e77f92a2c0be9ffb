import shutil

import pytest
from PIL import Image

from diagnet.data.box import Box
from diagnet.data.marked import Marked, attach_boxes, attach_boxes_by_uid, find_marked, parsed_box, read_marked
from diagnet.errors import DataError
from diagnet.notice import NOTICE
from dicom_files import drawn_breast, write_dicom


@pytest.fixture
def folder(tmp_path):
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    (tmp_path / "below").mkdir()
    write_dicom(tmp_path / "below" / "b.dcm", drawn_breast())
    shutil.copy(tmp_path / "below" / "b.dcm", tmp_path / "below" / "IM0001")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    return tmp_path


def table(folder, text, name="boxes.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_a_folder_gives_its_images_by_name_or_content(folder):
    found, n_passed = find_marked([folder])
    assert [each.image.name for each in found] == ["a.png", "IM0001", "b.dcm"]
    assert all(each.boxes == (None,) for each in found)
    assert n_passed == 1


def test_a_table_puts_the_masses_of_an_image_together(folder):
    path = table(
        folder,
        "image,patient_id,label,x0,y0,x1,y1,original_width,original_height\n"
        "a.png,P1,Malignant,1,2,30,40,100,200\nbelow/b.dcm,P2,,5,6,7,8,,\na.png,P1,benign,,,,,100,200\n",
    )
    found, n_passed = find_marked([path, folder / "gone.png"])
    assert found == [
        Marked(folder / "a.png", (Box(1.0, 2.0, 30.0, 40.0), None), ("malignant", "benign"), (100.0, 200.0), "P1"),
        Marked(folder / "below" / "b.dcm", (Box(5.0, 6.0, 7.0, 8.0),), ("",), None, "P2"),
        Marked(folder / "gone.png"),
    ]
    assert n_passed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,x0\na.png,1\n", "`image` must be a column"),
        ("image,x0,y0,x1,y1\na.png,1,2,x,4\n", r"`x1` must be a number, got text in .*boxes\.csv, row 2"),
        ("image,x0,y0,x1,y1\na.png,1,2,inf,4\n", r"`x1` must be a finite number, got inf in .*row 2"),
        ("image,x0,y0,x1,y1\n,1,2,3,4\n", "`image` must name a file, got an empty cell in"),
    ],
)
def test_a_bad_table_is_told(folder, text, message):
    with pytest.raises(DataError, match=message):
        read_marked(table(folder, text))


def test_boxes_are_found_by_path_and_else_by_name(folder):
    images, _ = find_marked([folder / "a.png", folder / "below" / "b.dcm", folder / "below" / "IM0001"])
    path = table(folder, "image,x0,y0,x1,y1\na.png,1,2,3,4\nelsewhere/b.dcm,5,6,7,8\nother.png,1,1,2,2\n")
    found, n_unused = attach_boxes(images, path)
    assert [each.boxes for each in found] == [((1.0, 2.0, 3.0, 4.0),), ((5.0, 6.0, 7.0, 8.0),), ()]
    assert [each.image for each in found] == [each.image for each in images]
    assert n_unused == 1


def test_a_name_that_is_there_twice_says_nothing(folder):
    path = table(folder, "image,x0,y0,x1,y1\nx/b.dcm,1,2,3,4\ny/b.dcm,5,6,7,8\n")
    found, n_unused = attach_boxes([Marked(folder / "below" / "b.dcm")], path)
    assert found[0].boxes == ()
    assert n_unused == 2


def test_linked_folders_are_followed_once(folder):
    (folder / "study").mkdir()
    (folder / "study" / "link").symlink_to(folder / "below", target_is_directory=True)
    (folder / "study" / "up").symlink_to(folder, target_is_directory=True)
    found, n_passed = find_marked([folder / "study"])
    assert sorted(each.image.name for each in found) == ["IM0001", "a.png", "b.dcm"]
    (folder / "study" / "again").symlink_to(folder / "below", target_is_directory=True)
    assert find_marked([folder / "study"])[1] == n_passed + 1  # what is skipped is counted


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.11.1"]
)
def test_directories_reports_and_our_own_pictures_are_passed_over(tmp_path, sop_class):
    write_dicom(tmp_path / "a.dcm", drawn_breast())
    write_dicom(tmp_path / "b.dcm", drawn_breast(), SOPClassUID=sop_class, PixelData=None)
    write_dicom(tmp_path / "DICOMDIR", drawn_breast(), SOPClassUID=sop_class, PixelData=None)
    write_dicom(tmp_path / "own.dcm", drawn_breast(), ImageComments=NOTICE)
    (tmp_path / "broken.dcm").write_bytes(b"broken")
    found, n_passed = find_marked([tmp_path])
    assert [each.image.name for each in found] == ["a.dcm", "broken.dcm"]
    assert n_passed == 3


@pytest.fixture
def download(tmp_path):
    """Three patients' images of one name, as archives give them."""
    paths = [tmp_path / "download" / patient / "s1" / "1-1.dcm" for patient in ("P1", "P2", "P3")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    return paths


@pytest.mark.parametrize("place", ["download", "boxes", "."])
def test_images_of_one_name_keep_apart_wherever_the_table_lies(tmp_path, download, place):
    (tmp_path / place).mkdir(exist_ok=True)
    path = table(tmp_path / place, "image,x0,y0,x1,y1\nP2/s1/1-1.dcm,1,2,3,4\nP2/s1/1-1.dcm,5,6,7,8\n")
    found, n_unused = attach_boxes([Marked(each) for each in download], path)
    assert [len(each.boxes) for each in found] == [0, 2, 0]
    assert n_unused == 0


def test_a_bare_name_of_several_images_says_nothing(tmp_path, download):
    path = table(tmp_path, "image,x0,y0,x1,y1\n1-1.dcm,1,2,3,4\n")
    found, n_unused = attach_boxes([Marked(each) for each in download], path)
    assert [each.boxes for each in found] == [(), (), ()]
    assert n_unused == 1
    found, n_unused = attach_boxes([Marked(download[0])], path)  # of one image it does, however many rows there are
    assert len(found[0].boxes) == 1
    twice = table(tmp_path, "image,x0,y0,x1,y1\n1-1.dcm,1,2,3,4\n1-1.dcm,5,6,7,8\n")
    assert len(attach_boxes([Marked(download[0])], twice)[0][0].boxes) == 2


def test_what_was_found_by_path_is_not_found_again_by_name(tmp_path, download):
    path = table(tmp_path, "image,x0,y0,x1,y1\ndownload/P1/s1/1-1.dcm,1,2,3,4\n")
    found, n_unused = attach_boxes([Marked(each) for each in download[:2]], path)
    assert [len(each.boxes) for each in found] == [1, 0]
    assert n_unused == 0
    a_link = tmp_path / "elsewhere" / "1-1.dcm"
    a_link.parent.mkdir()
    a_link.symlink_to(download[0])
    assert len(attach_boxes([Marked(a_link)], path)[0][0].boxes) == 1


def test_boxes_by_uid(folder):
    images = [Marked(folder / "a.png"), Marked(folder / "below" / "b.dcm")]
    found = attach_boxes_by_uid(images, {images[1].image: "1.2.3"}, {"1.2.3": [Box(1.0, 2.0, 3.0, 4.0)] * 2, "9": []})
    assert [each.boxes for each in found] == [(), ((1.0, 2.0, 3.0, 4.0),) * 2]
    assert found[1].labels == ("", "")


def test_a_typed_box():
    assert parsed_box("1, 2.5,3,4") == (1.0, 2.5, 3.0, 4.0)
    for text in ("1,2,3", "1,2,3,4,5", "a,b,c,d", ""):
        with pytest.raises(DataError, match="`--box` must be x0,y0,x1,y1, got "):
            parsed_box(text)
