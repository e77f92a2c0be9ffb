"""The reader page in Debian's Chromium, with a fake server behind it."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import FakeServer
from hands import ANY_WEBGL, ask_model, box_of, canvas_values, draw_mark, open_files, view_box
from pictures import take_pictures
from PIL import Image

from diagnet.notice import NOTICE

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "src" / "diagnet" / "app" / "page"
AXE = ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"


def test_no_outside_asset_and_nothing_inline():
    for file in PAGE.iterdir():
        text = file.read_text()
        assert not re.findall(r"https?://(?!www\.w3\.org/)", text), file.name
        if file.suffix == ".html":
            assert not re.findall(r"\son\w+=|\sstyle=|<style", text)
            assert NOTICE in text
        if file.suffix == ".js":
            assert "innerHTML" not in text
            assert "eval(" not in text


def test_the_folder_is_listed_with_side_view_state_and_thumbnails(page):
    first = page.locator("#list .case").first
    assert page.locator("#list .case").count() == 3
    assert re.search(r"[LR] (CC|MLO)", first.inner_text())
    assert "new" in first.inner_text()
    page.wait_for_function("() => document.querySelectorAll('#list canvas')[2].width > 50")
    assert NOTICE in page.inner_text("header")


def test_open_mark_score_and_similar_cases(page, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 240)).astype(np.uint8)).save(tmp_path / "a.png")
    open_files(page, tmp_path / "a.png")
    page.wait_for_selector("#list .case[aria-current] >> text=image 4.png")
    page.wait_for_selector(".view.filled")
    assert "spacing not known" in page.inner_text(".scale-bar")
    page.click("#case-1")
    page.wait_for_selector(".view.filled")
    draw_mark(page)
    said = ask_model(page)
    assert "Malignant" in said
    assert "calibrated" in said
    assert re.search(r"Of 60 masses with scores like this one \(20 to 80 %\), \d+ were malignant", said)
    assert NOTICE in said
    page.click("#record summary")
    record = page.inner_text("#record")  # one unit for all scores and thresholds
    assert re.search(r"Threshold\s+45\.0 %", record)
    assert re.search(r"Uncalibrated\s+\d+\.\d %", record)
    page.wait_for_selector(".similar")
    assert page.locator(".column.benign .similar").count() == page.locator(".column.malignant .similar").count() == 4
    assert re.search(r"distance 0\.\d+", page.inner_text(".column.benign"))
    assert "biopsy" in page.inner_text(".columns")
    page.wait_for_function("() => document.querySelector('.similar img').naturalWidth > 0")
    assert "scored" in page.inner_text("#case-1")
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    assert "Case m" in page.inner_text(".map-mass")


def test_files_are_opened_by_dropping_them(page, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 240)).astype(np.uint8)).save(tmp_path / "a.png")
    dropped = page.evaluate_handle(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
            return data;
        }""",
        list((tmp_path / "a.png").read_bytes()),
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": dropped})
    assert "dropping" in page.get_attribute("body", "class")
    page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    page.wait_for_selector("#list .case[aria-current] >> text=image 4.png")
    assert "dropping" not in (page.get_attribute("body", "class") or "")


def test_disagreement_abstention_and_refusal_are_told(page):
    page.wait_for_selector(".view.filled")
    seen = {}
    for size in (6, 55, 62, 70, 80, 120, 200):
        draw_mark(page, size)
        said = ask_model(page)
        if "Not scored" not in said:
            page.wait_for_selector("#map")
        seen[size] = page.inner_text("#scored")
        assert ("not scored" if size == 6 else "● scored") in page.inner_text("#list .case[aria-current]")
        page.click("#remove-mark")
    everything = "\n".join(seen.values())
    assert "too small" in seen[6]
    assert "%" not in seen[6]
    assert "No call" in everything
    assert "disagree" in everything


@pytest.mark.parametrize("focused", ["#tool-mark", "#case-1", "select"])
def test_enter_asks_the_model_whatever_was_clicked_before(page, focused):
    page.click("#case-1")
    page.wait_for_selector(".view.filled")
    draw_mark(page)
    page.focus("select") if focused == "select" else page.click(focused)
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")


