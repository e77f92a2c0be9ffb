"""One click inside a mass makes its box; the usual handles correct it."""

import pytest
from hands import box_of, open_files, view_box


@pytest.mark.parametrize("by", ["tool", "key"])
def test_a_click_makes_a_box_that_handles_correct_and_enter_asks(page, by):
    left, top, width, height = view_box(page)
    x, y = 0.45 * width, 0.4 * height
    if by == "tool":
        page.keyboard.press("m")
        page.mouse.click(left + x, top + y)
    else:
        page.mouse.move(left + x, top + y)
        page.keyboard.press("c")
    page.wait_for_selector(".mark.selected:focus")
    box = box_of(page)
    assert box[0] + box[2] / 2 == pytest.approx(x, abs=2)
    assert box[1] + box[3] / 2 == pytest.approx(y, abs=2)
    assert box[2] / box[3] == pytest.approx(1.5, rel=0.02)
    assert "suggested box" in page.inner_text("#says")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(50)
    assert box_of(page)[2] > box[2]
    assert page.locator("#scored").count() == 0  # nothing is asked of the model before it is wanted
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")


def test_without_a_pointer_c_looks_in_the_middle_and_a_double_click_makes_one_box(page):
    page.keyboard.press("c")
    page.wait_for_selector(".mark")
    left, top, width, height = view_box(page)
    box = box_of(page)
    assert box[0] + box[2] / 2 == pytest.approx(width / 2, abs=2)
    page.keyboard.press("Delete")
    page.keyboard.press("m")
    page.mouse.dblclick(left + width / 2, top + height / 2)
    page.wait_for_selector(".mark")
    page.wait_for_timeout(100)
    assert page.locator(".mark").count() == 1


def test_in_a_reader_study_the_server_marks_nothing(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/v1/box") else None)
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("c")
    page.wait_for_selector("#says >> text=drawn by hand")
    assert page.locator(".mark").count() == 0
    assert not asked


def test_a_refusal_says_what_to_do_instead(page, phantoms):
    page.route("**/v1/box", lambda route: route.fulfill(status=422, json={"detail": "It must be a mammogram."}))
    open_files(page, phantoms[1])
    page.wait_for_selector("#case-4[aria-current]")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("c")
    page.wait_for_selector("#says [role=alert] >> text=Drag a box round the mass instead")
