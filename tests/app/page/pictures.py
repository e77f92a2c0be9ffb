"""The pictures of docs/reader.md, made from synthetic phantoms and a fake server's invented answers.

Run `python tests/app/page/pictures.py docs/pictures`; the tests run it too, to a folder of their own.
"""

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from fake_server import FakeServer, State
from hands import ask_model, draw_mark
from phantoms import write_phantoms
from PIL import Image

WIDTH, N_COLORS = 1024, 256  # small files, for they live in the repository


def take_pictures(browser: Any, url: str, out: Path) -> list[Path]:
    """Write `out/reader-*.png`."""
    out.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(url)
    page.wait_for_selector(".view.filled")
    taken = []

    def take(name: str) -> None:
        page.wait_for_timeout(700)  # thumbnails and pictures of cases
        shot = Image.open(io.BytesIO(page.screenshot()))
        small = shot.convert("RGB").resize((WIDTH, round(shot.height * WIDTH / shot.width)), Image.Resampling.LANCZOS)
        taken.append(out / f"reader-{name}.png")
        small.quantize(N_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(taken[-1], optimize=True)

    draw_mark(page, 78, at=(0.215, 0.365))
    ask_model(page)
    page.wait_for_selector("#map")
    page.keyboard.press("s")
    page.wait_for_selector(".veil")
    take("score")
    page.locator("#similar-title").evaluate("title => title.scrollIntoView()")
    take("similar")
    page.click("#map-near")
    page.locator("#map-title").evaluate("title => title.scrollIntoView()")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    take("map")
    page.locator("canvas.pixels").first.focus()
    page.keyboard.press("2")
    page.wait_for_selector("section[aria-label='View B'].filled")
    page.keyboard.press("r")
    page.locator("#panel").evaluate("panel => panel.scrollTo(0, 0)")
    take("two-views")
    page.keyboard.press("f")
    page.keyboard.press("4")
    page.wait_for_selector("#views[data-layout='4'] .view.filled")
    take("four-views")
    page.keyboard.press("f")
    page.keyboard.press("4")
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("b")
    page.fill("#reader-score", "35")
    take("study")
    page.close()
    return taken


if __name__ == "__main__":
    from playwright.sync_api import sync_playwright

    from conftest import CHROMIUM, FLAGS

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        state = State()
        for path in write_phantoms(Path(name)):
            state.add(path)
        server = FakeServer(state)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for picture in take_pictures(browser, server.url, Path(sys.argv[1])):
            print(picture, picture.stat().st_size)
        browser.close()
        server.stop()
