"""The server as a client sees it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed: the server was not tested")

from fastapi.testclient import TestClient

from served import CSRF, write_served


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> SimpleNamespace:
    """A run, its data, and a folder of images."""
    return write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture
def make_client(served, tmp_path) -> Iterator:
    """Start a server with any settings; the client sends the headers the page would."""
    from diagnet.app.server import create_app
    from diagnet.app.settings import ServerSettings
    from diagnet.data.marked import find_marked

    clients: list[TestClient] = []

    def make(state: Path | None = None, *, images: bool = True, data: bool = True, **settings) -> TestClient:
        if state is None and clients:  # each server needs its own folder; ids of images stay the same
            state = tmp_path / f"state{len(clients)}"
            state.mkdir()
            shutil.copy(tmp_path / "state" / "key", state)
        app = create_app(
            served.run,
            state or tmp_path / "state",
            settings=ServerSettings(**settings),
            data=served.masses if data else None,
            shown=find_marked([served.images])[0] if images else (),
        )
        client = TestClient(app, base_url="http://127.0.0.1:8080", headers=CSRF, raise_server_exceptions=True)
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client) -> TestClient:
    return make_client()


@pytest.fixture
def dicom(served) -> bytes:
    return (served.images / "a.dcm").read_bytes()


@pytest.fixture
def image(client) -> str:
    """Id of the first image, which has a mass at BOX."""
    by_name = {each["name"]: each["id"] for each in client.get("/v1/images").json()}
    found = [client.get(f"/v1/images/{each}") for each in by_name.values()]
    return next(each.json()["id"] for each in found if each.status_code == 200 and each.json()["laterality"] == "L")
