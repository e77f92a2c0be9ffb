import io
import json
import re
import threading

import numpy as np
import pytest
from fastapi.routing import APIRoute
from PIL import Image

from diagnet.app.guard import Rate, is_open
from diagnet.app.settings import ServerSettings, is_loopback, server_settings
from diagnet.errors import SettingsError
from served import BOX, CANARY

TOKEN = "a-token-of-many-letters"  # noqa: S105 -- of these tests
# Written out, so that a route that is added without a thought of the token fails here.
ROUTES = {
    "GET /healthz", "GET /v1/model", "POST /v1/images", "GET /v1/images", "GET /v1/images/{image}",
    "GET /v1/images/{image}/pixels", "DELETE /v1/images/{image}", "POST /v1/predict", "POST /v1/similar",
    "GET /v1/cases/{case}/picture", "POST /v1/saliency", "POST /v1/box", "POST /v1/report", "POST /v1/reading",
    "GET /v1/reading/{session}", "POST /v1/reading/{session}/scores", "GET /v1/reading/{session}/imrmc.csv",
    "GET /", "GET /page/{name:path}", "GET /openapi.json",
}  # fmt: skip
OPEN = {"GET /healthz", "GET /", "GET /page/{name:path}"}


def is_problem(answer, status):
    return answer.status_code == status and answer.headers["content-type"] == "application/problem+json"


def test_the_list_of_routes_is_whole(make_client):
    app = make_client().app
    found = {f"{method.upper()} {path}" for path, ways in app.openapi()["paths"].items() for method in ways}
    assert found == {route for route in ROUTES if route.split()[1] not in ("/", "/openapi.json", "/page/{name:path}")}
    others = {route for each in app.routes if isinstance(each, APIRoute) for route in [each.path]}
    assert others <= {route.split()[1] for route in ROUTES}


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_each_route_needs_the_token(make_client, route):
    client = make_client(token=TOKEN, host="192.0.2.1", wrong_tokens_per_minute=100)
    method, path = route.split()
    path = re.sub(r"\{.*?\}", "index.html" if "page" in path else "0" * 24, path)
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ):
        answer = client.request(method, path, headers=headers)
        if route in OPEN:
            assert answer.status_code == 200
        else:
            assert is_problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
    answer = client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code not in (401, 403, 500)
    assert is_problem(client.get("/v1/model", headers={"Authorization": "Bearer ï".encode("latin-1")}), 401)


