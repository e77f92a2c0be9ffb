import base64
import dataclasses
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from diagnet.app.answers import Answers
from diagnet.app.images import ImageStore
from diagnet.data.domain import Verdict
from diagnet.data.image import read_image
from diagnet.data.marked import Marked
from diagnet.data.mass import Mass
from diagnet.data.roi import cut_roi
from diagnet.inference.assessment import Policy, assess
from diagnet.inference.model import load_model
from diagnet.inference.saliency import occlusion
from diagnet.notice import NOTICE
from served import BOX, CSRF


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert set(found) == {"type", "title", "status", "detail"}
    assert found["status"] == status
    return found


def test_health_and_model(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    model = client.get("/v1/model").json()
    assert model["notice"] == NOTICE
    assert model["n_training"] == {"benign": 20, "malignant": 20}
    assert model["roi"] == {"size": 16, "padding_factor": 1.6, "square": False, "grey_range": "region"}
    assert model["limits"] == {"max_upload_bytes": 128 * 2**20}
    assert model["auc"] == {"value": 0.6, "low": 0.5, "high": 0.7}


def test_an_image_comes_and_goes(client, dicom):
    n_before = len(client.get("/v1/images").json())
    added = client.post("/v1/images", files={"file": ("CANARY.dcm", dicom[:-1] + b"\1")})
    assert added.status_code == 201
    told = added.json()
    assert (told["width"], told["height"], told["laterality"], told["state"]) == (128, 160, "L", "new")
    assert told["name"].startswith("image ")
    assert len(client.get("/v1/images").json()) == n_before + 1
    pixels = client.get(f"/v1/images/{told['id']}/pixels")
    assert (pixels.headers["x-width"], pixels.headers["x-height"]) == ("128", "160")
    assert len(np.frombuffer(pixels.content, "<u2")) == 128 * 160
    assert client.delete(f"/v1/images/{told['id']}").status_code == 204
    problem(client.get(f"/v1/images/{told['id']}/pixels"), 404)
    problem(client.delete(f"/v1/images/{told['id']}"), 404)


@pytest.mark.parametrize("name", ["allow_missing_preamble", "force"])  # the second is the old name
def test_a_file_without_preamble_is_read_where_it_is_asked_for(client, dicom, name):
    file = {"file": ("bare.dcm", dicom[128 + 4 :])}
    problem(client.post("/v1/predict", files=file, data={"boxes": json.dumps([BOX])}), 415)
    answer = client.post("/v1/predict", files=file, data={"boxes": json.dumps([BOX]), name: "true"})
    assert answer.status_code == 200, answer.text
    assert "the file has no DICOM preamble" in answer.json()["assessments"][0]["flags"]
    problem(client.post("/v1/images", files=file), 415)
    added = client.post("/v1/images", files=file, data={name: "true"})
    assert added.status_code == 201, added.text


def test_pixels_are_the_displayed_ones(client, image, served):
    answer = client.get(f"/v1/images/{image}/pixels")
    found = np.frombuffer(answer.content, "<u2").reshape(160, 128)
    np.testing.assert_allclose(found / 65535, read_image(served.images / "a.dcm"), atol=1e-5)
    small = client.get(f"/v1/images/{image}/pixels?max_side=40")
    assert (small.headers["x-width"], small.headers["x-height"]) == ("32", "40")
    assert np.frombuffer(small.content, "<u2").mean() == pytest.approx(found.mean(), rel=0.02)
    problem(client.get(f"/v1/images/{image}/pixels?max_side=0"), 422)


def test_a_folders_broken_image_is_told_when_it_is_asked_for(client):
    states = {}
    for each in client.get("/v1/images").json():
        answer = client.get(f"/v1/images/{each['id']}")
        states[answer.status_code] = answer
    assert "image " in problem(states[422], 422)["detail"]
    assert "refused" in {each["state"] for each in client.get("/v1/images").json()}


def test_predict_says_what_assess_says(client, image, served):
    asked = {"image": image, "boxes": [BOX, [0, 0, 3, 3]]}
    answer = client.post("/v1/predict", json=asked)
    assert answer.status_code == 200, answer.text
    found, refused = answer.json()["assessments"]
    expected = assess(load_model(served.run, engine="torch"), served.images / "a.dcm", [tuple(BOX)])[0]
    for name in ("malignancy", "raw_malignancy", "decision", "input_sha256", "model_sha256", "laterality"):
        assert found[name] == getattr(expected, name)
    assert (found["notice"], refused["decision"], refused["meaning"]) == (NOTICE, "refused", None)
    assert "8 pixels" in refused["reason"]
    meaning = found["meaning"]
    assert meaning["n_like"] == 20
    assert meaning["share"]["low"] <= meaning["share"]["value"] <= meaning["share"]["high"]
    assert str(meaning["n_malignant"]) in meaning["text"]


def test_a_score_of_an_image_of_another_kind_has_no_meaning(client, image, monkeypatch):
    unlike = Verdict(True, False, "contrast 0.09, training 0.15 to 0.31")
    monkeypatch.setattr("diagnet.inference.assessment.middle_verdict", lambda *_: unlike)
    (found,) = client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).json()["assessments"]
    assert found["malignancy"] is not None
    assert found["is_unlike"] is True
    assert found["meaning"] is None
    assert f"unlike the training masses: {unlike.reason}" in found["flags"]


