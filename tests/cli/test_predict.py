import csv
import json
import logging
import os
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diagnet.cli import main
from diagnet.notice import NOTICE
from dicom_files import drawn_breast, write_dicom
from runs import write_run

MASS = "20,60,60,100"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def image(tmp_path):
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    return write_dicom(tmp_path / "image.dcm", drawn_breast(), Laterality="L", **uids)


@pytest.fixture
def predict(run, monkeypatch, capsys):
    """`diagnet predict RUN`, in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diagnet", "predict", str(run), *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


def scores(done):
    found = json.loads(done.stdout)
    assert found["notice"] == NOTICE
    return found["assessments"]


def test_a_marked_mass(predict, image):
    done = predict(image, "--box", MASS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(NOTICE) == 2
    assert f"{image}  {MASS}" in done.stdout
    (found,) = scores(predict(image, "--box", MASS, "--json"))
    assert f"{found['malignancy']:.3f}" in done.stdout


def test_several_masses_of_one_file(predict, image):
    done = predict(image, "--box", MASS, "--box", "0,0,1,1", "--json")
    assert done.returncode == 3
    assert [each["decision"] == "refused" for each in scores(done)] == [False, True]


@pytest.mark.usefixtures("image")
def test_one_bad_file_does_not_lose_the_others(predict, tmp_path):
    Image.fromarray((drawn_breast()[60:100, 20:60] >> 4).astype(np.uint8)).save(tmp_path / "crop.png")
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    done = predict(tmp_path, "--json")
    assert done.returncode == 3
    assert "diagnet: passed over: 1 files in folders (no images" in done.stderr
    by_name = {each["image"].rpartition("/")[2]: each for each in scores(done)}
    assert by_name["crop.png"]["malignancy"] is not None
    assert "broken or other file" in by_name["bad.png"]["reason"]
    assert "must mark one mass, at most 25% of a whole mammogram" in by_name["image.dcm"]["reason"]


def test_a_table_of_boxes(predict, image, tmp_path):
    (tmp_path / "boxes.csv").write_text(
        "image,x0,y0,x1,y1\nimage.dcm,20,60,60,100\nimage.dcm,22,62,60,100\ngone.dcm,1,1,2,2\n"
    )
    write_dicom(tmp_path / "other.dcm", drawn_breast())
    done = predict(image, tmp_path / "other.dcm", "--boxes", tmp_path / "boxes.csv", "--json")
    found = scores(done)
    assert [each["box"] for each in found[:2]] == [[20, 60, 60, 100], [22, 62, 60, 100]]
    assert "got no mass marked on" in found[2]["reason"]
    assert done.returncode == 3
    assert "1 images of" in done.stderr


def test_a_manifest_as_the_metarepository_reads_it(predict, manifest, tmp_path):
    out = tmp_path / "scores.csv"
    done = predict(manifest, "--format", "metarepo", "--out", out)
    assert done.returncode == 0, done.stdout
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    assert list(rows[0]) == ["image_index", "malignant_pred", "malignant_label", "notice"]
    assert {row["malignant_label"] for row in rows} == {"0", "1"}
    assert NOTICE in done.stdout


def test_csv_is_written_whole_or_not_at_all(predict, image, tmp_path, monkeypatch):
    out = tmp_path / "scores.csv"
    out.write_text("before")
    monkeypatch.setattr(os, "fsync", _full)
    done = predict(image, "--box", MASS, "--out", out)
    assert done.returncode == 1
    assert "must be writable, got: No space left on device" in done.stderr
    assert out.read_text() == "before"
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*tmp*"))


def _full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", MASS, "--boxes", "boxes.csv"], "must be alone, got more than one of them"),
        (["--out", "scores.txt"], "must be a .csv file, got scores.txt"),
        (["other.dcm", "--box", MASS], "must have one FILE, got 2"),
        (["other.dcm", "--out-sr", "sr.dcm"], "must have one FILE, got 2"),
    ],
)
def test_usage(predict, image, arguments, message):
    done = predict(image, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_what_is_no_box_or_no_run_is_one_line(predict, image, monkeypatch, tmp_path, capsys):
    done = predict(image, "--box", "1,2,3")
    assert (done.returncode, done.stderr) == (1, "diagnet: `--box` must be x0,y0,x1,y1, got '1,2,3'.\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["diagnet", "predict", str(tmp_path / "run"), str(image)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "must be a readable file of a run" in capsys.readouterr().err


def test_a_file_without_preamble_needs_a_word(predict, image, tmp_path):
    whole = image.read_bytes()
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(whole[whole.index(b"\x08\x00\x16\x00") :])
    (found,) = scores(predict(bare, "--box", MASS, "--json"))
    assert "Fix: --allow-missing-preamble" in found["reason"]
    done = predict(bare, "--box", MASS, "--json", "--allow-missing-preamble")
    assert scores(done)[0]["flags"] == ["the file has no DICOM preamble"]
    assert done.returncode == 0


def test_raw_data_need_a_word(predict, tmp_path):
    path = write_dicom(tmp_path / "raw.dcm", drawn_breast(), PresentationIntentType="FOR PROCESSING")
    assert predict(path, "--box", MASS).returncode == 3
    assert predict(path, "--box", MASS, "--allow-for-processing").returncode == 0


def test_marks_come_from_a_report_and_results_go_to_one(predict, image, tmp_path):
    pytest.importorskip("highdicom", reason="the extra pacs is not installed")
    sr, sc = tmp_path / "sr.dcm", tmp_path / "sc.dcm"
    by_hand = predict(image, "--box", MASS, "--out-sr", sr, "--out-sc", sc, "--json")
    assert by_hand.returncode == 0, by_hand.stderr
    assert sc.exists()
    (tmp_path / "broken.dcm").write_text("no image")
    by_report = predict(image, tmp_path / "broken.dcm", "--marks", sr, "--json")
    assert by_report.returncode == 3
    told = ("box", "malignancy", "decision", "input_sha256")
    first, second = scores(by_hand)[0], scores(by_report)[0]
    assert {key: first[key] for key in told} == {key: second[key] for key in told}
    assert scores(by_report)[1]["decision"] == "refused"


def test_results_can_be_traced_and_are_never_written_over(predict, image, tmp_path):
    pytest.importorskip("highdicom", reason="the extra pacs is not installed")
    sr = tmp_path / "sr.dcm"
    first = predict(image, "--box", MASS, "--out-sr", sr, "--json")
    assert f"Structured report: {sr}" in first.stderr
    uid = str(pydicom.dcmread(image).SOPInstanceUID)
    assert [each["sop_instance_uid"] for each in scores(first)] == [uid]
    written = sr.read_bytes()
    for option in ("--out-sr", "--out-sc", "--out-seg", "--out-pdf"):
        again = predict(image, "--box", MASS, option, sr)
        assert again.returncode == 1
        assert f"`{option}` must be a new file, got one that is there" in again.stderr
        assert not again.stdout
    assert sr.read_bytes() == written
    (row,) = csv.DictReader(predict(image, "--box", MASS, "--format", "csv").stdout.splitlines())
    assert row["sop_instance_uid"] == uid
    Image.fromarray((drawn_breast()[60:100, 20:60] >> 4).astype(np.uint8)).save(tmp_path / "crop.png")
    assert scores(predict(tmp_path / "crop.png", "--json"))[0]["sop_instance_uid"] == ""


def test_outlines_of_a_report_come_out_as_a_segmentation_that_the_report_names(predict, image, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="the extra pacs is not installed")
    pytest.importorskip("matplotlib", reason="the extra report is not installed")
    state = tmp_path / "marks.dcm"
    assert predict(image, "--box", MASS, "--out-sr", state).returncode == 0
    drawn = pydicom.dcmread(state)
    (item,) = [each for each in drawn.iterall() if each.keyword == "GraphicData"]
    x0, y0, x1, y1 = map(float, MASS.split(","))
    item.value = [x0, y0, x1, y0, x0, y1, x0, y0]  # half of the box
    drawn.save_as(state)
    out = {name: tmp_path / f"{name}.dcm" for name in ("sr", "seg", "pdf")}
    options = [each for name, path in out.items() for each in (f"--out-{name}", path)]
    done = predict(image, "--marks", state, *options, "--json")
    assert done.returncode == 0, done.stderr
    assert f"Segmentation: {out['seg']}" in done.stderr
    assert f"Page: {out['pdf']}" in done.stderr
    mask = pydicom.dcmread(out["seg"]).pixel_array
    assert mask.sum() == pytest.approx((x1 - x0) * (y1 - y0) / 2, rel=0.03)
    named = {entry[2] for entry in highdicom.sr.srread(out["sr"]).get_evidence()}
    assert pydicom.dcmread(out["seg"]).SOPInstanceUID in named
    assert pydicom.dcmread(out["pdf"]).EncapsulatedDocument.startswith(b"%PDF-")
    both = predict(image, "--box", MASS, "--out-sr", tmp_path / "x.dcm", "--out-seg", tmp_path / "x.dcm")
    assert both.returncode == 1
    assert "`--out-seg` must be another file than `--out-sr`" in both.stderr
    unread = predict(image, "--box", "0,0,0,0", "--out-sr", tmp_path / "x.dcm", "--out-seg", tmp_path / "y.dcm")
    assert unread.returncode == 3
    assert "`box` must hold a pixel of its image" in unread.stderr
    assert (tmp_path / "x.dcm").exists()
    assert not (tmp_path / "y.dcm").exists()


def test_a_lesion_marked_in_two_views_has_a_score_of_its_own(predict, tmp_path):
    whose = {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "Laterality": "L"}
    for view in ("CC", "MLO"):
        write_dicom(tmp_path / f"{view}.dcm", drawn_breast(), ViewPosition=view, **whose)
    write_dicom(tmp_path / "other.dcm", drawn_breast(), ViewPosition="MLO", **(whose | {"PatientID": "P2"}))
    table = tmp_path / "boxes.csv"
    rows = ["CC.dcm,20,60,60,100", "MLO.dcm,24,58,70,104", "other.dcm,20,60,60,100"]
    table.write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    cc, mlo, other = scores(predict(table, "--json"))
    odds = [np.log(each["malignancy"] / (1 - each["malignancy"])) for each in (cc, mlo)]
    assert odds[0] != odds[1]
    assert cc["lesion_malignancy"] == mlo["lesion_malignancy"] == pytest.approx(1 / (1 + np.exp(-np.mean(odds))))
    assert (cc["lesion_masses"], other["lesion_masses"], other["lesion_malignancy"]) == (2, 0, None)
    assert "the mean log-odds of 2 masses" in predict(table).stdout
    rows[1] += "\nMLO.dcm,20,110,60,150"  # which of the two is the one in the CC view?
    table.write_text("\n".join(["image,x0,y0,x1,y1", *rows]))
    assert [each["lesion_masses"] for each in scores(predict(table, "--json"))] == [0, 0, 0, 0]
    ids = [f"{row},{name}" for row, name in zip("\n".join(rows).split("\n"), "abax", strict=True)]
    table.write_text("\n".join(["image,x0,y0,x1,y1,lesion_id", *ids]))
    found = csv.DictReader(predict(table, "--format", "csv").stdout.splitlines())
    assert [row["lesion_masses"] for row in found] == ["2", "0", "2", "0"]


def test_a_refused_mass_is_reported_with_its_reason(predict, image, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="the extra pacs is not installed")
    sr = tmp_path / "sr.dcm"
    assert predict(image, "--box", "0,0,1,1", "--out-sr", sr).returncode == 3
    texts = [str(element.value) for element in highdicom.sr.srread(sr).iterall() if element.keyword == "TextValue"]
    assert any("`box` must have sides of at least 8 pixels" in text for text in texts)


CANARY = "CANARY^JANE"
TEXTS = ("PN", "LO", "SH", "LT", "ST", "UT", "AE", "CS", "UC")


def named_after_a_patient(path, **elements):
    """A mammogram with the canary in every text element of patient, study, series and image."""
    tags = [tag for tag in _tags() if dictionary_VR(tag) in TEXTS]
    names = {keyword_for_tag(tag): CANARY for tag in tags if keyword_for_tag(tag)}
    kept = ("PhotometricInterpretation", "PresentationIntentType", "Modality", "SpecificCharacterSet", "NumberOfFrames")
    return write_dicom(path, drawn_breast(), **({k: v for k, v in names.items() if k not in kept} | elements))


def _tags():
    from pydicom._dicom_dict import DicomDictionary

    return [tag for tag in DicomDictionary if tag >> 16 in (0x0008, 0x0010, 0x0018, 0x0020, 0x0028, 0x0032, 0x0040)]


def test_a_patients_name_never_comes_out(predict, tmp_path, caplog):
    folder = tmp_path / "in"
    named_after_a_patient(folder / "good.dcm")
    named_after_a_patient(folder / "raw.dcm", PresentationIntentType="FOR PROCESSING")
    named_after_a_patient(folder / "bits.dcm", BitsStored=None)
    named_after_a_patient(folder / "rows.dcm", Rows=99)
    named_after_a_patient(folder / "frames.dcm", NumberOfFrames=3)
    named_after_a_patient(folder / "window.dcm", WindowCenter=1, WindowWidth=0)
    named_after_a_patient(folder / "deflated.dcm", TransferSyntaxUID=None)
    whole = (folder / "good.dcm").read_bytes()
    (folder / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "spacing.dcm").write_bytes(
        named_after_a_patient(tmp_path / "x.dcm", PixelSpacing=[111.25, 2]).read_bytes().replace(b"111.25", b"CANARY")
    )
    out = tmp_path / "out"
    caplog.clear()
    shown = ""
    with caplog.at_level(logging.DEBUG):
        for options in ([], ["--json"], ["--format", "csv"], ["--format", "metarepo"], ["--out", out / "scores.csv"]):
            done = predict(folder, *options)
            shown += done.stdout + done.stderr
            done = predict(folder / "good.dcm", "--box", MASS, *options)
            assert done.returncode == 0, done.stdout
            shown += done.stdout + done.stderr
    shown += caplog.text + (out / "scores.csv").read_text() + " ".join(map(str, out.iterdir()))
    assert "CANARY" not in shown
    assert b"CANARY" in whole


def test_a_deflate_bomb_is_refused_before_memory_is_filled(predict, tmp_path):
    path = write_dicom(tmp_path / "bomb.dcm", drawn_breast(), DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")  # behind the file meta information: PS3.10, 7.1
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    path.write_bytes(whole[:start] + packed)
    (found,) = scores(predict(path, "--box", MASS, "--json"))
    assert "must unpack to at most 256 MB, got more in" in found["reason"]
