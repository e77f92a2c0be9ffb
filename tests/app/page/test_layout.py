"""How much of the screen the image has, and what stays within reach of the keyboard then."""

import pytest
from hands import draw_mark
from test_page import AXE, serious


def image_share(page) -> float:
    """Share of the window that the views take."""
    return float(
        page.evaluate(
            """() => { const { width, height } = document.getElementById("views").getBoundingClientRect();
                       return width * height / innerWidth / innerHeight; }"""
        )
    )


@pytest.mark.parametrize("size", [(1440, 900), (1024, 768), (900, 1440), (3840, 2160)], ids=str)
def test_folded_the_image_has_three_quarters_of_the_screen(page, size, print_figure):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    before = image_share(page)
    page.keyboard.press("f")
    page.wait_for_selector("body.no-list.no-panel")
    page.wait_for_timeout(50)
    folded = image_share(page)
    print_figure(f"page: the image has {100 * before:.0f} % of {size[0]} x {size[1]}, folded {100 * folded:.0f} %")
    assert folded >= 0.75
    assert not page.locator("#cases").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("f")
    page.wait_for_selector("body:not(.no-list, .no-panel)")
    assert image_share(page) == pytest.approx(before, abs=0.01)


def test_upright_nothing_lies_beside_or_below_the_screen(page):
    page.set_viewport_size({"width": 900, "height": 1440})
    draw_mark(page, 120)
    page.keyboard.press("Enter")
    page.wait_for_selector("#map")
    boxes = [page.locator(each).bounding_box() for each in ("#cases", "#main", "#panel")]
    assert all(box["x"] == 0 and box["width"] == 900 for box in boxes)
    assert [box["y"] for box in boxes] == sorted(box["y"] for box in boxes)
    assert boxes[-1]["y"] + boxes[-1]["height"] <= 1440
    assert image_share(page) > 0.5
    if AXE.is_file():
        page.evaluate(AXE.read_text())
        assert not serious(page)


def test_what_is_folded_away_takes_no_keyboard_and_is_remembered(page):
    draw_mark(page)
    page.focus("#score")
    page.click("#fold-panel")
    page.wait_for_selector("body.no-panel:not(.no-list)")
    assert page.evaluate("document.activeElement.closest('#panel')") is None
    page.reload()
    page.wait_for_selector("body.no-panel .view.filled")
    assert page.get_attribute("#fold-panel", "aria-pressed") == "false"
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('header, #cases, #toolbar, #views, #panel')?.id"))
    assert "panel" not in seen
    assert {"cases", "toolbar", "views"} <= seen


def test_a_score_unfolds_the_findings(page):
    page.keyboard.press("f")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored", state="visible")
    assert not page.locator("#cases").is_visible()


def test_a_reader_study_keeps_its_questions_on_the_screen(page):
    page.keyboard.press("f")
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step", state="visible")
    assert not page.locator("#cases").is_visible()


def test_focus_goes_from_the_list_through_tools_and_image_to_the_findings(page):
    draw_mark(page)
    page.locator("#open-files").focus()
    order = []
    for _ in range(40):
        where = page.evaluate("document.activeElement.closest('#cases, #toolbar, #views, #panel')?.id")
        order += [where] if where and where not in order else []
        page.keyboard.press("Tab")
    assert order == ["cases", "toolbar", "views", "panel"]
