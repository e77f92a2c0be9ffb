import json
import re
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from diagnet.data.breast import find_breast
from diagnet.data.domain import fit_domain
from diagnet.data.image import read_picture
from diagnet.data.mass import Mass
from diagnet.data.preprocessing import Preprocessing
from diagnet.data.region_facts import RegionFacts, picture_facts
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings, cut_and_measured
from diagnet.data.suitability import BoxLimits
from diagnet.errors import RunFolderError
from diagnet.inference.assessment import UNKNOWN_BOX, Policy, assess
from diagnet.inference.model import load_model
from dicom_files import drawn_breast, write_dicom
from runs import write_run

MASS = (20.0, 60.0, 60.0, 100.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_run(tmp_path_factory.mktemp("run")), engine="torch")


@pytest.fixture
def image(tmp_path):
    return write_dicom(tmp_path / "image.dcm", drawn_breast(), Laterality="L", PixelSpacing=[0.2, 0.2])


def test_a_score_comes_with_its_reasons(model, image):
    (found,) = assess(model, image, [MASS])
    region = read_rois([Mass(image, MASS, None, "")], model.roi)
    assert found.malignancy == pytest.approx(model.probabilities(region)[0, 1])
    assert found.raw_malignancy == pytest.approx(model.probabilities(region, calibrated=False)[0, 1])
    assert found.decision == ("malignant" if found.malignancy >= 0.4 else "benign")
    assert (found.image, found.box, found.threshold, found.reason) == (image, MASS, 0.4, "")
    assert (found.laterality, found.view, found.spacing_mm, found.flags) == ("L", "", (0.2, 0.2), ())
    assert [step.partition(":")[0] for step in found.steps] == (
        ["decode", "modality", "voi", "inversion", "padding", "side", "spacing", "intensity", "region"]
    )
    assert found.latency_ms > 0
    assert re.fullmatch("[0-9a-f]{64}", found.model_sha256)
    assert json.dumps({**asdict(found), "image": ""})


def test_the_breast_is_looked_for_once(model, image, monkeypatch):
    calls = []
    for name, module in list(sys.modules.items()):
        if name.startswith("diagnet.") and getattr(module, "find_breast", None) is find_breast:
            monkeypatch.setattr(module, "find_breast", lambda pixels: calls.append(1) or find_breast(pixels))
    assess(model, image, [MASS, MASS, None])
    assert len(calls) == 1
    picture = read_picture(image)  # as the page holds it
    for _ in range(3):
        assess(model, image, [MASS], picture=picture)
    assert len(calls) == 2


def test_the_hash_of_an_input_is_that_of_its_pixels_and_box(model, tmp_path):
    syntaxes = (ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless)
    hashes = set()
    for number, syntax in enumerate(syntaxes):
        path = write_dicom(tmp_path / f"{number}.dcm", drawn_breast(), syntax, PatientName=f"P{number}")
        hashes |= {each.input_sha256 for each in assess(model, path, [MASS])}
    assert len(hashes) == 1
    other_box, other_pixels = (20.0, 60.0, 60.0, 101.0), drawn_breast()
    other_pixels[80, 40] += 9
    path = write_dicom(tmp_path / "other.dcm", other_pixels)
    hashes |= {each.input_sha256 for each in assess(model, path, [MASS, other_box])}
    assert len(hashes) == 3


def test_files_of_other_formats_are_scored_alike(model, tmp_path, image):
    Image.fromarray(drawn_breast()).save(tmp_path / "a.png")
    Image.fromarray(drawn_breast()).save(tmp_path / "a.tif")
    Image.fromarray((drawn_breast() >> 4).astype(np.uint8)).save(tmp_path / "b.png")
    (dicom,) = assess(model, image, [MASS])
    for name, tolerance in (("a.png", 1e-6), ("a.tif", 1e-6), ("b.png", 0.05)):
        (found,) = assess(model, tmp_path / name, [MASS])
        assert found.malignancy == pytest.approx(dicom.malignancy, abs=tolerance)
        assert found.steps[0].startswith("decode: ")


def test_one_bad_box_does_not_lose_the_others(model, image):
    found = assess(model, image, [(0.0, 0.0, 2.0, 2.0), MASS, None, (105.0, 5.0, 125.0, 25.0), (float("nan"),) * 4])
    assert [each.decision == "refused" for each in found] == [True, False, True, True, True]
    for each in (found[0], *found[2:]):
        assert each.malignancy is None
        assert each.raw_malignancy is None
        assert each.reason.startswith("`box` must")
        assert each.steps
        assert each.input_sha256
    assert found[2].box == (0.0, 0.0, 128.0, 160.0)


