"""Which image stands beside another: the other view of the same breast in the same study, or none and the reason."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import NAMES, FakeServer, State
from PIL import Image

from diagnet.app.exam import exam_of
from diagnet.data.marked import Marked
from dicom_files import drawn_breast, write_dicom


@pytest.fixture
def opened(browser: Any) -> Any:
    """Open the page on images, each a file and its row in a table, and press 2."""
    started = []

    def opened(*images: tuple[Path, dict[str, str] | None]) -> Any:
        state = State()
        for path, row in images:
            state.add(path, **asdict(exam_of(path, NAMES, row and Marked(path, **row))))
        server = FakeServer(state)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(15_000)
        started.append((server, page))
        page.goto(server.url)
        page.wait_for_selector(".view.filled")
        page.keyboard.press("2")
        page.wait_for_selector("section[aria-label='View B']")
        return page

    yield opened
    for server, page in started:
        page.close()
        server.stop()


def dicom(folder: Path, patient: str, side: str, view: str, study: str = "1.2.3") -> Path:
    path = folder / f"{patient}-{study}-{side}-{view}.dcm"
    elements = {"PatientID": patient, "StudyInstanceUID": study, "ImageLaterality": side, "ViewPosition": view}
    return write_dicom(path, drawn_breast(side), **elements)


def png(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (300, 240)).astype(np.uint8)).save(path)
    return path


def beside(page: Any) -> str:
    """What stands in view B: an image's title, or the reason why there is none."""
    page.wait_for_function(
        """() => { const view = document.querySelector("section[aria-label='View B']");
             const said = view.querySelector(".empty").textContent;
             return view.classList.contains("filled") || said.startsWith("No "); }"""
    )
    view = page.locator("section[aria-label='View B']")
    is_filled = "filled" in view.get_attribute("class")
    return str(view.locator(".title" if is_filled else ".empty").inner_text())


def test_another_womans_view_is_never_put_beside(opened, tmp_path):
    first, other = dicom(tmp_path, "P1", "L", "CC"), dicom(tmp_path, "P2", "L", "MLO", "1.2.4")
    page = opened((first, None), (other, None))
    assert beside(page) == "No second view: no other image here is of the same patient, study and side."


@pytest.mark.parametrize(
    "other",
    [("P2", "L", "MLO", "1.2.3"), ("P1", "L", "MLO", "1.2.9"), ("P1", "R", "MLO", "1.2.3"), ("P1", "L", "CC", "1.2.3")],
    ids=str,
)
def test_neither_another_study_nor_side_nor_the_same_view(opened, tmp_path, other):
    patient, side, view, study = other
    second = write_dicom(
        tmp_path / "second.dcm", drawn_breast(side)[1:], PatientID=patient, StudyInstanceUID=study,
        ImageLaterality=side, ViewPosition=view,
    )  # fmt: skip
    assert beside(opened((dicom(tmp_path, "P1", "L", "CC"), None), (second, None))).startswith(
        "No second view: no other"
    )


def test_the_same_breast_in_the_same_study_is(opened, tmp_path):
    wrong = [dicom(tmp_path, "P2", "L", "MLO"), dicom(tmp_path, "P1", "R", "MLO")]
    images = [dicom(tmp_path, "P1", "L", "CC"), *wrong, dicom(tmp_path, "P1", "L", "MLO")]
    page = opened(*((image, None) for image in images))
    assert beside(page) == "L MLO image 4.dcm"
    page.keyboard.press("n")  # view B goes along with view A
    page.wait_for_selector("#case-2[aria-current]")
    page.wait_for_selector("section[aria-label='View B'] .empty:text('No second view')")
    page.keyboard.press("x")
    page.click("#case-3")  # chosen by hand: it is shown, and the doubt with it
    page.wait_for_selector("section[aria-label='View B'].filled .doubt >> text=not shown to be the same patient")


def test_a_table_tells_what_files_do_not(opened, tmp_path):
    rows = [("P1", "L", "CC"), ("P4", "L", "MLO"), ("P1", "R", "MLO"), ("P1", "L", "MLO")]
    images = [
        (png(tmp_path / f"{'a' * k}.png"), {"patient_id": patient, "laterality": side, "view": view})
        for k, (patient, side, view) in enumerate(rows, start=1)
    ]
    page = opened(*images)
    assert "Side not known" not in page.inner_text("#list")
    assert beside(page) == "L MLO image 4.png"
    assert "no study" in page.inner_text("#says")


def test_where_neither_tells_there_is_no_second_view_and_the_reason(opened, tmp_path):
    page = opened((png(tmp_path / "a.png"), None), (png(tmp_path / "aa.png"), None))
    said = "its patient and study and side and view are not given by the file or the table of --images"
    assert beside(page) == f"No second view: {said}."