def test_a_score_of_another_kind_of_image_has_no_meaning_and_no_auc(page):
    def unlike(route):
        answer = route.fetch()
        told = answer.json()
        told["assessments"][0] |= {"meaning": None, "is_unlike": True}
        route.fulfill(response=answer, json=told)

    page.route("**/v1/predict", unlike)
    page.click("#case-1")
    page.wait_for_selector(".view.filled")
    draw_mark(page)
    said = ask_model(page)
    assert "none of the held-out masses looked like this one" in said
    assert "AUC does not hold here" in said
    assert "calibration does not hold here" in said
    assert "kept no held-out scores" not in said


def test_the_auc_beside_a_score_is_of_the_source_that_looks_alike(page):
    def of_mammograms(route):
        answer = route.fetch()
        told = answer.json()
        told["assessments"][0]["training_source"] = "mammograms"
        route.fulfill(response=answer, json=told)

    def by_source(route):
        answer = route.fetch()
        auc = {"mammograms": {"value": 0.814, "low": 0.787, "high": 0.843}, "crops": {"value": 0.884}}
        route.fulfill(response=answer, json=answer.json() | {"auc_by_source": auc})

    page.route("**/v1/predict", of_mammograms)
    page.route("**/v1/model", by_source)
    page.reload()
    page.click("#case-1")
    page.wait_for_selector(".view.filled")
    assert "AUC 0.81 (0.79 to 0.84) on mammograms, 0.88 on crops" in page.inner_text("header")
    draw_mark(page)
    assert "On masses of that source the model's AUC is 0.81 (0.79 to 0.84)." in ask_model(page)


def test_a_model_trained_on_phantoms_is_stamped(page):
    def synthetic(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"is_synthetic": True, "notice": f"SYNTHETIC - {NOTICE}"})

    page.route("**/v1/model", synthetic)
    page.reload()
    page.wait_for_selector("header .notice >> text=SYNTHETIC")
    assert "SYNTHETIC model" in page.inner_text("#model")
    page.wait_for_selector(".view.filled")
    draw_mark(page)
    said = ask_model(page)
    assert "SYNTHETIC MODEL" in said
    assert f"SYNTHETIC - {NOTICE}" in said
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert f"SYNTHETIC - {NOTICE}" in page.locator("#printed").text_content()


