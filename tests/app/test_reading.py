import csv
import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.data.table import without_apostrophe
from served import BOX


@pytest.fixture
def labeled(served, tmp_path):
    """The folder's images as a table that says which of them is malignant."""
    table = tmp_path / "read.csv"
    names = sorted(path for path in served.images.iterdir() if "broken" not in path.name)
    lines = [f"{path},{label},20,60,60,100" for path, label in zip(names, ("malignant", "benign"), strict=True)]
    table.write_text("\n".join(["image,label,x0,y0,x1,y1", *lines]) + "\n")
    return table


@pytest.fixture
def start(served, labeled, tmp_path):
    from fastapi.testclient import TestClient

    from diagnet.app.server import create_app
    from diagnet.data.marked import find_marked

    def start():
        app = create_app(served.run, tmp_path / "state", shown=find_marked([labeled])[0])
        return TestClient(app, base_url="http://127.0.0.1:8080", headers={"X-DiagNet": "1"})

    return start


def test_a_study_is_taken_up_again_after_a_restart(start):
    with start() as client:
        session = client.post("/v1/reading", json={"reader": "R1", "seed": 3}).json()
        assert (session["next"], session["is_complete"], len(session["cases"])) == (0, False, 2)
        first, second = session["cases"]
        where = f"/v1/reading/{session['id']}"
        given = {"image": first, "box": BOX, "stage": "with", "score": 80, "seconds": 12.5}
        assert client.post(f"{where}/scores", json=given).status_code == 409  # not before the read without
        told = client.post(f"{where}/scores", json=given | {"stage": "without", "score": 40}).json()
        assert told["next"] == 0
        assert client.post(f"{where}/scores", json=given | {"stage": "without"}).status_code == 409  # never changed
        assert client.post(f"{where}/scores", json=given).json()["next"] == 1
    with start() as client:
        again = client.get(where).json()
        assert (again["id"], again["cases"], again["next"]) == (session["id"], [first, second], 1)
        assert [each["score"] for each in again["scores"]] == [40, 80]
        assert again["scores"][0]["seconds"] == 12.5
        given |= {"image": second, "stage": "without", "score": 7.5}
        client.post(f"{where}/scores", json=given)
        assert client.post(f"{where}/scores", json=given | {"stage": "with"}).json()["is_complete"]
        answer = client.get(f"{where}/imrmc.csv")
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(answer.text.splitlines()))
    assert [*rows[0]] == ["readerID", "caseID", "modalityID", "score"]
    assert rows.pop(0)["readerID"] == "BEGIN DATA:"
    truth = [row for row in rows if row["readerID"] == "-1"]
    assert sorted(row["score"] for row in truth) == ["0", "1"]
    assert sorted(row["caseID"] for row in truth) == sorted(f"case-{each}" for each in session["cases"])
    read = [(row["readerID"], row["modalityID"], row["score"]) for row in rows if row["readerID"] != "-1"]
    assert sorted(read) == sorted(
        ("R1", stage, score)
        for stage, score in zip(
            ("without-model", f"with-model-{session['model_sha256'][:8]}") * 2, ("40", "80", "7.5", "7.5"), strict=True
        )
    )
    of_case = {row["caseID"] for row in rows if row["score"] in ("40", "80")}
    assert len(of_case) == 1


def test_orders_differ_by_seed_and_by_reader(tmp_path):
    from diagnet.app.reading import ReadingRoom

    rooms = [ReadingRoom(tmp_path / name, b"key", "0" * 64, 0.5) for name in "abc"]
    images = dict.fromkeys(f"{k:024x}" for k in range(20))
    begun = ((0, "R1", 0), (1, "R1", 1), (0, "R2", 0), (2, "R1", 0))
    orders = [rooms[room].begin(reader, seed, images)["cases"] for room, reader, seed in begun]
    assert all(sorted(order) == [*images] for order in orders)
    assert orders[0] == orders[3]
    assert len({*map(tuple, orders)}) == 3


def test_a_code_that_has_begun_gets_nobodys_session(client):
    first = client.post("/v1/reading", json={"reader": "R1"}).json()
    for again in ({"reader": "R1"}, {"reader": "R1", "seed": first["seed"]}):
        answer = client.post("/v1/reading", json=again)
        assert answer.status_code == 409
        assert "take another code" in answer.json()["detail"]
        assert first["id"] not in answer.text
    second = client.post("/v1/reading", json={"reader": "R2"}).json()
    for code in ("R1", "r1"):
        assert client.post("/v1/reading", json={"reader": code, "seed": first["seed"] ^ 1}).status_code == 409
    assert first["id"] != second["id"]