def test_a_file_that_cannot_be_read_is_refused_for_each_box(model, tmp_path):
    path = tmp_path / "a\nb.png"
    path.write_text("no image")
    found = assess(model, path, [MASS, None])
    assert [each.box for each in found] == [MASS, UNKNOWN_BOX]
    for each in found:
        assert each.decision == "refused"
        assert "got a broken or other file" in each.reason
        assert "\n" not in each.reason
        assert each.input_sha256 == ""
    assert "No such file" in assess(model, tmp_path / "gone.dcm", [None])[0].reason


def test_a_file_without_a_mark_is_told(model, image, tmp_path):
    (found,) = assess(model, image, [])
    assert found.decision == "refused"
    assert found.reason == f"`box` must be given, got no mass marked on {image}."
    (found,) = assess(model, tmp_path / "gone.dcm", [])
    assert "No such file" in found.reason


def test_a_crop_may_be_one_mass(model, tmp_path):
    Image.fromarray((drawn_breast()[60:100, 20:60] >> 4).astype(np.uint8)).save(tmp_path / "crop.png")
    (found,) = assess(model, tmp_path / "crop.png", [None])
    assert found.decision != "refused"
    assert found.box == (0.0, 0.0, 40.0, 40.0)


def test_the_policy_is_kept(model, tmp_path):
    raw = write_dicom(tmp_path / "raw.dcm", drawn_breast(), PresentationIntentType="FOR PROCESSING")
    assert "must be FOR PRESENTATION" in assess(model, raw, [MASS])[0].reason
    (found,) = assess(model, raw, [MASS], Policy(allow_for_processing=True))
    assert found.flags == ("raw data FOR PROCESSING",)
    whole = write_dicom(tmp_path / "whole.dcm", drawn_breast(), ImplicitVRLittleEndian).read_bytes()
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(whole[whole.index(b"\x08\x00\x16\x00") :])
    assert "must have the preamble of a DICOM file" in assess(model, bare, [MASS])[0].reason
    (found,) = assess(model, bare, [MASS], Policy(allow_missing_preamble=True))
    assert found.flags == ("the file has no DICOM preamble",)
    bare = bare.rename(tmp_path / "bare")  # of no name that says DICOM
    assert "got a broken or other file" in assess(model, bare, [MASS])[0].reason
    assert assess(model, bare, [MASS], Policy(allow_missing_preamble=True))[0].decision != "refused"
    Image.fromarray(drawn_breast()).save(tmp_path / "picture.png")
    assert assess(model, tmp_path / "picture.png", [MASS], Policy(allow_missing_preamble=True))[0].decision != "refused"
    (found,) = assess(model, raw, [MASS], Policy(allow_for_processing=True, box=BoxLimits(min_side_px=50.0)))
    assert "sides of at least 50 pixels" in found.reason


def test_a_mirrored_breast_is_flagged(model, tmp_path):
    path = write_dicom(tmp_path / "image.dcm", drawn_breast("R"), Laterality="L")
    (found,) = assess(model, path, [(68.0, 60.0, 108.0, 100.0)])
    assert found.flags == (
        "the chest wall is on the right of the picture, but belongs on the left by the laterality: mirrored, or labeled"
        " wrongly",
    )
    assert found.decision != "refused"


def test_no_call_is_made_near_the_operating_point(image, tmp_path):
    model = load_model(write_run(tmp_path / "run", abstention={"half_width": 0.9}), engine="torch")
    (found,) = assess(model, image, [MASS])
    assert found.decision == "abstained"
    assert "too near to the operating point of 40.0 % to call" in found.reason
    assert found.malignancy is not None


def test_a_run_of_other_classes_is_refused(image, tmp_path):
    model = load_model(write_run(tmp_path / "run", classes=["benign", "cyst"]), engine="torch")
    with pytest.raises(RunFolderError, match="must know the class malignant, got the classes benign, cyst"):
        assess(model, image, [MASS])


def test_the_hash_of_a_model_depends_on_all_that_decides(tmp_path):
    other = Preprocessing(roi=RoiSettings(size=16, square=True))
    square = {"roi": other.roi.model_dump(), "preprocessing": other.model_dump(), "preprocessing_sha256": other.sha256}
    changes = [{}, {"temperature": 0.6}, {"threshold": 0.5}, {"abstention": {"half_width": 0.1}}, square]
    hashes = [
        load_model(write_run(tmp_path / str(number), **change), engine="torch").sha256
        for number, change in enumerate(changes)
    ]
    hashes.append(load_model(write_run(tmp_path / "two", 2), engine="torch").sha256)
    assert len(set(hashes)) == len(hashes)
    assert load_model(write_run(tmp_path / "again"), engine="torch").sha256 == hashes[0]


