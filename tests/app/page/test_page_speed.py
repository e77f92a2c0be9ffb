"""How smoothly an image of 4,000 x 5,000 pixels moves in a real browser; printed, for it depends on the machine."""

import os
import statistics
from typing import Any

import pytest
from hands import ANY_WEBGL
from phantoms import LARGE, write_large

# A drag of the hand, one step a frame, with the time between frames; the wheel zooms in between.
DRAG = """async ([kind, n]) => {
  const view = document.querySelector(".view"), { left, top, width, height } = view.getBoundingClientRect();
  const [x, y] = [left + width / 2, top + height / 2];
  const at = (name, dx, dy) => view.dispatchEvent(new PointerEvent(name, {
    pointerId: 1, bubbles: true, button: kind === "window" ? 2 : 0, clientX: x + dx, clientY: y + dy }));
  view.setPointerCapture = () => {};
  const frame = () => new Promise(requestAnimationFrame);
  const times = [];
  let painted = 0;
  for (const [type, name] of [[CanvasRenderingContext2D, "drawImage"], [WebGL2RenderingContext, "drawArrays"]]) {
    const draw = type.prototype[name];
    type.prototype[name] = function (...given) { painted++; return draw.apply(this, given); };
  }
  if (kind !== "zoom") at("pointerdown", 0, 0);
  let last = await frame();
  for (let k = 0; k < n; k++) {
    const turn = (2 * Math.PI * k) / n;
    if (kind === "zoom") view.dispatchEvent(new WheelEvent("wheel", {
      deltaY: k < n / 2 ? -60 : 60, clientX: x, clientY: y, bubbles: true, cancelable: true }));
    else at("pointermove", 120 * Math.sin(turn), 120 * (1 - Math.cos(turn)));
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  if (kind !== "zoom") at("pointerup", 0, 0);
  return [times, painted];
}"""


@pytest.fixture(scope="module")
def large(phantoms, tmp_path_factory):
    return write_large(phantoms[0], tmp_path_factory.mktemp("large") / "large.png")


@pytest.mark.parametrize(("painter", "frames"), [("2D canvas", 60), ("WebGL 2", 30)])
def test_frame_rate_on_a_large_image(
    browser: Any, server: Any, state: Any, large: Any, print_figure, painter: str, frames: int
):
    state.images.clear()
    state.add(large)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    if painter == "WebGL 2":
        page.add_init_script(ANY_WEBGL)
    page.goto(server.url)
    page.wait_for_selector(".view.filled", timeout=60_000)
    if page.get_attribute("canvas.pixels", "data-painter") != painter:
        page.close()
        pytest.skip(f"no {painter} here: its frame rate was not measured")
    page.wait_for_timeout(500)
    for place, key in (("whole image", "0"), ("1:1", "1")):
        page.keyboard.press(key)
        for kind in ("move", "window", "zoom"):
            times, n_painted = page.evaluate(DRAG, [kind, frames])
            times.sort()
            rate, median, late = 1000 / statistics.mean(times), statistics.median(times), times[int(0.95 * frames)]
            print_figure(
                f"page: {painter}, {LARGE[0]} x {LARGE[1]}, {place}, {kind}: "
                f"{rate:.0f} frames/s, median {median:.1f} ms, 95th percentile {late:.1f} ms"
            )
            assert n_painted >= frames  # every frame was a new picture
            assert median < 500
    page.close()
    print_figure(f"page: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, no graphics card asked for")