def test_no_mass_ends_a_case_and_scores_0_at_both_stages(start):
    with start() as client:
        session = client.post("/v1/reading", json={"reader": "R1"}).json()
        where = f"/v1/reading/{session['id']}"
        given = {"image": session["cases"][0], "stage": "without", "score": 0, "seconds": 3, "no_mass": True}
        for wrong in ({"score": 1}, {"box": BOX}, {"stage": "with"}):
            assert client.post(f"{where}/scores", json=given | wrong).status_code == 422
        assert client.post(f"{where}/scores", json=given).json()["next"] == 1
        for stage in ("without", "with"):
            more = given | {"stage": stage, "no_mass": False, "score": 50}
            assert client.post(f"{where}/scores", json=more).status_code == 409
        rows = [row for row in csv.reader(client.get(f"{where}/imrmc.csv").text.splitlines()) if row[0] == "R1"]
        name, model = f"case-{session['cases'][0]}", session["model_sha256"][:8]
        assert rows == [["R1", name, "without-model", "0"], ["R1", name, f"with-model-{model}", "0"]]


def test_a_scored_case_without_truth_is_left_out(client, image):
    session = client.post("/v1/reading", json={"reader": "R1"}).json()
    given = {"image": image, "stage": "without", "score": 1, "seconds": 1}
    client.post(f"/v1/reading/{session['id']}/scores", json=given)
    text = client.get(f"/v1/reading/{session['id']}/imrmc.csv").text
    assert text.split() == ["readerID,caseID,modalityID,score", "BEGIN", "DATA:"]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"score": 101}, 422),
        ({"stage": "both"}, 422),
        ({"seconds": -1}, 422),
        ({"image": "0" * 24}, 422),
        ({"image": "x"}, 422),
        ({"more": 1}, 422),
    ],
)
def test_scores_that_are_none(client, image, given, status):
    session = client.post("/v1/reading", json={"reader": "R1"}).json()["id"]
    good = {"image": image, "stage": "without", "score": 1, "seconds": 1}
    answer = client.post(f"/v1/reading/{session}/scores", json=good | given)
    assert answer.status_code == status


def test_sessions_that_are_none(client, make_client, tmp_path):
    assert client.get(f"/v1/reading/{'0' * 24}").status_code == 404
    assert client.get("/v1/reading/..%2fkey").status_code in (404, 422)
    assert client.post("/v1/reading", json={"reader": "Anna Canary"}).status_code == 422
    empty = make_client(tmp_path / "empty", images=False)
    assert empty.post("/v1/reading", json={"reader": "R1"}).status_code == 409


def test_the_truth_of_a_case_is_1_where_it_is_malignant(start):
    with start() as client:
        malignant, benign = (each["id"] for each in client.get("/v1/images").json())
        session = client.post("/v1/reading", json={"reader": "R1"}).json()
        rows = list(csv.DictReader(client.get(f"/v1/reading/{session['id']}/imrmc.csv").text.splitlines()))
    truth = {row["caseID"]: row["score"] for row in rows if row["readerID"] == "-1"}
    assert truth == {f"case-{malignant}": "1", f"case-{benign}": "0"}


@settings(deadline=None)  # it writes files
@given(st.text(), st.text())
@example("a\rb\u2028", "\x85\n\U0001f600")
def test_any_text_is_kept_in_sessions_and_in_the_audit_log(tmp_path_factory, reader, image):
    from diagnet.app.audit import AuditLog
    from diagnet.app.reading import ReadingRoom

    folder = tmp_path_factory.mktemp("state")
    room = ReadingRoom(folder, b"key", "0" * 64, 0.5)
    session = room.begin(reader, 0, {image: None})
    assert (session["reader"], session["cases"]) == (reader, [image])
    assert room.session(session["id"]) == session
    for route in (reader, image):
        AuditLog(folder / "audit.jsonl").write({"route": route})
    lines = (folder / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["route"] for line in lines] == [reader, image]


@settings(deadline=None)  # it writes files
@given(st.text())
@example("a\rb")
def test_a_reader_of_any_code_is_read_back_by_imrmc(tmp_path_factory, reader):
    from diagnet.app.reading import ReadingRoom
    from diagnet.app.shapes import ScoreRequest

    room, image = ReadingRoom(tmp_path_factory.mktemp("state"), b"key", "0" * 64, 0.5), "0" * 24
    session = room.begin(reader, 0, {image: True})["id"]
    room.score(session, ScoreRequest(image=image, stage="without", score=1, seconds=1))
    rows = list(csv.reader(io.StringIO(room.as_imrmc(session), newline=""), strict=True))
    assert [without_apostrophe(cell) for cell in rows[3]] == [reader, f"case-{image}", "without-model", "1"]
