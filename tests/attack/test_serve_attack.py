"""What a hostile client does to `serve`, and how long an innocent one waits meanwhile."""

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import hostile_clients as hostile
from hostile_clients import answer_to, ask, connect, drip, many, multipart, reader_of, sent, upload

LONGEST_WAIT_S = 8.0  # of a busy machine; benchmarks/attack.py holds an innocent client's wait to 2 s
TOKEN = "a-token-of-many-letters"  # noqa: S105 -- as conftest.py starts it


def innocent(port, path="/v1/images"):
    status, _, seconds = ask(port, "GET", path)
    assert status == 200
    assert seconds < LONGEST_WAIT_S
    return seconds


def images_of(port):
    return [each["id"] for each in json.loads(ask(port, "GET", "/v1/images")[1])]


def large_image(folder, side=3000):
    rng = np.random.default_rng(side)
    path = folder / f"{side}.png"
    Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(path, compress_level=0)
    return path.read_bytes()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHo"], ids=["nothing", "half a head"])
def test_silent_connections_shut_nobody_out(server, said):
    with many(150, sent, server.port, said) as held:
        innocent(server.port)
        time.sleep(3)  # deadlines of this server: 1.5 s, looked at once a second
        innocent(server.port)
        assert all(hostile.until_closed(each, 0.1)[1] for each in held)


@pytest.mark.parametrize("n_bytes", [800_000, 3_000_000])  # held in memory, and on disk, while it comes
def test_a_full_disk_is_told_and_keeps_nothing(servers, n_bytes):
    """No file of this server may be larger than 512 kB."""
    made = servers["few files"]
    body, kind = multipart(b"\x89PNG\r\n\x1a\n" + bytes(n_bytes))
    for path in ("/v1/images", "/v1/predict"):
        status, told, _ = ask(made.port, "POST", path, body, **kind)
        assert status in ((507,) if path == "/v1/images" or n_bytes > 2**20 else (422,))  # no boxes were sent
        assert "disk is full" in told.decode() or status == 422
    (folder,) = made.state.parent.glob("diagnet-uploads-*")
    assert not list(folder.iterdir())
    innocent(made.port)


def test_silent_connections_leave_files_to_open(servers):
    """With few open files a server takes fewer connections, and writes no trace for each that is refused."""
    made = servers["few files"]
    port = made.port
    with many(300, connect, port):
        for _ in range(5):
            innocent(port, "/healthz")
    made.process.kill()  # the last that uses it
    assert made.process.communicate()[1].count("\n") <= 1


def test_whoever_asks_stays_while_the_silent_ones_go(server):
    with many(1, connect, server.port) as (first,), many(100, connect, server.port):
        assert hostile.until_closed(first, 1)[1]  # the oldest of them
        innocent(server.port)


@pytest.mark.parametrize(
    ("said", "letters"),
    [(b"GET / HTTP/1.1\r\nX: ", "a head"), (hostile.POST + b"Content-Length: 100000\r\n\r\n[", "a body")],
)
def test_a_trickle_is_cut_off(server, said, letters):
    with sent(server.port, said) as connection:
        assert drip(connection, 8) is not None, f"{letters} of one letter at a time was waited for"


def test_a_body_that_stops_is_cut_off(server):
    with upload(server.port, 10_000_000, b"x" * 100_000) as connection:
        assert hostile.until_closed(connection, 5)[1]
    innocent(server.port)


@pytest.mark.parametrize("name", hostile.UNCLEAR)
def test_an_unclear_request_is_refused_and_closed(server, name):
    assert answer_to(server.port, hostile.UNCLEAR[name]) == (400, True)


@pytest.mark.parametrize("name", hostile.CHUNKED)
def test_a_body_without_a_length_is_refused_and_closed(server, name):
    assert answer_to(server.port, hostile.CHUNKED[name]) == (411, True)


def test_an_unclear_request_behind_a_clear_one_is_refused_too(server):
    first = b"GET /healthz HTTP/1.1\r\n" + hostile.HOST + b"\r\n"
    for unclear in (hostile.UNCLEAR["length and chunks"], hostile.UNCLEAR["a bare LF"]):
        with sent(server.port, first + unclear) as connection:
            got, is_closed = hostile.until_closed(connection, 5)
        assert got.count(b"HTTP/1.1 200") == got.count(b"HTTP/1.1 400") == 1
        assert is_closed


def test_a_clear_request_in_pieces_is_read(server):
    with connect(server.port) as connection:
        for letter in b"GET /healthz HTTP/1.1\r\n" + hostile.HOST + b"Connection: close\r\n\r\n":
            connection.sendall(bytes([letter]))
        got, is_closed = hostile.until_closed(connection, 5)
    assert got.startswith(b"HTTP/1.1 200")
    assert is_closed


def test_slow_readers_of_pixels_take_no_memory(server, tmp_path, print_figure):
    port = server.port
    body, kind = multipart(large_image(tmp_path))
    image = json.loads(ask(port, "POST", "/v1/images", body, **kind)[1])["id"]
    pixels = ask(port, "GET", f"/v1/images/{image}/pixels")[1]
    assert len(pixels) == 2 * 3000**2
    before = hostile.resident_mb(server.process.pid)
    with many(16, reader_of, port, f"/v1/images/{image}/pixels") as held:
        for _ in range(4):
            time.sleep(0.2)
            innocent(port)
        grown = hostile.resident_mb(server.process.pid) - before
        assert grown < 40  # 16 answers have 290 MB
        time.sleep(2.5)
        got, is_closed = hostile.until_closed(held[0], 5)
        assert is_closed
        assert len(got) < len(pixels)
    assert ask(port, "GET", f"/v1/images/{image}/pixels")[1] == pixels
    ask(port, "DELETE", f"/v1/images/{image}")
    print_figure(f"16 clients that do not read 18 MB of pixels each: {max(grown, 0):.0f} MB")


