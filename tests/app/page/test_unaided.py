"""Before a reader's unaided score is saved, nothing of the model may be on the page or on its way there."""

import re
from typing import Any

import numpy as np
import pytest
from hands import ask_model, draw_mark

# How the model's answers, calls, colors and messages look in the document; the study itself says "surely benign".
OF_THE_MODEL = re.compile(
    r"held-out|scores like|calibrated|[▲●◆■] |(?<!surely )\b(?:malignant|benign)\b|threshold|\bAUC\b|has answered"
    r"|similar|saliency|veil"
)
ROUTES_OF_THE_MODEL = re.compile(r"/v1/(predict|similar|saliency|cases|report|model)")


def first_case(state: Any, seed: int = 0) -> int:
    """Place in the list of the image that the fake server's study of a seed begins with, from 1."""
    images = list(state.images)
    return images.index(np.random.default_rng(seed).permutation(images)[0]) + 1


def seen(page: Any) -> list[str]:
    """Traces of the model anywhere in the document, its hidden parts too."""
    html = page.evaluate(
        """() => { const all = document.documentElement.cloneNode(true);
             for (const part of all.querySelectorAll("head, dialog, #connection, [hidden]")) part.remove();
             return all.outerHTML; }"""
    )
    return OF_THE_MODEL.findall(html)


@pytest.mark.parametrize("is_slow", [False, True], ids=["answered", "under way"])
def test_a_case_that_was_scored_before_begins_without_the_model(page, state, is_slow):
    state.similar_takes_s = 1.0 if is_slow else 0.0
    page.click(f"#case-{first_case(state)}")
    page.wait_for_selector(".view.filled")
    draw_mark(page)
    ask_model(page)
    if not is_slow:
        page.wait_for_selector("#map")
        page.keyboard.press("s")
        page.wait_for_selector(".veil")
    assert seen(page)  # the search finds what it looks for
    answered: list[str] = []
    page.on("response", lambda response: answered.append(response.url))
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.fill("#reader-seed", "0")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step >> text=1 of 2")
    page.wait_for_selector(".view.filled")
    page.wait_for_timeout(1500 if is_slow else 200)  # what was asked before would be here by now
    assert page.get_attribute(f"#case-{first_case(state)}", "aria-current")
    assert page.locator(".mark").count() == 0
    assert not seen(page)
    for key in ("b", "Enter", "s", "Shift+P"):
        page.keyboard.press(key)
    page.wait_for_selector(".mark")
    page.wait_for_timeout(200)
    assert not seen(page)
    assert [url for url in answered if ROUTES_OF_THE_MODEL.search(url)] == []
    page.fill("#reader-score", "30")
    page.click("#save-score")
    page.wait_for_selector("#scored")
    assert any(ROUTES_OF_THE_MODEL.search(url) for url in answered)
    page.click("#pause-reading")  # what was taken back is asked again, and the marks of before are there
    page.wait_for_selector("#map")