def test_a_run_from_before_this_loads(tmp_path):
    run = write_run(tmp_path / "run", preprocessing=None, preprocessing_sha256=None, abstention=None)
    model = load_model(run, engine="torch")
    assert model.preprocessing == Preprocessing(display_chain=1, intensity=1, resampling=1, roi=RoiSettings(size=16))
    assert model.abstention.half_width == 0.05


def test_a_run_of_another_chain_is_refused(tmp_path):
    stored = Preprocessing(display_chain=7, roi=RoiSettings(size=16))
    changed = {"preprocessing": stored.model_dump(), "preprocessing_sha256": stored.sha256}
    with pytest.raises(RunFolderError, match="the model was trained with, got display_chain 7, here 1 in"):
        load_model(write_run(tmp_path / "run", **changed))


def test_real_mammograms_are_scored(model, shared_masses):
    for name, box in (
        ("mammogram_P_00173_L_CC.dcm", (928.0, 2304.0, 1239.0, 2575.0)),
        ("mammogram_P_00820_L_MLO.dcm", (80.0, 3176.0, 327.0, 3415.0)),
    ):
        (found,) = assess(model, shared_masses / "dicom" / name, [box])
        assert found.decision in ("malignant", "benign")
        assert found.flags == ("PresentationIntentType is absent: the pixels are taken as FOR PRESENTATION",)
        assert found.laterality == "L"


def known(facts, **changes):
    """A domain of 60 patients whose masses look about like these facts, but for the changes."""
    rows = np.tile(np.array(facts._replace(**changes)), (60, 1))
    rows[:, :3] += np.random.default_rng(0).normal(0, 0.02, (60, 3))
    return fit_domain(rows, [f"P{k}" for k in range(60)])


def test_an_image_of_another_kind_is_flagged_and_one_of_a_far_kind_is_refused(model, image):
    picture = read_picture(image)
    mass = Mass(image, MASS, None, "", spacing_mm=picture.spacing_mm)
    facts = cut_and_measured(picture.pixels, mass, model.roi, picture_facts(picture.pixels))[1]
    (plain,) = assess(model, image, [MASS])
    assert not plain.is_unlike
    (alike,) = assess(replace(model, domains=(known(facts),)), image, [MASS])
    assert (alike.flags, alike.is_unlike, alike.malignancy) == ((), False, plain.malignancy)
    near = replace(model, domains=(known(facts, side_mm=facts.side_mm * 1.6),))
    (flagged,) = assess(near, image, [MASS])
    reason = rf"side mm {facts.side_mm:.2f}, training {facts.side_mm * 1.6:.2f} to {facts.side_mm * 1.6:.2f}"
    assert flagged.flags == (f"unlike the training masses: {reason}",)
    assert (flagged.is_unlike, flagged.malignancy, flagged.decision) == (True, plain.malignancy, plain.decision)
    far = replace(model, domains=(known(facts, side_mm=facts.side_mm * 9),))
    (refused,) = assess(far, image, [MASS])
    assert (refused.decision, refused.malignancy, refused.is_unlike) == ("refused", None, True)
    assert refused.reason.startswith(f"far from the training masses: side mm {facts.side_mm:.2f}, training")
    (allowed,) = assess(far, image, [MASS], Policy(allow_unlike=True))
    assert (allowed.malignancy, allowed.is_unlike) == (plain.malignancy, True)
    assert allowed.flags == (refused.reason.replace("far from", "unlike"),)
    (most,) = assess(replace(far, domains=(*far.domains, known(facts), known(facts))), image, [MASS])
    assert not most.is_unlike


def test_what_a_model_knows_is_read_with_it(tmp_path):
    facts = RegionFacts(*np.linspace(0.1, 1, len(RegionFacts._fields)).tolist())
    domain = known(facts)
    model = load_model(write_run(tmp_path / "run", 2, domain=domain.model_dump(mode="json")), engine="torch")
    assert model.domains == (domain, domain)
    assert model.sha256 != load_model(write_run(tmp_path / "other", 2), engine="torch").sha256
    with pytest.raises(RunFolderError, match="`domain` must be as this version of diagnet stores it, got another one"):
        load_model(write_run(tmp_path / "edited", domain={"low": [1]}))
    stored = domain.model_dump(mode="json")
    again = {**stored, "low": stored["low"][1:]}  # facts of another version
    with pytest.raises(RunFolderError, match="`domain` must be as this version of diagnet stores it"):
        load_model(write_run(tmp_path / "shorter", domain=again))