def test_an_answer_that_is_taken_slowly_goes_on(server, tmp_path):
    """A slow line is no attack: the deadline is for those who take nothing."""
    body, kind = multipart(large_image(tmp_path, 2001))
    image = json.loads(ask(server.port, "POST", "/v1/images", body, **kind)[1])["id"]
    with reader_of(server.port, f"/v1/images/{image}/pixels") as connection:
        for _ in range(40):  # seconds of this server's deadline: 1.5
            time.sleep(0.1)
            assert connection.recv(2**16)
    ask(server.port, "DELETE", f"/v1/images/{image}")


def test_uploads_under_way_count(server, dicom_file):
    body, kind = multipart(dicom_file)
    with many(3, upload, server.port, 10_000_000):  # as many as this server holds images
        time.sleep(0.3)
        assert ask(server.port, "POST", "/v1/images", body, **kind)[0] == 409
        innocent(server.port)
    body, kind = multipart(b"x" * 12_000_000)
    with many(2, upload, server.port, 100_000_000):  # 191 MB of 200
        time.sleep(0.3)
        assert ask(server.port, "POST", "/v1/predict", body, **kind)[0] == 503
    time.sleep(0.3)
    assert ask(server.port, "POST", "/v1/predict", body, **kind)[0] == 422  # there is room again; it asks for no boxes


def test_wrong_tokens_lock_out_those_who_guess(servers):
    port = servers["token"].port
    codes = [ask(port, "GET", "/v1/model", token=f"guess-{k}")[0] for k in range(60)]
    assert codes[:5] == [401] * 5
    assert set(codes[5:]) == {429}
    # Behind a proxy all have this address: whoever has the token waits for nobody, and neither does a large body.
    assert [ask(port, "GET", "/v1/model", token=TOKEN)[0] for _ in range(20)] == [200] * 20
    assert ask(port, "GET", "/v1/model", token="guess")[0] == 429  # noqa: S106 -- none
    with upload(port, 100_000_000, token="guess") as connection:  # noqa: S106 -- none
        got, is_closed = hostile.until_closed(connection, 6)
    assert got.startswith(b"HTTP/1.1 429")
    assert is_closed  # what was refused is not read on
    with many(300, connect, port):
        assert ask(port, "GET", "/v1/model", token=TOKEN)[0] == 200
    # Guesses push no line of the others out of the log.
    known, strange = ((servers["token"].state / name).read_text() for name in ("audit.jsonl", "strangers.jsonl"))
    assert {json.loads(line)["status"] for line in known.splitlines()} == {200}
    assert {json.loads(line)["status"] for line in strange.splitlines()} >= {401, 429}


def test_a_flood_ends_in_few_lines(server):
    """Garbage, broken-off requests and connections that are reset cost no line each."""

    def rude(k):
        connection = sent(server.port, (os.urandom(200), hostile.POST + b"Content-Length: 99\r\n\r\nx")[k % 2])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, no goodbye
        connection.close()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(rude, range(500)))
    innocent(server.port)


@pytest.fixture(scope="session")
def second_server(make_server, server):
    """Another server on the same state folder, and what it said."""
    process = make_server(state=server.state).process
    _, told = process.communicate(timeout=60)
    return process.returncode, told


def test_a_second_server_on_one_state_is_one_line(second_server):
    code, told = second_server
    assert code == 1
    assert told.startswith("diagnet: `--state` must be one server's alone, got ")
    assert told.count("\n") == 1


@pytest.fixture(scope="session")
def dicom_file(attacked_run):
    return (attacked_run.images / "a.dcm").read_bytes()


# ------------------------------------------------ the audit log, without a server


def test_the_audit_log_rotates_whole_lines(tmp_path):
    from diagnet.app.audit import AuditLog

    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, max_bytes=20_000)
    for k in range(1000):
        log.write({"route": f"/{k}", "method": "GET" * (k % 3)})
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == ["audit.jsonl", *(f"audit.jsonl.{k}" for k in range(1, 10))]
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    assert sum(each.stat().st_size for each in files) <= 20_000
    lines = [json.loads(line) for each in [*files[:0:-1], path] for line in each.read_text().splitlines()]
    kept = [int(line["route"][1:]) for line in lines]
    assert kept == [*range(1000 - len(kept), 1000)]  # the newest, in order, none lost between two files


def test_a_full_disk_loses_no_half_line_and_is_told_once(tmp_path, monkeypatch, capsys):
    from diagnet.app import audit

    path = tmp_path / "audit.jsonl"
    log = audit.AuditLog(path)
    log.write({"route": "/1"})
    write = os.write
    monkeypatch.setattr(audit.os, "write", lambda handle, line: write(handle, line[:7]))  # as a disk that fills does
    for _ in range(3):
        log.write({"route": "/2"})
    monkeypatch.setattr(audit.os, "write", write)
    log.write({"route": "/3"})
    told = capsys.readouterr().err
    assert told.count("\n") == told.count("the audit log cannot be written; requests are still answered") == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("route", line.get("lost_lines")) for line in lines] == ["/1", 3, "/3"]