def test_the_meaning_of_a_score_is_of_the_source_that_looks_alike(client, image, monkeypatch):
    monkeypatch.setattr("diagnet.inference.assessment.middle_verdict", lambda *_: Verdict(source="digital"))
    (found,) = client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).json()["assessments"]
    assert found["training_source"] == "digital"
    assert found["meaning"] is None  # no held-out mass is of that source
    assert client.get("/v1/model").json()["auc_by_source"] == {}


def test_an_image_of_a_far_kind_is_scored_only_where_the_server_was_told_to(make_client, image, monkeypatch):
    far = Verdict(True, True, "contrast 0.09, training 0.15 to 0.31")
    monkeypatch.setattr("diagnet.inference.assessment.middle_verdict", lambda *_: far)
    for allowed, decisions in ((False, {"refused"}), (True, {"malignant", "benign", "abstained"})):
        client = make_client(allow_unlike=allowed)
        (found,) = client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).json()["assessments"]
        assert found["decision"] in decisions
        assert (found["is_unlike"], found["meaning"]) == (True, None)


def test_predict_takes_a_file_and_forgets_it(client, dicom, image):
    files, data = {"file": ("x.dcm", dicom)}, {"boxes": json.dumps([BOX])}
    n_before = len(client.get("/v1/images").json())
    sent = client.post("/v1/predict", files=files, data=data).json()["assessments"][0]
    held = client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).json()["assessments"][0]
    assert sent["malignancy"] == held["malignancy"]
    assert len(client.get("/v1/images").json()) == n_before


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"json": {"image": "0" * 24, "boxes": [BOX]}}, 404),
        ({"json": {"image": "../../etc/passwd", "boxes": [BOX]}}, 422),
        ({"json": {"image": "0" * 24, "boxes": []}}, 422),
        ({"json": {"image": "0" * 24, "boxes": [[1, 2, 3]]}}, 422),
        ({"json": {"image": "0" * 24, "boxes": [BOX] * 51}}, 422),
        ({"content": b'{"image": "000000000000000000000000", "boxes": [[NaN, 0, 1, 1]]}'}, 422),
        ({"content": b"{"}, 422),
        ({"content": b"[" * 100_000}, 422),
        ({"files": {"file": b"x"}, "data": {"boxes": "[[1, 2, 3, 4]]"}}, 415),
        ({"files": {"file": b"\0" * 128 + b"DICM"}, "data": {"boxes": "[[1, 2, 3, 4]]"}}, 422),
        ({"files": {"file": b"x"}, "data": {"boxes": "[" * 50_000}}, 422),
        ({"files": {"file": b"x"}, "data": {"boxes": "[]"}}, 422),
        ({"files": {"file": b"x"}}, 422),
        ({"data": {"boxes": "[[1, 2, 3, 4]]"}}, 415),
        ({"content": b"no part", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"no part", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    ],
)
def test_what_predict_does_not_take(client, how, status):
    if "content" in how:
        how = {"headers": {"Content-Type": "application/json"}} | how
    problem(client.post("/v1/predict", **how), status)


def test_similar_cases(client, image):
    answer = client.post("/v1/similar", json={"image": image, "box": BOX, "n": 3}).json()
    for name in ("benign", "malignant"):
        assert [each["label"] for each in answer[name]] == [name] * 3
        assert all(each["label_source"] == "biopsy" for each in answer[name])
        distances = [each["distance"] for each in answer[name]]
        assert distances == sorted(distances)
    points = {each["case"]: each for each in answer["map"]["points"]}
    assert len(points) == 20 + 8
    assert len(answer["map"]["attracting"]) == 1
    assert len(answer["map"]["repelling"]) == 4
    assert {*answer["map"]["attracting"], *answer["map"]["repelling"]} <= set(points)
    assert answer["notice"] == NOTICE
    nearest = answer["benign"][0]["case"]
    picture = client.get(f"/v1/cases/{nearest}/picture")
    assert Image.open(io.BytesIO(picture.content)).size == (16, 16)
    assert client.get("/v1/cases/n0/picture").headers["content-type"] == "image/png"
    for name in ("zero", "n99", "..%2f..%2fetc%2fpasswd", "-1"):
        problem(client.get(f"/v1/cases/{name}/picture"), 404)


