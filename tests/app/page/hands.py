"""What a reader's hands do on the page."""

from pathlib import Path
from typing import Any

# The page takes WebGL from a graphics card alone; without one it can still be tried, played by the processor.
ANY_WEBGL = """
const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  return [this.RENDERER, 0x9246].includes(name) ? "taken for a card" : ask.call(this, name); };
const make = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, settings) {
  return make.call(this, kind, { ...settings, failIfMajorPerformanceCaveat: false }); };
"""


def view_box(page: Any) -> tuple[float, float, float, float]:
    """Left, top, width and height of the first view on the screen."""
    box = page.locator(".view").first.bounding_box()
    return box["x"], box["y"], box["width"], box["height"]


def draw_mark(page: Any, size: float = 80, at: tuple[float, float] = (0.5, 0.5)) -> None:
    """Drag a box of `size` screen pixels about a place given as shares of the view."""
    page.click("#tool-mark")
    page.locator(".view").first.scroll_into_view_if_needed()
    left, top, width, height = view_box(page)
    x, y = left + at[0] * width, top + at[1] * height
    page.mouse.move(x - size / 2, y - size / 2)
    page.mouse.down()
    page.mouse.move(x, y)
    page.mouse.move(x + size / 2, y + size / 2)
    page.mouse.up()
    page.wait_for_selector(".mark.selected")


def ask_model(page: Any) -> str:
    """Press the button and return what the score's card says."""
    page.click("#score")
    page.wait_for_selector("#scored")
    return str(page.inner_text("#scored"))


def open_files(page: Any, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])


def box_of(page: Any) -> list[float]:
    """Left, top, width and height of the selected box on the screen."""
    return [float(page.get_attribute(".mark.selected .edge", name)) for name in ("x", "y", "width", "height")]


def canvas_values(page: Any, x: float = 0.5, y: float = 0.5) -> int:
    """The grey value shown at a place of the first view, 0 to 255."""
    return int(
        page.evaluate(
            """async ([u, v]) => {
              await new Promise(requestAnimationFrame);
              return await new Promise((resolve) => requestAnimationFrame(() => {
                dispatchEvent(new Event("beforeprint"));  // lays the view on paper, a copy that can be read
                const paper = document.querySelector("#printed canvas");
                const [value] = paper.getContext("2d").getImageData(u * paper.width, v * paper.height, 1, 1).data;
                dispatchEvent(new Event("afterprint"));
                resolve(value);
              }));
            }""",
            [x, y],
        )
    )
