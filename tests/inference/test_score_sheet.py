import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from diagnet.data.box import Box
from diagnet.inference.assessment import assess
from diagnet.inference.model import load_model
from diagnet.inference.score_sheet import COLUMNS, as_csv, as_metarepo, as_object, as_table, summary
from diagnet.notice import NOTICE
from dicom_files import drawn_breast, write_dicom
from runs import write_run

MASS = (20.0, 60.0, 60.0, 100.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(write_run(tmp_path_factory.mktemp("run")), engine="torch")


@pytest.fixture(scope="module")
def scored(model, tmp_path_factory):
    path = write_dicom(tmp_path_factory.mktemp("image") / "a.dcm", drawn_breast("R"), Laterality="L")
    return assess(model, path, [(68.0, 60.0, 108.0, 100.0), (0.0, 0.0, 1.0, 1.0)])


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_row_and_object_carries_the_notice(scored, model):
    for each in scored:
        assert as_object(each)["notice"] == NOTICE
    for text in (as_csv(scored), as_metarepo(scored, ["", ""])):
        assert all(row["notice"] == NOTICE for row in rows(text))
    lines = as_table(scored, model).splitlines()
    assert lines[0] == lines[-1] == NOTICE


def test_csv(scored):
    first, second = rows(as_csv(scored))
    assert tuple(first) == COLUMNS
    assert float(first["malignancy"]) == pytest.approx(scored[0].malignancy, abs=1e-6)
    assert first["flags"] == scored[0].flags[0]
    assert (second["malignancy"], second["decision"]) == ("", "refused")
    assert second["reason"] == "`box` must have sides of at least 8 pixels, got 1 x 1."


def test_json_is_json_whatever_the_box(scored):
    strange = replace(scored[1], box=Box(float("nan"), float("inf"), 1.0, 2.0))
    assert json.loads(json.dumps(as_object(strange), allow_nan=False))["box"] == [None, None, 1.0, 2.0]


def test_the_table_tells_why(scored, model):
    text = as_table(scored, model)
    assert "    refused: `box` must have sides of at least 8 pixels, got 1 x 1." in text
    assert "    note: the chest wall is on the right of the picture" in text
    assert f"{scored[0].malignancy:.3f}" in text
    assert "malignant from 0.400; between 0.400 and 0.400 no call is made" in text


def test_the_metarepository_has_a_row_an_image(scored):
    a, refused = scored
    many = [
        replace(a, malignancy=0.2),
        replace(a, malignancy=0.7),
        refused,
        replace(a, image=Path("b"), malignancy=0.1),
    ]
    many += [replace(a, image=Path("c"), malignancy=0.3), replace(refused, image=Path("d"))]
    found = rows(as_metarepo(many, ["benign", "malignant", "", "benign", "", "malignant"]))
    assert [(row["malignant_pred"], row["malignant_label"]) for row in found] == [
        ("0.700000", "1"),
        ("0.100000", "0"),
        ("0.300000", ""),
    ]
    assert found[0]["image_index"] == str(a.image)


def test_names_that_are_no_text_can_be_written(scored, model):
    strange = replace(scored[0], image=Path("a\udcff\n\x1b[2J.dcm"))
    as_csv([strange]).encode()
    table = as_table([strange], model)
    table.encode()
    assert "\x1b" not in table


def test_summary(scored):
    assert summary([scored[1], scored[1]]) == {"malignant": 0, "benign": 0, "abstained": 0, "refused": 2}