def test_without_data_there_are_cases_but_no_pictures(make_client, dicom):
    client = make_client(data=False, images=False)
    image = client.post("/v1/images", files={"file": dicom}).json()["id"]
    found = client.post("/v1/similar", json={"image": image, "box": BOX}).json()
    assert found["benign"][0]["label_source"] == ""
    problem(client.get(f"/v1/cases/{found['benign'][0]['case']}/picture"), 404)
    assert client.get("/v1/cases/n0/picture").status_code == 200


def test_saliency(client, image):
    found = client.post("/v1/saliency", json={"image": image, "box": BOX}).json()
    values = np.frombuffer(base64.b64decode(found["values"]), np.uint8)
    assert found["size"] == 16
    assert len(values) == 256
    assert values.max() == 255
    x0, y0, x1, y1 = found["region"]
    assert x0 <= BOX[0] < BOX[2] <= x1
    assert y0 <= BOX[1] < BOX[3] <= y1
    assert found["largest_change"] > 0


@pytest.mark.parametrize("route", ["similar", "saliency"])
def test_a_box_off_the_breast_has_no_explanation(client, image, route):
    found = problem(client.post(f"/v1/{route}", json={"image": image, "box": [100, 0, 127, 20]}), 422)
    assert "breast" in found["detail"]


def test_report(client, image):
    asked = {"image": image, "boxes": [BOX], "format": "json"}
    answer = client.post("/v1/report", json=asked)
    assert answer.headers["content-disposition"] == 'attachment; filename="report.json"'
    assert answer.json()["notice"] == NOTICE
    problem(client.post("/v1/report", json=asked | {"format": "sr"}), 422)
    problem(client.post("/v1/report", json=asked | {"format": "exe"}), 422)


def test_a_structured_report_is_written_by_what_it_is_given(served, tmp_path, dicom):
    from fastapi.testclient import TestClient

    from diagnet.app.server import create_app

    def write(assessments, source, out):
        assert source.suffix == ".dcm"
        out.write_bytes(f"{len(assessments)} of {NOTICE}".encode())

    with TestClient(
        create_app(served.run, tmp_path, write_report=write), base_url="http://localhost", headers=CSRF
    ) as client:
        image = client.post("/v1/images", files={"file": dicom}).json()["id"]
        answer = client.post("/v1/report", json={"image": image, "boxes": [BOX, BOX], "format": "sr"})
        assert answer.content.startswith(b"2 of RESEARCH")
        assert answer.headers["content-type"] == "application/dicom"
        refused = client.post("/v1/report", json={"image": image, "boxes": [[0, 0, 2, 2]], "format": "sr"})
        assert refused.content.startswith(b"1 of RESEARCH")  # a refused mass is reported with its reason
        png = io.BytesIO()
        Image.fromarray(np.arange(65536).reshape(256, 256).astype(np.uint8)).save(png, "PNG")
        image = client.post("/v1/images", files={"file": png.getvalue()}).json()["id"]
        asked = {"image": image, "boxes": [[60, 60, 120, 120]], "format": "sr"}
        assert "no-dicom" in problem(client.post("/v1/report", json=asked), 422)["type"]


def test_a_real_structured_report(served, tmp_path, dicom):
    highdicom = pytest.importorskip("highdicom", reason="the extra pacs is not installed")
    from fastapi.testclient import TestClient

    from diagnet.app.server import create_app
    from diagnet.clinic.report import write_structured_report

    app = create_app(served.run, tmp_path, write_report=write_structured_report)
    with TestClient(app, base_url="http://localhost", headers=CSRF) as client:
        image = client.post("/v1/images", files={"file": dicom}).json()["id"]
        asked = {"image": image, "boxes": [BOX], "format": "sr"}
        answer = client.post("/v1/report", json=asked)
        assert answer.status_code == 200, answer.text
        (tmp_path / "sr.dcm").write_bytes(answer.content)
        report = highdicom.sr.srread(tmp_path / "sr.dcm")
        (group,) = report.content.get_planar_roi_measurement_groups()
        (measured,) = group.get_measurements()
        (score,) = client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).json()["assessments"]
        assert float(measured.value) == pytest.approx(100 * score["malignancy"], rel=1e-6)


