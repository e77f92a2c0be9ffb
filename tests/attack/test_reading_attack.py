"""What happens to a reader study while images go, models change, readers collide and the server is killed."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from hostile_clients import CSRF, ask, port_of
from served import BOX

N_CASES = 30


def read_imrmc(text):
    """Read an export by the rules of iMRMC's InputFile.java, which knows no quotes: (truth, scores).

    Everything before a line that begins with `BEGIN DATA:` is free text. Then come reader, case, modality and score,
    whose white space is removed. Reader -1 gives truths, one for a case. Every other row needs its case's truth, and a
    reader scores a case once in each modality.
    """
    lines = text.splitlines()
    data = next(k for k, line in enumerate(lines) if line.upper().startswith("BEGIN DATA:"))
    rows = [["".join(cell.split()) for cell in line.split(",")] for line in lines[data + 1 :]]
    truth, scores = {}, {}
    for reader, case, _, score in rows:
        if reader == "-1":
            assert case not in truth, "ERROR: Duplicate case found"
            assert score in ("0", "1")
            truth[case] = int(score)
    for reader, case, modality, score in rows:
        if reader != "-1":
            assert case in truth, "ERROR: No truth for case"
            assert (reader, case, modality) not in scores, "ERROR: Replicate observation found"
            scores[reader, case, modality] = float(score)
    return truth, scores


@pytest.fixture(scope="session")
def folder_of_cases(tmp_path_factory):
    """Images that nobody decodes here, and a table of their labels."""
    folder, rng = tmp_path_factory.mktemp("cases"), np.random.default_rng(3)
    lines = ["image,label,x0,y0,x1,y1"]
    for k in range(N_CASES):
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(folder / f"{k}.png")
        lines.append(f"{k}.png,{('benign', 'malignant')[k % 2]},4,4,20,20")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def busy(make_server, folder_of_cases):
    """A server for readings alone, which is killed."""
    made = make_server(images=folder_of_cases / "cases.csv", requests_per_second=1e4, burst=10_000)
    made.port = port_of(made.process)
    return made


def test_no_acknowledged_score_is_lost_by_a_kill(busy, print_figure):
    session = json.loads(ask(busy.port, "POST", "/v1/reading", {"reader": "R1"})[1])
    acknowledged, n_told = [], 0

    def read(image):
        for stage in ("without", "with"):
            given = {"image": image, "box": BOX, "stage": stage, "score": len(acknowledged), "seconds": 1}
            try:
                status, _, _ = ask(busy.port, "POST", f"/v1/reading/{session['id']}/scores", given)
            except OSError:  # killed
                return
            assert status == 200
            acknowledged.append((image, stage, given["score"]))
            if len(acknowledged) >= 37:  # in the middle of the others' requests
                busy.process.kill()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, session["cases"]))
    busy.process.wait()
    kept = json.loads((busy.state / "reading" / f"{session['id']}.json").read_text())["scores"]
    kept = [(each["image"], each["stage"], each["score"]) for each in kept]
    n_told = len(acknowledged)
    assert 37 <= n_told < 2 * N_CASES
    assert not {*acknowledged} - {*kept}
    assert len({(image, stage) for image, stage, _ in kept}) == len(kept)
    print_figure(f"scores acknowledged before kill -9: {n_told}, lost: 0")


# ------------------------------------------------ in this process: rooms and apps


@pytest.fixture
def make_room(tmp_path):
    from diagnet.app.reading import ReadingRoom

    def make(model="a", threshold=0.5):
        return ReadingRoom(tmp_path / "reading", b"key", model * 64, threshold)

    return make


IMAGES = {f"{k:024x}": bool(k % 2) for k in range(6)}


def score(room, session, image, stage="without", score=50.0, **more):
    from diagnet.app.shapes import ScoreRequest

    return room.score(session, ScoreRequest(image=image, stage=stage, score=score, seconds=1.0, **more))


def test_scores_of_two_models_never_meet(make_room):
    from starlette.exceptions import HTTPException

    room = make_room()
    session = room.begin("R1", 0, IMAGES)["id"]
    first, *_ = IMAGES
    score(room, session, first)
    for other in (make_room("b"), make_room(threshold=0.4)):
        with pytest.raises(HTTPException, match="must go on with the model that it began with"):
            other.session(session)
        with pytest.raises(HTTPException, match="must go on with the model that it began with"):
            score(other, session, first, "with")
        assert other.as_imrmc(session) == room.as_imrmc(session)
        with pytest.raises(HTTPException, match="must be a code that has not begun"):
            other.begin("r1", 1, IMAGES)
    score(make_room(), session, first, "with")
    second = make_room("b").begin("R2", 0, IMAGES)["id"]
    score(make_room("b"), second, first)
    score(make_room("b"), second, first, "with")
    modalities = [{key[2] for key in read_imrmc(room.as_imrmc(each))[1]} for each in (session, second)]
    assert modalities == [{"without-model", "with-model-aaaaaaaa"}, {"without-model", "with-model-bbbbbbbb"}]


def test_exports_of_readers_can_be_put_together(make_room):
    """A case has one name for all readers, also where one of them had another image more."""
    room, more = make_room(), {**IMAGES, "0" * 23 + "f": True}
    texts = []
    for reader, images in (("R1", IMAGES), ("R2", more), ("R3", IMAGES)):
        session = room.begin(reader, None, images)
        for image in session["cases"]:
            score(room, session["id"], image, score=float(int(image, 16)), no_mass=int(image, 16) == 0)
            if int(image, 16):
                score(room, session["id"], image, "with", score=float(int(image, 16)))
        texts.append(room.as_imrmc(session["id"]))
    found = [read_imrmc(text) for text in texts]
    truth = {case: value for each, _ in found for case, value in each.items()}
    assert all(truth[case] == value for each, _ in found for case, value in each.items())
    scores = {key: value for _, each in found for key, value in each.items()}
    assert len(scores) == 2 * (6 + 7 + 6)
    for case in truth:
        assert len({value for (_, of, _), value in scores.items() if of == case}) == 1


def test_a_code_begins_once_however_many_ask(make_room):
    from starlette.exceptions import HTTPException

    rooms = [make_room() for _ in range(8)]

    def begin(k):
        try:
            return rooms[0].begin(("R1", "r1")[k % 2], k, IMAGES)["id"]
        except HTTPException as error:
            return error.status_code

    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(begin, range(24))]
    assert found.count(409) == 23


def test_a_broken_session_stops_no_other(make_room, tmp_path):
    from starlette.exceptions import HTTPException

    room = make_room()
    broken = room.begin("R1", 0, IMAGES)["id"]
    (tmp_path / "reading" / f"{broken}.json").write_text('{"reader": "R')
    assert room.begin("R2", 0, IMAGES)["cases"]
    with pytest.raises(HTTPException, match="must be a code that has not begun"):  # its scores may yet be mended
        room.begin("R1", 0, IMAGES)


@pytest.mark.parametrize("code", ["-1", "-", "_", "", "R 1", "R,1", "=1", "R\n1", "é", "a" * 33])
def test_codes_that_iMRMC_would_read_otherwise_are_none(code):
    from pydantic import ValidationError

    from diagnet.app.shapes import ReadingRequest

    with pytest.raises(ValidationError, match="reader"):
        ReadingRequest(reader=code)


def test_nothing_that_happens_to_images_changes_a_session(attacked_run, folder_of_cases, tmp_path):
    from fastapi.testclient import TestClient

    from diagnet.app.server import create_app
    from diagnet.data.marked import find_marked

    folder = tmp_path / "cases"
    shutil.copytree(folder_of_cases, folder)

    def start(table="cases.csv"):
        app = create_app(attacked_run.run, tmp_path / "state", shown=find_marked([folder / table])[0])
        return TestClient(app, base_url="http://127.0.0.1:8080", headers=CSRF)

    (folder / "29.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with start() as client:
        names = {each["id"]: each["name"] for each in client.get("/v1/images").json()}
        first, second, third, *_, broken = names
        assert client.get(f"/v1/images/{broken}").status_code == 422
        session = client.post("/v1/reading", json={"reader": "R1"}).json()
        where = f"/v1/reading/{session['id']}"
        assert sorted(session["cases"]) == sorted(names)  # whatever was opened before
        assert "truth" not in json.dumps(session)
        for image in (first, second):
            given = {"image": image, "box": BOX, "stage": "without", "score": 30, "seconds": 1}
            client.post(f"{where}/scores", json=given)
        export = client.get(f"{where}/imrmc.csv").text
        client.post("/v1/images", files={"file": (attacked_run.images / "a.dcm").read_bytes()})
        assert client.delete(f"/v1/images/{first}").status_code == 204
        shutil.copy(folder / "5.png", folder / "1.png")  # another woman's under the old name
        (folder / "2.png").unlink()
        for image, status in ((first, 404), (second, 410), (third, 410)):
            answer = client.get(f"/v1/images/{image}/pixels")
            assert answer.status_code == status
        assert "This image is no longer here" in answer.text
        assert client.post("/v1/predict", json={"image": second, "boxes": [BOX]}).status_code == 410
        assert client.get(where).json()["cases"] == session["cases"]
        assert client.get(f"{where}/imrmc.csv").text == export
    # The table says now that all are benign, and some are gone.
    lines = (folder / "cases.csv").read_text().replace("malignant", "benign").splitlines()
    (folder / "fewer.csv").write_text("\n".join([lines[0], *lines[9:]]) + "\n")
    with start("fewer.csv") as client:
        again = client.get(where).json()
        assert [again[name] for name in ("cases", "model_sha256", "threshold", "seed")] == [
            session[name] for name in ("cases", "model_sha256", "threshold", "seed")
        ]
        assert client.get(f"{where}/imrmc.csv").text == export
    truth, scores = read_imrmc(export)
    assert sorted(truth.values()) == [0] * 15 + [1] * 15
    assert {key[2] for key in scores} == {"without-model"}
    assert {truth[f"case-{image}"] for image in (first, second)} == {0, 1}
