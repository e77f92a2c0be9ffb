"""The page on `diagnet serve`'s own server: what the fake server promises, the real one keeps."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hands import ask_model, draw_mark, open_files

from diagnet.notice import NOTICE


@pytest.fixture
def address(served: Any, tmp_path: Path) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    from diagnet.app.server import create_app
    from diagnet.app.settings import ServerSettings
    from diagnet.data.marked import find_marked

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = create_app(
        served.run,
        tmp_path / "state",
        settings=ServerSettings(port=port),
        data=served.masses,
        shown=find_marked([served.images])[0],
    )
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


def test_open_mark_score_similar_saliency_and_study(browser, address, served, tmp_path, print_figure):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(30_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".view.filled")  # of the folder's images the first is broken
    assert "refused" in page.inner_text("#case-1")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    open_files(page, tmp_path / "broken.png")
    page.wait_for_selector("#says [role=alert]")
    began = time.perf_counter()
    open_files(page, served.images / "a.dcm")
    page.wait_for_selector("#case-3[aria-current], #case-4[aria-current]")
    page.wait_for_selector(".view.filled")
    if not page.locator(".mark").count():
        draw_mark(page, 120)
    said = ask_model(page)
    taken = time.perf_counter() - began
    print_figure(f"page: {1000 * taken:.0f} ms from a file to its first score, with a small model on the real server")
    assert NOTICE in said
    if "%" in said:
        page.wait_for_selector("#map")
        assert page.locator(".similar").count() >= 2
        page.click("#saliency")
        page.wait_for_selector(".veil")
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step >> text=1 of 2")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("b")
    page.fill("#reader-score", "40")
    page.click("#save-score")
    page.wait_for_selector("#reading-step >> text=2 of 2")
    page.wait_for_selector("#scored")
    page.close()
    assert not faults