def test_the_pages_files_are_looked_up_not_opened(client):
    assert "NOT FOR CLINICAL USE" in client.get("/").text
    assert client.get("/page/index.html").status_code == 200
    for name in ("../server.py", "..%2fserver.py", "%2fetc%2fpasswd", "nothing.js", "__init__.py"):
        problem(client.get(f"/page/{name}"), 404)


def test_other_errors_are_problems_too(client):
    problem(client.get("/nothing"), 404)
    problem(client.put("/v1/model"), 405)
    problem(client.get("/docs"), 404)
    problem(client.get("/v1/images/"), 404)


def test_saliency_says_what_speaks_for_malignant_and_what_against(client, image, served):
    found = client.post("/v1/saliency", json={"image": image, "box": BOX}).json()
    model = load_model(served.run, engine="torch")
    path = served.images / "a.dcm"
    region = cut_roi(read_image(path), Mass(path, tuple(BOX), None, ""), model.roi)
    change = occlusion(lambda regions: model.probabilities(regions)[:, 1], region)
    assert found["largest_change"] == pytest.approx(np.abs(change).max(), rel=1e-3)
    signs = np.frombuffer(base64.b64decode(found["signs"]), np.uint8).reshape(change.shape)
    is_clear = np.abs(change) > 1e-3 * np.abs(change).max()
    assert is_clear.mean() > 0.5
    assert (signs[is_clear] == (change > 0)[is_clear]).all()


def test_the_threshold_that_is_told_is_the_models(served):
    images = ImageStore(b"key", max_images=1, keep_s=1.0)
    model = dataclasses.replace(load_model(served.run, engine="torch"), threshold=0.37)
    assert Answers(served.run, model, images).model["threshold"] == 0.37
    images.close()


def test_each_mark_keeps_its_own_score_for_what_is_asked_next(client, image):
    boxes = [BOX, [24.0, 62.0, 58.0, 96.0]]
    scored = client.post("/v1/predict", json={"image": image, "boxes": boxes}).json()["assessments"]
    assert scored[0]["input_sha256"] != scored[1]["input_sha256"]
    for box, each in zip(boxes, scored, strict=True):
        answer = client.post("/v1/similar", json={"image": image, "box": box}).json()
        assert answer["input_sha256"] == each["input_sha256"]


def test_as_many_masses_as_allowed_are_scored(make_client, dicom):
    client = make_client(images=False, max_boxes=2)
    image = client.post("/v1/images", files={"file": dicom}).json()["id"]
    for n_boxes, status in ((2, 200), (3, 422)):
        asked = {"image": image, "boxes": [BOX] * n_boxes}
        assert client.post("/v1/predict", json=asked).status_code == status


def test_a_file_of_the_folder_is_forgotten_but_never_removed(client, image, served):
    before = sorted(served.images.iterdir())
    assert client.delete(f"/v1/images/{image}").status_code == 204
    assert sorted(served.images.iterdir()) == before


def test_an_image_has_another_id_for_whoever_has_another_key(make_client, dicom, tmp_path):
    ids = []
    for state in ("one", "two", "three"):
        if state == "three":  # "one" itself is a running server's
            (tmp_path / "three").mkdir()
            shutil.copy(tmp_path / "one" / "key", tmp_path / "three")
        client = make_client(tmp_path / state, images=False)
        ids.append(client.post("/v1/images", files={"file": dicom}).json()["id"])
    assert ids[0] == ids[2] != ids[1]


def test_an_upload_that_nobody_asks_for_goes_and_another_stays(monkeypatch, dicom, tmp_path):
    def added(content):
        (tmp_path / "sent").write_bytes(content)
        with (tmp_path / "sent").open("rb") as file:
            return images.add(file, Policy())

    now = 0.0
    monkeypatch.setattr("diagnet.app.images.time.monotonic", lambda: now)
    images = ImageStore(b"key", max_images=9, keep_s=100.0)
    asked_for, left = added(dicom), added(dicom + b"\0\0")
    now = 60.0
    images.get(asked_for.id)
    now = 120.0
    assert [each.id for each in images.all()] == [asked_for.id]
    assert asked_for.path.exists()
    assert not left.path.exists()
    images.close()


@pytest.mark.parametrize(
    ("labels", "is_malignant"),
    [(("benign", "malignant"), True), (("malignant",), True), (("benign", "benign"), False), (("",), None)],
)
def test_an_image_is_malignant_where_one_of_its_masses_is(served, labels, is_malignant):
    images = ImageStore(b"key", max_images=1, keep_s=1.0)
    images.offer([Marked(served.images / "a.dcm", (None,) * len(labels), labels)], {})
    assert [each.is_malignant for each in images.all()] == [is_malignant]
    images.close()


