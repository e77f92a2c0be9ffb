"""Wherever a model trained on phantoms speaks, it says so; other models do not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diagnet.cli.shared import print_run
from diagnet.data.inbreast import PHANTOMS, read_inbreast
from diagnet.data.manifest import read_manifest, write_manifest
from diagnet.data.mass import SYNTHETIC
from diagnet.data.phantom import make_inbreast_release
from diagnet.experiment import run_experiment
from diagnet.inference.assessment import Policy, assess
from diagnet.inference.model import load_model
from diagnet.inference.score_sheet import as_csv, as_metarepo, as_object, as_table
from diagnet.notice import NOTICE, SYNTHETIC_FLAG, notice_of
from dicom_files import drawn_breast, write_dicom
from test_experiment import phantoms, tiny

STAMP = "SYNTHETIC - RESEARCH USE ONLY - NOT FOR CLINICAL USE"
BOX = (20.0, 60.0, 60.0, 100.0)


@pytest.fixture(scope="module", params=[True, False], ids=["phantoms", "patients"])
def trained(request, tmp_path_factory):
    """Whether the masses are phantoms', and a run trained on them."""
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed: the report was not tested")
    masses = phantoms()
    source = SYNTHETIC if request.param else "biopsy"
    masses = replace(masses, masses=[replace(mass, label_source=source) for mass in masses.masses])
    return request.param, run_experiment(tiny(), masses, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def assessed(trained, tmp_path):
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    image = write_dicom(tmp_path / "a.dcm", drawn_breast(), Laterality="L", **uids)
    model = load_model(trained[1].folder, engine="torch")
    return trained[0], model, assess(model, image, [BOX, (0.0, 0.0, 1.0, 1.0)], Policy(allow_unlike=True)), image


def test_the_stamp_is_the_notice_with_a_word_before_it():
    assert (notice_of(False), notice_of(True)) == (NOTICE, STAMP)
    assert len(STAMP) <= 64  # DICOM's LO


def test_a_release_of_phantoms_is_known_by_its_masses_through_any_table(tmp_path):
    release = make_inbreast_release(tmp_path, n_patients=2, rng=np.random.default_rng(1))
    found = read_inbreast(release)
    assert found.is_synthetic
    write_manifest(tmp_path / "masses.csv", found)
    assert read_manifest(tmp_path / "masses.csv").is_synthetic
    (release / PHANTOMS).unlink()  # as the real release
    assert {mass.label_source for mass in read_inbreast(release).masses} == {"birads"}
    assert not read_inbreast(release).is_synthetic


def test_the_runs_files_say_so(trained, capsys):
    is_synthetic, run = trained
    card, report = (run.folder / "model_card.md").read_text(), (run.folder / "report.html").read_text()
    for text in (card, report):
        assert (STAMP in text) == (SYNTHETIC_FLAG in text) == ("SYNTHETIC phantoms" in text) == is_synthetic
        assert NOTICE in text
    assert report.count(STAMP) == (report.count(NOTICE) if is_synthetic else 0)
    assert json.loads((run.folder / "run.json").read_text())["data"]["synthetic"] is is_synthetic
    assert json.loads((run.folder / "metrics.json").read_text())["synthetic"] is is_synthetic
    for as_json in (True, False):
        print_run(run.folder, run.metrics, as_json)
        assert (STAMP in capsys.readouterr().out) == is_synthetic


def test_every_score_says_so(assessed):
    is_synthetic, model, found, _ = assessed
    assert model.is_synthetic is is_synthetic
    assert [each.decision == "refused" for each in found] == [False, True]
    for each in found:
        assert (SYNTHETIC_FLAG in each.flags) == is_synthetic
        assert as_object(each)["notice"] == notice_of(is_synthetic)
        assert as_object(each)["is_synthetic"] is is_synthetic
    for text in (as_table(found, model), as_csv(found), as_metarepo(found, ["", ""])):
        assert (STAMP in text) == is_synthetic
        assert NOTICE in text


def test_dicom_results_say_so(assessed, tmp_path):
    highdicom = pytest.importorskip("highdicom", reason="the extra `pacs` is not installed: not tested")
    import pydicom

    from diagnet.clinic.picture import score_text, write_secondary_capture
    from diagnet.clinic.presentation import write_presentation_state
    from diagnet.clinic.report import write_structured_report

    is_synthetic, _, found, image = assessed
    stamp = notice_of(is_synthetic)
    write_structured_report(found, image, tmp_path / "sr.dcm")
    texts = [str(e.value) for e in highdicom.sr.srread(tmp_path / "sr.dcm").iterall() if e.keyword == "TextValue"]
    assert sum(text == stamp for text in texts) == 5  # the report's, and two of each mass
    assert (f"Note: {SYNTHETIC_FLAG}" in texts) == is_synthetic
    write_secondary_capture(found, image, tmp_path / "sc.dcm")
    write_presentation_state(found, image, tmp_path / "pr.dcm")
    for name in ("sr", "sc", "pr"):
        assert pydicom.dcmread(tmp_path / f"{name}.dcm").SeriesDescription == stamp
    assert score_text(found[0]).startswith("SYNTHETIC MODEL: ") == is_synthetic


def test_the_server_says_so(trained, tmp_path):
    testing = pytest.importorskip("fastapi.testclient", reason="the extra `serve` is not installed: not tested")
    from diagnet.app.server import create_app

    is_synthetic, run = trained
    image = write_dicom(tmp_path / "a.dcm", drawn_breast(), Laterality="L")
    app = create_app(run.folder, tmp_path / "state")
    with testing.TestClient(app, base_url="http://127.0.0.1:8080", headers={"X-DiagNet": "1"}) as client:
        facts = client.get("/v1/model").json()
        assert (facts["is_synthetic"], facts["notice"]) == (is_synthetic, notice_of(is_synthetic))
        with image.open("rb") as file:
            answer = client.post("/v1/predict", files={"file": file}, data={"boxes": json.dumps([BOX])}).json()
        assert answer["notice"] == answer["assessments"][0]["notice"] == notice_of(is_synthetic)
        assert (SYNTHETIC_FLAG in answer["assessments"][0]["flags"]) == is_synthetic
