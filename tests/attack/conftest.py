"""A server as a process of its own, with short deadlines, and what it said."""

from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed: the server was not attacked")

from hostile_clients import port_of, start_server
from served import write_served

TOKEN = "a-token-of-many-letters"  # noqa: S105 -- of these tests


@pytest.fixture(scope="session")
def attacked_run(tmp_path_factory):
    """A run, and images to read."""
    return write_served(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="session")
def make_server(attacked_run, tmp_path_factory):
    """Start servers; at the end of the session none of them has said a trace."""
    started = []

    def make(state=None, images=attacked_run.images, limit="", **settings):
        state = state or tmp_path_factory.mktemp("state") / "state"
        process = start_server(attacked_run.run, state, images, limit, **settings)
        started.append(process)
        return SimpleNamespace(process=process, state=state)

    yield make
    said = []
    for process in started:
        process.kill()
        said.append(process.communicate()[1])
    assert "Traceback" not in "".join(said)


@pytest.fixture(scope="session")
def servers(make_server):
    """All servers of these tests, begun together: one needs some seconds."""
    made = {
        # Survives most attacks; with short deadlines.
        "main": make_server(
            head_s=1.5, silence_s=1.5, unread_s=1.5, body_s=4.0, max_connections=60, max_silent=40, max_images=3,
            max_uploads_mb=200, requests_per_second=1e4, burst=10_000,
        ),
        "few files": make_server(images="", limit="ulimit -n 128"),
        "token": make_server(images="", token=TOKEN, wrong_tokens_per_minute=5, requests_per_second=10.0, burst=40),
    }  # fmt: skip
    for each in made.values():
        each.port = port_of(each.process)
    return made


@pytest.fixture(scope="session")
def server(servers):
    """The server for attacks that it survives."""
    return servers["main"]