def test_a_reason_that_names_the_file_is_told_without_its_name(served, dicom, tmp_path):
    """No reason of a mass names its file today; whoever writes one that does shall not tell a client."""
    path = tmp_path / "CANARY.dcm"
    path.write_bytes(dicom)
    (scored,) = assess(load_model(served.run, engine="torch"), path, [tuple(BOX)])
    refused = dataclasses.replace(
        scored, malignancy=None, decision="refused", reason=f"`box` must be there, got {path}."
    )
    answers = object.__new__(Answers)
    answers._model = load_model(served.run, engine="torch")
    answers._cases = SimpleNamespace(held_out=SimpleNamespace(meaning_of=lambda _: None))
    told = answers._assessment_json(refused)
    assert "CANARY" not in str(told)
    assert told["reason"] == "`box` must be there, got the image."


def test_a_missing_extra_is_told_without_the_servers_paths(make_client, dicom, monkeypatch):
    from diagnet.errors import MissingExtraError

    def missing(*_, **__):
        raise MissingExtraError("pyjpegls", "dicom")

    monkeypatch.setattr("diagnet.app.images.read_picture", missing)
    answer = make_client(images=False).post("/v1/images", files={"file": dicom})
    assert answer.json()["type"] == "urn:diagnet:problem:missing-extra"
    assert "its extra `dicom`" in answer.json()["detail"]
    assert sys.executable not in answer.text


@pytest.mark.parametrize("keep_names", [False, True])
def test_files_have_their_own_names_where_that_is_asked_for(served, dicom, tmp_path, keep_names):
    from fastapi.testclient import TestClient

    from diagnet.app.server import create_app
    from diagnet.data.marked import find_marked

    app = create_app(served.run, tmp_path / "s", shown=find_marked([served.images])[0], keep_names=keep_names)
    with TestClient(app, base_url="http://127.0.0.1:8080", headers={"X-DiagNet": "1"}) as client:
        shown = {each["name"] for each in client.get("/v1/images").json()}
        assert ("a.dcm" in shown) == keep_names
        sent = client.post("/v1/images", files={"file": ("of mine.dcm", dicom[:-1] + b"\1")}).json()
        assert (sent["name"] == "of mine.dcm") == keep_names
        asked = {"image": sent["id"], "boxes": [BOX], "format": "json"}
        report = client.post("/v1/report", json=asked).json()
        assert report["image"] == sent["name"]
        assert report["assessments"][0]["sop_instance_uid"]


def test_a_slow_file_holds_up_nobody_who_works_on_an_image_that_was_read(client, image, dicom, monkeypatch):
    from diagnet.app import images as module

    begun, may_end, read = threading.Event(), threading.Event(), module.read_picture

    def slow(*args, **kwargs):
        begun.set()
        assert may_end.wait(60)
        return read(*args, **kwargs)

    asked = {"image": image, "boxes": [BOX]}
    assert client.post("/v1/predict", json=asked).status_code == 200
    monkeypatch.setattr(module, "read_picture", slow)
    with ThreadPoolExecutor(2) as pool:
        uploads = [pool.submit(client.post, "/v1/images", files={"file": ("x.dcm", dicom + bytes(k))}) for k in (2, 4)]
        try:
            assert begun.wait(60)
            assert client.post("/v1/predict", json=asked).status_code == 200
            assert client.get(f"/v1/images/{image}/pixels").status_code == 200
            assert not any(upload.done() for upload in uploads)
        finally:
            may_end.set()
        assert {upload.result().status_code for upload in uploads} <= {201, 422}


def test_two_uploads_of_one_file_at_a_time_are_one_image_and_one_file(client, dicom, monkeypatch):
    from diagnet.app import images as module

    both, read = threading.Barrier(2), module.exam_of

    def together(*args, **kwargs):
        both.wait(60)
        return read(*args, **kwargs)

    def uploads():
        return {*Path(tempfile.gettempdir()).glob(f"diagnet-uploads-{os.getpid()}-*/*.dcm")}

    before, sent = uploads(), {"file": ("x.dcm", dicom + bytes(6))}
    monkeypatch.setattr(module, "exam_of", together)
    with ThreadPoolExecutor(2) as pool:
        answers = [each.result() for each in [pool.submit(client.post, "/v1/images", files=sent) for _ in range(2)]]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(uploads() - before) == 1
