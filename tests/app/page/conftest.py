"""Debian's Chromium and a fake server for the tests of the page."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, State
from phantoms import write_phantoms

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",  # WebGL by the processor, where there is no graphics card
]


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_phantoms(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("no Chromium (apt-get install chromium): the page was not tested")
    playwright_api = pytest.importorskip("playwright.sync_api", reason="no playwright: the page was not tested")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def state(phantoms: list[Path]) -> State:
    state = State()
    for path in phantoms[:3]:
        state.add(path)
    return state


@pytest.fixture
def server(state: State) -> Iterator[FakeServer]:
    server = FakeServer(state)
    yield server
    server.stop()


@pytest.fixture
def page(browser: Any, server: FakeServer) -> Iterator[Any]:
    """The page with three phantoms and the first one shown; whatever it says to the console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text) if is_fault(said) else None)
    page.goto(server.url)
    page.wait_for_selector(".view.filled")
    yield page
    faults = page.faults
    context.close()
    assert not faults


def is_fault(said: Any) -> bool:
    """Whether a console line is the page's own fault: a refused or unreachable request is a line of the browser's."""
    return said.type == "error" and "Failed to load resource" not in said.text and "ERR_CONNECTION" not in said.text
