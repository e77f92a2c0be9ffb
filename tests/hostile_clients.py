"""Clients that `serve` has to stand: silent, slow, greedy, unclear or guessing. Raw sockets on loopback, no pytest."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

HOST = b"Host: localhost\r\n"
CSRF = {"X-DiagNet": "1"}
POST = b"POST /v1/predict HTTP/1.1\r\nX-DiagNet: 1\r\nContent-Type: application/json\r\n" + HOST
# Whoever reads the first of two answers sees another request than whoever reads the second.
UNCLEAR = {
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "one length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "a length of 5,000 digits": POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "a length before a blank": POST + b"Content-Length : 2\r\n\r\n{}",
    "a folded line": POST + b"X-A: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "a folded length": POST + b"Content-Length:\r\n 2\r\n\r\n{}",
    "a bare LF": POST.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "a length after a bare LF": POST + b"X-A: a\nContent-Length: 2\r\n\r\n{}",
    "a length after a bare CR": POST + b"X-A: a\rContent-Length: 2\r\n\r\n{}",
    "two hosts": POST + HOST + b"Content-Length: 2\r\n\r\n{}",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a head of 100 kB": POST + b"X-A: " + b"a" * 100_000 + b"\r\n\r\n",
}
CHUNKED = {
    "another transfer encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "a chunk larger than 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a chunk of 5,000 digits": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n",
}


def connect(port, receive_buffer=None):
    """Open a connection and say nothing."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    return connection


@contextmanager
def many(n, make, *args):
    """Hold `n` connections; those that the server closes at once are held all the same."""
    held = []
    try:
        for _ in range(n):
            held.append(make(*args))
        yield held
    finally:
        for each in held:
            each.close()


def sent(port, raw, receive_buffer=None):
    """A connection on which something was said."""
    connection = connect(port, receive_buffer)
    with suppress(OSError):  # the server may have had enough
        connection.sendall(raw)
    return connection


def upload(port, n_bytes, said=b"--x\r\n", token=""):
    """A connection that announces a file and sends little of it."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nX-DiagNet: 1\r\n{authorization}"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {n_bytes}\r\n\r\n"
    )
    return sent(port, head.encode() + said)


def reader_of(port, path):
    """A connection that asks for much and reads nothing."""
    return sent(port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 4096)


def answer_to(port, raw, wait=5.0):
    """Status of the answer (0: none), and whether the server closed the connection."""
    connection = sent(port, raw)
    try:
        got, is_closed = until_closed(connection, wait)
    finally:
        connection.close()
    return (int(got[9:12]) if got.startswith(b"HTTP/1.1 ") else 0), is_closed


def until_closed(connection, wait):
    """What comes on a connection within `wait` seconds, and whether the server closed it."""
    got, end = b"", time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            part = connection.recv(2**16)
        except TimeoutError:
            break
        except OSError:
            return got, True
        if not part:
            return got, True
        got += part
    return got, False


def drip(connection, wait, every=0.2):
    """Seconds until the server closes a connection on which a letter comes now and then; None, if it does not."""
    began = time.monotonic()
    while time.monotonic() - began < wait:
        try:
            connection.sendall(b"a")
        except OSError:
            return time.monotonic() - began
        if until_closed(connection, every)[1]:
            return time.monotonic() - began
    return None


def ask(port, method, path, body=None, token="", timeout=30, **headers):
    """A well-behaved request: status, content and seconds."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} | headers
        given |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, data, CSRF | given)
        answer = connection.getresponse()
        return answer.status, answer.read(), time.monotonic() - began
    finally:
        connection.close()


def multipart(content):
    """A file as a form, and the form's type."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def resident_mb(pid):
    """Memory of a process, now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


_SERVE = """
import json, socket, sys
from pathlib import Path
from diagnet.app.connections import Server
from diagnet.app.server import create_app
from diagnet.app.settings import ServerSettings
from diagnet.data.marked import find_marked
from diagnet.errors import DiagNetError
run, state, images, settings = sys.argv[1:]
listening = socket.create_server(("127.0.0.1", 0))
settings = ServerSettings(**json.loads(settings))
shown = find_marked([Path(images)])[0] if images else []
try:
    app = create_app(Path(run), Path(state), settings=settings, shown=shown)
except DiagNetError as error:
    sys.exit(f"diagnet: {error}")
print(listening.getsockname()[1], flush=True)
Server(app, settings).run(sockets=[listening])
"""


def start_server(run, state, images="", limit="", **settings):
    """Start a server with settings that the command line does not have; its process. `port_of` waits for it.

    Args:
        run: folder of a run.
        state: its state folder.
        images: a folder or a table of them.
        limit: of the shell, as `ulimit -n 64`.
        settings: short deadlines, small limits.
    """
    source = Path(__file__).parents[1] / "src"
    command = [sys.executable, "-c", _SERVE, str(run), str(state), str(images), json.dumps(settings)]
    if limit:
        command = ["bash", "-c", f'{limit}; exec "$@"', "bash", *command]
    environment = {**os.environ, "PYTHONPATH": str(source), "TMPDIR": str(Path(state).parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def port_of(process):
    """Port of a server, as soon as it answers."""
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(process.communicate()[1])
    for _ in range(100):
        try:
            ask(int(line), "GET", "/healthz")
            break
        except OSError:
            time.sleep(0.1)
    return int(line)