def test_guessing_the_token_is_slow(make_client):
    client = make_client(token=TOKEN, host="192.0.2.1", wrong_tokens_per_minute=3)
    codes = [client.get("/v1/model", headers={"Authorization": f"Bearer {k}"}).status_code for k in range(5)]
    assert codes == [401, 401, 401, 429, 429]
    # Behind a proxy all have one address: whoever has the token is not locked out by those who guess it.
    assert client.get("/v1/model", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[", "localhost:x"]
)
def test_other_hosts_are_dns_rebinding(client, host):
    answer = client.get("/v1/model", headers={"Host": host})
    assert answer.status_code in ((200, 421) if host == "localhost:x" else (421,))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:99", "[::1]:8080"])
def test_own_hosts(client, host):
    assert client.get("/v1/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-DiagNet": ""},
        {"X-DiagNet": "0"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_change_nothing(client, image, headers):
    for method, path in (("POST", "/v1/predict"), ("DELETE", f"/v1/images/{image}"), ("POST", "/v1/reading")):
        answer = client.request(method, path, headers=headers)
        assert is_problem(answer, 403)
        assert "access-control-allow-origin" not in answer.headers
    assert client.get(f"/v1/images/{image}").status_code == 200
    own = {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/reading", headers=own, json={"reader": "R1"}).status_code == 200


def test_other_sites_read_nothing_but_may_link_to_the_page(client):
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert is_problem(client.get("/v1/images", headers=headers), 403)
    assert client.get("/", headers=headers).status_code == 200


def test_every_answer_has_the_headers(client):
    for answer in (client.get("/"), client.get("/v1/model"), client.get("/nothing"), client.post("/v1/similar")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_sizes(make_client, dicom):
    client = make_client(max_upload_mb=1, max_body_kb=1)
    assert is_problem(client.post("/v1/images", files={"file": b"x" * 2**21}), 413)
    assert is_problem(client.post("/v1/predict", json={"image": "x" * 2000}), 413)
    # A length that is not told is counted.
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for route in ("images", "predict"):
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = client.post(f"/v1/{route}", content=(part for part in (head, *[b"x" * 2**16] * 40)), headers=headers)
        assert is_problem(answer, 413), answer.text
    headers = {"Content-Type": "application/json"}
    assert is_problem(client.post("/v1/predict", content=(b"[" for _ in range(2000)), headers=headers), 413)
    assert client.post("/v1/images", files={"file": dicom}).status_code == 201


def test_kinds(client):
    for content in (b"", b"MZ\x90", b"<svg/>", b"%PDF-1.7", b"GIF89a"):
        assert is_problem(client.post("/v1/images", files={"file": ("mammogram.dcm", content)}), 415)
    for head in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*"):
        assert is_problem(client.post("/v1/images", files={"file": head + b"x" * 99}), 422)


def test_the_number_of_images(make_client):
    client = make_client(max_images=2)
    for k in range(3):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (32, 32), dtype=np.uint8)).save(file, "PNG")
        answer = client.post("/v1/images", files={"file": file.getvalue()})
        assert answer.status_code == 201 if k < 2 else is_problem(answer, 409)


def test_rate(make_client):
    client = make_client(requests_per_second=0.01, burst=3)
    answers = [client.get("/healthz") for _ in range(5)]
    assert [each.status_code for each in answers] == [200, 200, 200, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"


def test_a_rate_forgets_addresses_and_recovers(monkeypatch):
    now = 0.0
    monkeypatch.setattr("diagnet.app.guard.time.monotonic", lambda: now)
    rate = Rate(1.0, 2)
    assert [rate.allows("a") for _ in range(3)] == [True, True, False]
    assert rate.allows("b")
    now = 1.0
    assert [rate.allows("a") for _ in range(2)] == [True, False]
    for k in range(10_001):
        rate.allows(str(k))
    assert rate.allows("a")
    assert rate.allows("a")


def test_uploads_are_private_and_removed(make_client, dicom, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "diagnet-uploads-99999999-x"
    left.mkdir()
    client = make_client(tmp_path / "state")
    assert not left.exists()
    client.post("/v1/images", files={"file": dicom + b"\0\0"})
    (folder,) = tmp_path.glob("diagnet-uploads-*")
    (file,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert CANARY not in str(file)
    client.post("/v1/predict", files={"file": dicom}, data={"boxes": json.dumps([BOX])})
    assert [*folder.iterdir()] == [file]
    client.__exit__(None, None, None)
    assert not folder.exists()
    client.__enter__()


def test_no_patient_in_logs_or_answers(make_client, served, dicom, tmp_path, caplog, capfd):
    caplog.set_level(0)
    client = make_client(tmp_path / "state")
    image = client.post("/v1/images", files={"file": (f"{CANARY}.dcm", dicom + b"\0\0")}).json()["id"]
    ids = [each["id"] for each in client.get("/v1/images").json()]
    answers = [client.get("/v1/images"), client.get("/v1/model"), client.get(f"/v1/{CANARY}")]
    answers += [client.get(f"/v1/images/{each}") for each in ids]
    answers += [client.post("/v1/images", files={"file": (f"{CANARY}.dcm", dicom[:300])})]
    for asked in ({"boxes": [BOX]}, {"boxes": [[0, 0, 1, 1]]}, {"boxes": [BOX], CANARY: CANARY}):
        for each in ids:
            answers.append(client.post("/v1/predict", json={"image": each} | asked))
            answers.append(client.post("/v1/report", json={"image": each} | asked))
    answers.append(client.post("/v1/similar", json={"image": image, "box": BOX}))
    answers.append(client.post("/v1/predict", files={"file": (f"{CANARY}.dcm", dicom)}, data={"boxes": f'"{CANARY}"'}))
    answers.append(client.get(f"/v1/images/{CANARY}/pixels?{CANARY}={CANARY}"))
    assert {each.status_code for each in answers} >= {200, 404, 422}
    log = (tmp_path / "state" / "audit.jsonl").read_text()
    said = "".join([*(each.text for each in answers), log, caplog.text.replace("testclient", ""), *capfd.readouterr()])
    said = re.sub(r"HTTP Request: .*", "", said)  # what this test's own client logs of itself
    assert CANARY not in said
    assert str(served.folder) not in said


def test_audit(client, tmp_path, image):
    client.post("/v1/predict", json={"image": image, "boxes": [BOX]})
    path = tmp_path / "state" / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    line = json.loads(path.read_text().splitlines()[-1])
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/predict", 200)
    assert len(line["input_sha256"][0]) == len(line["model_sha256"]) == 64
    assert line["latency_ms"] > 0
    client.post("/v1/report", json={"image": image, "boxes": [BOX]})
    assert json.loads(path.read_text().splitlines()[-1])["input_sha256"] == line["input_sha256"]
    client.get("/v1/cases/CANARY/picture")
    line = json.loads(path.read_text().splitlines()[-1])
    assert (line["route"], line["status"]) == ("/v1/cases/{case}/picture", 404)
    assert "input_sha256" not in line


def test_a_log_that_cannot_be_written_is_told_once(make_client, tmp_path, capsys):
    client = make_client(tmp_path / "state")
    (tmp_path / "state" / "audit.jsonl").mkdir(parents=True)
    assert [client.get("/healthz").status_code for _ in range(2)] == [200, 200]
    assert capsys.readouterr().err.count("the audit log cannot be written") == 1


def test_a_crash_is_one_line_and_no_trace(client, monkeypatch, capsys, image):
    def crash(*_):
        raise RuntimeError(CANARY)

    monkeypatch.setattr("diagnet.app.answers.Answers.predict", crash)
    answer = client.post("/v1/predict", json={"image": image, "boxes": [BOX]})
    assert is_problem(answer, 500)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "RuntimeError in crash" in told
    assert CANARY not in told + answer.text
    assert client.get("/healthz").status_code == 200


def test_fifty_at_once_are_all_answered(client, image):
    answers: list[int] = []

    def ask():
        answers.append(client.post("/v1/predict", json={"image": image, "boxes": [BOX]}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 50


def test_addresses():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.1", "::", "localhost.evil.example", "")))  # noqa: S104
    assert is_open("/page/x.js")
    assert not is_open("/pagex")
    assert ServerSettings().is_loopback


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("short", 0o600, "at least 16"),
        ("two words and more of them", 0o600, "without blanks"),
        ("é" * 20, 0o600, "ASCII"),
        ("a" * 32, 0o644, "readable by its owner alone, got mode 644"),
        (None, 0, "must be a text file that can be read"),
    ],
)
def test_tokens_that_are_none(tmp_path, content, mode, message):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(SettingsError, match=message):
        server_settings("127.0.0.1", 8080, path)


def test_any_other_address_needs_a_token(tmp_path):
    with pytest.raises(SettingsError, match=r"`--host` must be this machine's own .* got 0.0.0.0. Fix: --token-file"):
        server_settings("0.0.0.0", 8080, None)  # noqa: S104
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    settings = server_settings("0.0.0.0", 8080, path)  # noqa: S104
    assert settings.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(settings)


def test_a_part_of_the_token_is_no_token(make_client):
    client = make_client(token=TOKEN, host="192.0.2.1", wrong_tokens_per_minute=100)
    for given in ("", TOKEN[:1], TOKEN[:-1], TOKEN[1:], f"{TOKEN}x", f"{TOKEN} {TOKEN}", TOKEN.upper()):
        assert is_problem(client.get("/v1/model", headers={"Authorization": f"Bearer {given}"}), 401), given