def test_a_box_is_moved_and_resized_by_mouse_and_keyboard_and_then_scored_anew(page):
    draw_mark(page)
    ask_model(page)
    x, y, width, height = box_of(page)
    left, top, *_ = view_box(page)
    page.mouse.move(left + x + width / 2, top + y + height / 2)
    page.mouse.down()
    page.mouse.move(left + x + width / 2 + 30, top + y + height / 2 + 20, steps=3)
    page.mouse.up()
    page.wait_for_selector("#score")  # what the model said belonged to the old box
    assert box_of(page) == pytest.approx([x + 30, y + 20, width, height], abs=2)
    page.mouse.move(left + x + 30 + width, top + y + 20 + height)
    page.mouse.down()
    page.mouse.move(left + x + 50 + width, top + y + 20 + height, steps=3)
    page.mouse.up()
    page.wait_for_timeout(50)
    assert box_of(page)[2] == pytest.approx(width + 20, abs=2)
    before = box_of(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    page.wait_for_timeout(50)
    after = box_of(page)
    assert after[0] < before[0]
    assert after[3] > before[3]
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")
    page.keyboard.press("Delete")
    assert page.locator(".mark").count() == 0


def test_everything_goes_by_keyboard(page):
    page.keyboard.press("b")
    page.wait_for_selector(".mark:focus")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")
    page.wait_for_selector("#map")
    page.keyboard.press("s")
    page.wait_for_selector(".veil")
    page.keyboard.press("s")
    assert page.locator(".veil").count() == 0
    page.keyboard.press("r")
    page.wait_for_selector(".ruler-end:focus")
    assert re.search(r"\d mm", page.inner_text("#says"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    page.keyboard.press("2")
    page.wait_for_function("() => document.querySelectorAll('.view.filled').length == 2")
    page.keyboard.press("x")
    page.wait_for_selector("section[aria-label='View B'].active")
    page.keyboard.press("2")
    page.keyboard.press("n")
    page.wait_for_selector("#case-2[aria-current]")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert "new box" in page.inner_text("#help")
    page.keyboard.press("Escape")
    assert page.locator("#help[open]").count() == 0


def test_window_level_presets_invert_zoom_and_pan(page):
    facts = lambda: page.inner_text(".facts")  # noqa: E731
    whole = re.search(r"window \d+ ", facts()).group()
    grey = canvas_values(page)
    assert 0 < grey < 255
    page.keyboard.press("i")
    assert canvas_values(page) == pytest.approx(255 - grey, abs=1)
    page.keyboard.press("i")
    page.click("#tool-window")
    left, top, width, height = view_box(page)
    page.mouse.move(left + width / 2, top + height / 2)
    page.mouse.down()
    page.mouse.move(left + width / 2 - 80, top + height / 2 - 40, steps=4)
    page.mouse.up()
    page.wait_for_function("whole => !document.querySelector('.facts').textContent.includes(whole)", arg=whole)
    assert canvas_values(page) != grey
    page.select_option("#preset", label="Dense tissue")
    page.wait_for_timeout(50)
    assert whole not in facts()
    page.select_option("#preset", label="As stored")
    assert canvas_values(page) == grey
    zoomed_out = facts()
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    assert facts() != zoomed_out
    page.keyboard.press("1")
    page.wait_for_timeout(50)
    assert facts().startswith("100 %")
    page.keyboard.press("0")
    page.wait_for_timeout(50)
    assert facts() == zoomed_out


def test_both_painters_show_the_same(page, browser, server):
    """WebGL and the 2D canvas agree about the grey values."""
    other = browser.new_page(viewport={"width": 1280, "height": 800})
    other.add_init_script(ANY_WEBGL)
    other.goto(server.url)
    other.wait_for_selector(".view.filled")
    if other.get_attribute("canvas.pixels", "data-painter") != "WebGL 2":
        pytest.skip("no WebGL 2 here: only the 2D canvas was tested")
    for place in ((0.5, 0.5), (0.4, 0.6), (0.45, 0.3), (0.02, 0.5)):
        assert canvas_values(other, *place) == pytest.approx(canvas_values(page, *place), abs=12)
    other.close()


def test_wrong_and_oversized_files_are_told_in_one_line(page, state, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    state.max_upload_bytes = 1000
    page.reload()
    page.wait_for_selector(".view.filled")
    (tmp_path / "large.png").write_bytes(b"\0" * 5000)
    for name, told in (("notes.txt", "not an image"), ("broken.png", "not an image"), ("large.png", "too large")):
        open_files(page, tmp_path / name)
        page.wait_for_function(
            "name => document.querySelector('#says [role=alert]')?.textContent.includes(name)", arg=name
        )
        said = page.inner_text("#says")
        assert told in said
        assert "\n" not in said
    assert page.locator("#list .case").count() == 3


def test_a_lost_server_is_shown_and_taken_up_again(page, server, state):
    draw_mark(page)
    server.stop()
    page.click("#score")
    page.wait_for_selector("#lost:not([hidden])")
    assert "cannot be reached" in page.inner_text("#lost")
    assert page.locator(".mark").count() == 1  # nothing that was drawn is gone
    again = FakeServer(state, server.server_port)
    try:
        page.wait_for_selector("#lost", state="hidden")
        page.wait_for_selector("#scored")  # what was asked meanwhile is answered
        page.wait_for_selector("#map")
    finally:
        page.close()
        again.stop()


def test_a_server_that_lost_the_uploads_gets_them_again(page, server, state, phantoms):
    open_files(page, phantoms[0])
    page.wait_for_selector("#case-4[aria-current]")
    page.wait_for_selector(".view.filled")
    server.stop()
    lost = page.locator("#list .case").count() and list(state.images)[-1]
    del state.images[lost], state.pixels[lost]
    draw_mark(page)
    page.click("#score")
    page.wait_for_selector("#lost:not([hidden])")
    again = FakeServer(state, server.server_port)
    try:
        page.wait_for_selector("#scored")
        assert len(state.images) == 4
    finally:
        page.close()
        again.stop()


def read_case(page: Any, score: int, *, mark: bool) -> None:
    if mark:
        page.keyboard.press("b")
        page.wait_for_selector(".mark")
    page.fill("#reader-score", str(score))
    page.click("#save-score")


def test_reader_study_first_without_then_with_the_model_resumable(page, state):
    page.click("#start-reading")
    page.fill("#reader-name", "R7")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step >> text=without the model")
    page.wait_for_selector(".view.filled")
    assert page.locator("#score, #scored").count() == 0  # nothing of the model before the reader's own score
    page.keyboard.press("b")
    page.wait_for_selector(".mark")
    page.keyboard.press("Enter")
    assert page.locator("#scored").count() == 0
    page.keyboard.press("Delete")
    read_case(page, 30, mark=True)
    page.wait_for_selector("#reading-step >> text=2 of 2")
    page.wait_for_selector("#scored")
    page.reload()  # in the middle of a case
    page.wait_for_selector(".view.filled")
    page.click("#start-reading")
    page.fill("#reader-name", "R8")
    page.click("#resume-reading")
    page.wait_for_selector("#reading >> text=another reader's code")
    page.fill("#reader-name", "R7")
    page.click("#resume-reading")
    page.wait_for_selector("#reading-step >> text=2 of 2")
    page.wait_for_selector("#scored")
    read_case(page, 60, mark=False)
    for _ in range(2):
        page.wait_for_selector("#reading-step >> text=1 of 2")
        page.wait_for_selector(".view.filled")
        read_case(page, 10, mark=True)
        page.wait_for_selector("#reading-step >> text=2 of 2")
        read_case(page, 20, mark=False)
    page.wait_for_selector("text=All cases are read")
    with page.expect_download() as download:
        page.click("#keep-csv")
    assert download.value.path().read_text().startswith("readerID,caseID,modalityID,score")
    (study,) = state.readings.values()
    assert [s["stage"] for s in study["scores"]] == ["without", "with"] * 3
    assert [s["score"] for s in study["scores"]] == [30, 60, 10, 20, 10, 20]
    assert [s["image"] for s in study["scores"][::2]] == study["cases"]
    assert all(s["seconds"] > 0 for s in study["scores"])


def test_each_reader_has_a_code_a_study_and_the_right_to_see_no_mass(page, state):
    page.click("#start-reading")
    assert (
        page.input_value("#reader-name") == page.input_value("#reader-seed") == page.input_value("#reader-known") == ""
    )
    page.click("#begin-reading")
    assert page.locator("#reading[open]").count() == 1  # not without a code
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step >> text=1 of 2")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("b")
    page.wait_for_selector(".mark")
    page.click("#no-mass")
    page.wait_for_selector("#says >> text=remove it first")
    page.locator(".mark").focus()
    page.keyboard.press("Delete")
    page.click("#no-mass")
    page.wait_for_selector("text=case 2 of 3")
    assert "1 of 2" in page.inner_text("#reading-step")
    page.click("#pause-reading")
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading >> text=has begun")
    page.fill("#reader-name", "R2")
    page.click("#begin-reading")
    page.wait_for_selector("text=Reader R2 · case 1 of 3")
    first, second = state.readings.values()
    assert [(s["no_mass"], s["box"], s["score"]) for s in first["scores"]] == [(True, None, 0)]
    assert second["scores"] == []


def test_an_image_that_is_gone_is_told_and_the_others_are_read(page, state):
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("text=case 1 of 3")
    page.wait_for_selector(".view.filled")
    (study,) = state.readings.values()
    study["cases"] = [*state.images]  # the page shows the first by itself, and knows it then
    page.reload()
    page.wait_for_selector(".view.filled")
    gone = study["cases"][1]
    kept = state.images.pop(gone), state.pixels.pop(gone)
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#resume-reading")
    page.wait_for_selector("text=case 1 of 3")
    page.wait_for_selector(".view.filled")
    page.click("#no-mass")
    page.wait_for_selector("#says >> text=The image of case 2 is no longer here")
    page.wait_for_selector("text=case 3 of 3")
    page.wait_for_selector(".view.filled")
    page.click("#no-mass")
    page.wait_for_selector("text=1 of them passed over")
    assert [s["image"] for s in study["scores"]] == study["cases"][::2]
    state.images[gone], state.pixels[gone] = kept
    page.click("#pause-reading")
    page.click("#start-reading")
    page.fill("#reader-name", "R1")
    page.click("#resume-reading")
    page.wait_for_selector("text=case 2 of 3")


def test_downloads_and_paper(page, tmp_path):
    draw_mark(page)
    ask_model(page)
    page.wait_for_selector("#map")
    with page.expect_download() as download:
        page.click("#keep-json")
    assert json.loads(download.value.path().read_text())["assessments"]
    page.click("#keep-sr")
    page.wait_for_selector("#says >> text=structured report")
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert NOTICE in page.inner_text("#printed")
    assert page.locator("#printed canvas").bounding_box()["height"] > 100
    assert not page.locator("#toolbar").is_visible()
    assert page.locator("#scored").is_visible()


def test_a_token_goes_from_the_address_to_the_header(browser, server, state):
    state.token = "a-long-token"  # noqa: S105 -- of the fake server
    page = browser.new_page()
    page.goto(server.url)
    page.wait_for_selector("#says >> text=token")
    page.goto("about:blank")
    page.goto(f"{server.url}#token=a-long-token")
    page.wait_for_selector(".view.filled")
    assert "token" not in page.url
    page.close()


def serious(page: Any) -> list[str]:
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]}"
        for fault in found
        if fault["impact"] in ("serious", "critical", "moderate")
    ]


def test_axe_finds_nothing(page):
    if not AXE.is_file():
        pytest.skip("no axe-core (npm install --prefix .venv/axe axe-core): accessibility rules were not checked")
    page.evaluate(AXE.read_text())
    found = {"open": serious(page)}
    draw_mark(page)
    found["marked"] = serious(page)
    ask_model(page)
    page.wait_for_selector("#map")
    page.click("#record summary")
    page.keyboard.press("s")
    found["scored"] = serious(page)
    page.keyboard.press("?")
    found["help"] = serious(page)
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 640, "height": 400})  # 1280 x 800 at 200 %
    found["200 %"] = serious(page)
    page.click("#start-reading")
    found["study begins"] = serious(page)
    page.fill("#reader-name", "R1")
    page.click("#begin-reading")
    page.wait_for_selector("#reading-step")
    found["study"] = serious(page)
    assert not any(found.values()), found


def test_nothing_is_cut_off_at_200_percent(page):
    page.set_viewport_size({"width": 640, "height": 400})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 640
    draw_mark(page, 40)
    ask_model(page)
    page.evaluate("scrollTo(0, 10000)")
    page.wait_for_timeout(100)
    notice = page.locator("header .notice").bounding_box()
    assert notice["y"] >= -1  # still there


def test_time_to_first_score(page, phantoms, print_figure):
    began = time.perf_counter()
    open_files(page, phantoms[1])
    page.wait_for_selector("#case-4[aria-current]")
    page.wait_for_selector(".view.filled")
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    page.wait_for_selector("#scored")
    taken = time.perf_counter() - began
    print_figure(f"page: {1000 * taken:.0f} ms from a file to its first score (the fake server answers at once)")
    assert taken < 15


def test_the_pictures_of_the_docs_can_be_made(browser, server, tmp_path):
    taken = take_pictures(browser, server.url, tmp_path)
    assert {path.name for path in taken} == {path.name for path in (ROOT / "docs" / "pictures").glob("reader-*.png")}
    assert all(path.stat().st_size < 200_000 for path in taken)
