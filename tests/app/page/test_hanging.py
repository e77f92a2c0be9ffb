"""How the views of a study hang: which where, what is turned, and that a side is looked at alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hands import draw_mark
from test_two_views import dicom, opened, png  # noqa: F401 -- opened is a fixture

from dicom_files import drawn_breast, write_dicom

PLACES = ["R CC", "L CC", "R MLO", "L MLO"]


def view(page: Any, letter: str) -> Any:
    return page.locator(f"section[aria-label='View {letter}']")


def titles(page: Any) -> list[str]:
    return [str(each.split(" image")[0]) for each in page.locator(".view.filled .title").all_inner_texts()]


def study(folder: Path, *places: str, patient: str = "P1") -> list[tuple[Path, None]]:
    return [(dicom(folder, patient, *place.split()), None) for place in places]


def hung(page: Any) -> Any:
    """Four views instead of the two that `opened` leaves."""
    page.keyboard.press("4")
    page.wait_for_selector("#views[data-layout='4']")
    return page


def filled(page: Any, n: int) -> None:
    page.wait_for_function("n => document.querySelectorAll('.view.filled').length === n", arg=n)


def test_four_views_hang_with_chest_walls_together_whatever_the_order(opened, tmp_path):  # noqa: F811
    page = hung(opened(*study(tmp_path, "L MLO", "R CC", "L CC", "R MLO")))
    filled(page, 4)
    assert titles(page) == PLACES
    edges = page.evaluate(
        """() => [...document.querySelectorAll(".view")].map((view) => {
             const box = view.getBoundingClientRect(); return [box.left, box.right, box.top].map(Math.round); })"""
    )
    assert edges[0][1] == pytest.approx(edges[1][0], abs=4)  # R left of L
    assert edges[0][2] == edges[1][2] < edges[2][2] == edges[3][2]
    assert page.evaluate("document.querySelector('.view.active').ariaLabel") == "View D"  # the image looked at before
    sides = page.evaluate(  # in which half of its view the breast lies
        """() => [...document.querySelectorAll(".view canvas.pixels")].map((canvas) => {
             const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
             let [left, right] = [0, 0];
             for (let k = 0; k < data.length; k += 4) {
               if ((k / 4) % width < width / 2) left += data[k]; else right += data[k]; }
             return left > right ? "left" : "right"; })"""
    )
    assert sides == ["right", "left", "right", "left"]


def test_a_key_steps_through_one_two_and_four_views(opened, tmp_path):  # noqa: F811
    page = opened(*study(tmp_path, *PLACES))
    page.keyboard.press("2")
    for layout in ("2", "4", "1"):
        page.keyboard.press("h")
        page.wait_for_selector(f"#views[data-layout='{layout}']")
        filled(page, int(layout))
    assert page.locator(".view").count() == 1


def test_another_womans_views_never_hang_beside_and_the_place_says_so(opened, tmp_path):  # noqa: F811
    other = [dicom(tmp_path, "P2", "R", "MLO"), dicom(tmp_path, "P1", "R", "CC", "1.2.9")]
    page = hung(opened(*study(tmp_path, "L CC", "L MLO"), *((each, None) for each in other)))
    filled(page, 2)
    assert titles(page) == ["L CC", "L MLO"]
    assert view(page, "A").locator(".empty").inner_text() == "No R CC of the same patient and study here."
    page.click("#case-3")  # hers hang alone then
    page.wait_for_selector("section[aria-label='View C'].filled.active")
    filled(page, 1)
    page.keyboard.press("x")
    page.keyboard.press("x")
    page.keyboard.press("x")
    assert page.locator("section[aria-label='View B'].active").count() == 1


def test_what_is_not_known_hangs_alone_with_the_reason(opened, tmp_path):  # noqa: F811
    page = hung(opened((png(tmp_path / "a.png"), None), (png(tmp_path / "aa.png"), None)))
    filled(page, 1)
    assert "not given by the file" in view(page, "B").locator(".empty").inner_text()


def zoom_of(page: Any, letter: str) -> float:
    page.wait_for_timeout(60)
    return float(view(page, letter).locator(".facts").inner_text().split(" %")[0])


def test_zoom_and_pan_are_linked_within_a_side_and_can_be_unlinked(opened, tmp_path):  # noqa: F811
    page = hung(opened(*study(tmp_path, *PLACES)))
    filled(page, 4)
    before = [zoom_of(page, each) for each in "ABCD"]
    box = view(page, "B").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 90)
    page.mouse.wheel(0, -240)
    after = [zoom_of(page, each) for each in "ABCD"]
    assert after[1] > 1.2 * before[1]
    assert after[3] / before[3] == pytest.approx(after[1] / before[1], rel=0.03)  # L MLO goes along
    assert [after[0], after[2]] == [before[0], before[2]]  # the right breast does not
    page.keyboard.press("k")
    page.mouse.wheel(0, -240)
    assert zoom_of(page, "B") > after[1]
    assert zoom_of(page, "D") == after[3]


def mirrored(folder: Path) -> Path:
    pixels = np.ascontiguousarray(drawn_breast("L")[:, ::-1])  # chest wall on the right
    elements = {"PatientID": "P1", "StudyInstanceUID": "1.2.3", "ImageLaterality": "L", "ViewPosition": "CC"}
    return write_dicom(folder / "mirrored.dcm", pixels, **elements)


def boxes_sent(page: Any) -> list[list[float]]:
    sent: list[list[float]] = []
    page.on(
        "request",
        lambda asked: sent.append(asked.post_data_json["boxes"][0]) if asked.url.endswith("/predict") else None,
    )
    return sent


def test_a_mirrored_picture_is_offered_to_be_turned_and_boxes_stay_the_files(opened, tmp_path):  # noqa: F811
    page = opened((mirrored(tmp_path), None))
    page.keyboard.press("2")
    told = page.inner_text(".turning")
    assert "chest wall is on the right of this L picture" in told  # offered, not done
    assert "mirrored" not in (page.get_attribute("canvas.pixels", "aria-label") or "")
    sent = boxes_sent(page)
    draw_mark(page, 60, at=(0.55, 0.4))
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")
    page.click(".turning button >> text=Mirror it")
    page.wait_for_selector(".turning >> text=Shown mirrored, not as stored")
    page.wait_for_selector("#scored")  # the answer is of the same pixels, so it stays
    x = float(page.get_attribute(".mark .edge", "x"))
    width = float(page.get_attribute(".mark .edge", "width"))
    view_width = page.locator(".view").bounding_box()["width"]
    assert x + width / 2 == pytest.approx(0.45 * view_width, abs=3)  # it went along with what it marks
    page.locator(".mark").focus()
    page.keyboard.press("ArrowRight")  # to the right on the screen is to the left in the file
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('#scored')")
    page.wait_for_timeout(100)
    assert len(sent) == 2
    assert 0 < sent[0][0] - sent[1][0] < 0.3 * (sent[0][2] - sent[0][0])  # one step; the mirrored place is farther off
    assert sent[1][1] == sent[0][1]
    page.click(".turning button >> text=As stored")
    page.wait_for_selector(".turning >> text=The chest wall is on the right")


def test_half_a_turn_turns_both_ways(opened, tmp_path):  # noqa: F811
    page = opened((mirrored(tmp_path), None))
    page.keyboard.press("2")
    draw_mark(page, 60, at=(0.55, 0.4))
    before = [float(page.get_attribute(".mark .edge", name)) for name in ("x", "y", "width", "height")]
    page.click(".turning button >> text=Turn it by 180°")
    page.wait_for_selector(".turning >> text=Shown turned by 180°")
    page.wait_for_timeout(100)
    after = [float(page.get_attribute(".mark .edge", name)) for name in ("x", "y", "width", "height")]
    size = page.locator(".view").bounding_box()
    assert after[0] == pytest.approx(size["width"] - before[0] - before[2], abs=3)
    assert after[1] == pytest.approx(size["height"] - before[1] - before[3], abs=3)


def test_a_picture_that_hangs_as_it_should_offers_nothing(page):
    assert page.locator(".turning button").count() == 0


def place_of(page: Any) -> list[float]:
    page.wait_for_timeout(60)
    edge = page.locator(".mark .edge")
    x, y, width, height = (float(edge.get_attribute(name)) for name in ("x", "y", "width", "height"))
    return [x + width / 2, y + height / 2]


def test_one_to_one_and_zoom_center_on_the_mass_or_stay_at_the_pointer(page):
    draw_mark(page, 60, at=(0.3, 0.35))
    size = page.locator(".view").bounding_box()
    page.mouse.move(5, 5)  # away from the view
    before = place_of(page)
    page.keyboard.press("+")
    assert place_of(page) == pytest.approx(before, abs=2)  # the mass stays where it is
    page.keyboard.press("1")
    assert place_of(page) == pytest.approx([size["width"] / 2, size["height"] / 2], abs=3)
    page.keyboard.press("0")
    page.mouse.move(size["x"] + before[0], size["y"] + before[1])
    page.keyboard.press("+")
    assert place_of(page) == pytest.approx(before, abs=2)


def test_the_glass_shows_what_lies_under_the_pointer_larger(page):
    size = page.locator(".view").bounding_box()
    x, y = size["x"] + 0.4 * size["width"], size["y"] + 0.45 * size["height"]
    page.mouse.move(x, y)
    page.keyboard.press("g")
    page.wait_for_selector(".glass:not([hidden])")
    page.mouse.move(x + 5, y)
    page.wait_for_timeout(60)
    glass = page.locator(".glass").first.bounding_box()
    assert glass["x"] + glass["width"] / 2 == pytest.approx(x + 5, abs=2)
    same = page.evaluate(  # the middle of the glass is what the pointer is at
        """([x, y]) => {
             const grey = (canvas, u, v) => canvas.getContext("2d").getImageData(u, v, 1, 1).data[0];
             const glass = document.querySelector(".glass"), pixels = document.querySelector("canvas.pixels");
             const box = pixels.getBoundingClientRect();
             return [grey(glass, glass.width / 2, glass.height / 2), grey(pixels, x - box.left, y - box.top)]; }""",
        [x + 5, y],
    )
    assert same[0] == pytest.approx(same[1], abs=12)
    page.click("#glass")
    page.wait_for_timeout(60)
    assert page.locator(".glass:not([hidden])").count() == 0


def test_window_and_level_are_in_the_units_of_the_file_where_the_display_is_a_line(page, state):
    image = next(iter(state.images.values()))
    state.images[image["id"]] = image | {"ends": [1000.0, 3000.0]}
    page.reload()
    page.wait_for_selector(".view.filled")
    page.wait_for_timeout(60)
    assert "window 2000 level 2000, units of the file" in page.inner_text(".facts")
    page.keyboard.press("]")  # as wide as it can be
    page.keyboard.press(".")  # brighter: the level goes down by 3 % of the window
    page.wait_for_timeout(60)
    assert "level 1940, units of the file" in page.inner_text(".facts")
    state.images[image["id"]] = image | {"ends": [3000.0, 1000.0]}  # MONOCHROME1: low values are shown white
    page.reload()
    page.wait_for_selector(".view.filled")
    page.wait_for_timeout(60)
    assert "window 2000 level 2000, units of the file" in page.inner_text(".facts")
    page.keyboard.press(".")
    page.wait_for_timeout(60)
    assert "level 2060" in page.inner_text(".facts")
    state.images[image["id"]] = image | {"ends": None}
    page.reload()
    page.wait_for_selector(".view.filled")
    page.wait_for_timeout(60)
    assert "window 100 level 50 % of what is shown" in page.inner_text(".facts")
