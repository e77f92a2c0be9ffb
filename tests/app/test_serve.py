"""`diagnet serve` as a program: a port, a page, a signal."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from diagnet.notice import NOTICE
from served import BOX, CANARY, CSRF


@pytest.fixture
def start(served, tmp_path):
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "diagnet.cli", "serve", str(served.run), "--port", "0", *map(str, arguments)]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ask(url, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **CSRF, **headers})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_server_starts_answers_and_stops(start, served, tmp_path):
    process = start("--data", served.table, "--images", served.images)
    assert process.stderr.readline() == "diagnet: loading the model and the list of images ...\n"
    assert process.stdout.readline().strip() == NOTICE
    url = process.stdout.readline().split()[-1]
    assert url.startswith("http://127.0.0.1:")
    assert ask(f"{url}healthz") == (200, b'{"status":"ok"}')
    images = json.loads(ask(f"{url}v1/images")[1])
    codes = {ask(f"{url}v1/predict", {"image": each["id"], "boxes": [BOX]})[0] for each in images}
    assert codes == {200, 422}
    assert ask(f"{url}v1/model", Host="evil.example")[0] == 421
    # What is no HTTP, and a length that lies, end the connection and not the server.
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    for sent in (
        b"\x16\x03\x01\x02\x00\n\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    assert ask(f"{url}healthz")[0] == 200
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in err
    assert CANARY not in out + err
    assert not list(tmp_path.glob("diagnet-uploads-*"))
    state = tmp_path / "home" / "diagnet"
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "key").stat().st_mode & 0o777 == 0o600


def test_fifty_at_once_are_all_answered(start, served, print_figure):
    process = start("--images", served.images)
    process.stdout.readline()
    url = process.stdout.readline().split()[-1]
    images = [each["id"] for each in json.loads(ask(f"{url}v1/images")[1])]
    image = next(each for each in images if ask(f"{url}v1/predict", {"image": each, "boxes": [BOX]})[0] == 200)

    def timed(_):
        began = time.perf_counter()
        status, content = ask(f"{url}v1/predict", {"image": image, "boxes": [BOX]})
        assert json.loads(content)["assessments"], content
        return status, 1000 * (time.perf_counter() - began)

    with ThreadPoolExecutor(50) as pool:
        answers = [*pool.map(timed, range(200))]
    assert [status for status, _ in answers] == [200] * 200
    p50, p99 = np.quantile([taken for _, taken in answers], [0.5, 0.99])
    print_figure(f"50 predictions at once, 200 in all, none lost: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def test_another_address_needs_a_token_and_says_so(start, tmp_path):
    process = start("--host", "0.0.0.0")  # noqa: S104
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("diagnet: `--host` must be this machine's own address unless a token is given, got 0.0.0.0.")
    assert err.count("\n") == 1
    assert not out
    token = tmp_path / "token"
    token.write_text("a-token-of-many-letters\n")
    token.chmod(0o600)
    process = start("--host", "0.0.0.0", "--token-file", token)  # noqa: S104
    process.stdout.readline()
    url = process.stdout.readline().split()[-1].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert ask(f"{url}v1/model")[0] == 401
    assert ask(f"{url}v1/model", Authorization="Bearer a-token-of-many-letters")[0] == 200
    process.send_signal(signal.SIGTERM)
    assert "warning: 0.0.0.0 can be reached from other machines" in process.communicate(timeout=20)[1]


def test_a_port_that_is_taken_is_one_line(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--port", taken.getsockname()[1])
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("diagnet: `--port` must be free, got")
    assert err.count("\n") == 1


def test_images_that_are_not_there(start, tmp_path):
    process = start("--images", tmp_path / "nothing")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "`--images` must be a folder or a table" in err
