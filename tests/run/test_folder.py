"""A run's tables and JSON hold any text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.data.mass import Mass
from diagnet.errors import DataError, RunFolderError
from diagnet.evaluation.predictions import Predictions
from diagnet.inference.predictive_value import read_held_out
from diagnet.run.folder import (
    claim,
    first_fold_with,
    fold_folder,
    read_history,
    read_json,
    read_metrics,
    read_record,
    read_records,
    write_history,
    write_json,
    write_metrics,
    write_record,
    write_table,
)
from diagnet.run.tables import scored_masses, write_predictions

FACTS = {"source": "Käthe/李雷.csv", "n": 1, "none": None}
columns = st.lists(st.text(), min_size=1, max_size=3, unique=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # it writes files
@given(columns.flatmap(lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[st.text()] * len(names))))))
@example((["a"], [("",)]))
@example((["a", "b;"], [("x\ry", "x\r\ny"), (" ", "\u2028\x85")]))
def test_any_table_is_read_back(tmp_path_factory, table):
    names, rows = table
    path = tmp_path_factory.mktemp("run") / "a.csv"
    write_table(path, names, rows)
    assert read_records(path) == [dict(zip(names, row, strict=True)) for row in rows]


@settings(deadline=None)  # it writes files
@given(st.dictionaries(st.text(), values))
def test_any_json_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("run") / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    assert path.read_bytes().isascii()


def test_json_keeps_the_name_of_a_file_that_is_no_text(tmp_path):
    write_json(tmp_path / "a.json", {"source": "a\udcff.csv"})
    assert read_json(tmp_path / "a.json") == {"source": "a\udcff.csv"}


@settings(deadline=None)  # it writes files
@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.text()), min_size=1, max_size=4), st.text())
@example([("a\rb.png", "P\r1", "C\rC", "\r"), ("a;b.png", "P\n1", "", "")], "be\rnign")
def test_predictions_are_read_back(tmp_path_factory, names, other):
    images, patients, sides, views = (tuple(each) for each in zip(*names, strict=True))
    n = len(names)
    labels = np.arange(n) % 2
    classes = (other, "malignant" if other != "malignant" else "b")
    chances = np.full((n, 2), 0.5)
    masses = [Mass(Path("a"), None, "b", *each) for each in zip(patients, sides, views, strict=True)]
    folder = tmp_path_factory.mktemp("run")
    rows = scored_masses(
        Predictions(images, patients, labels, chances, classes),
        masses,
        np.arange(n),
        raw_score=np.full(n, 0.25),
        threshold=np.full(n, 0.5),
        fold=np.zeros(n, np.int64),
    )
    write_predictions(folder, rows)
    found = read_records(folder / "predictions.csv")
    columns = ("image", "patient_id", "laterality", "view", "label")
    expected = [(*each, classes[label]) for each, label in zip(names, labels, strict=True)]
    assert [tuple(row[name] for name in columns) for row in found] == expected
    held_out = read_held_out(folder)
    assert held_out.is_malignant.tolist() == [classes[label] == "malignant" for label in labels]
    assert held_out.index.tolist() == list(range(n))


def test_what_is_no_text_or_no_table_is_told(tmp_path):
    with pytest.raises(DataError, match=r"`text` must be text that UTF-8 can hold, got the lone surrogate U\+DCFF"):
        write_table(tmp_path / "a.csv", ("image",), [("a\udcff.png",)])
    assert not list(tmp_path.iterdir())
    for content in (b"", b"a,b\n1\n", b'a\n"', b"a\n\xff\n"):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(RunFolderError, match=r"`.*a.csv` must be a readable table of a run, got: "):
            read_records(tmp_path / "a.csv")
    with pytest.raises(RunFolderError, match=r"`.*b.csv` must be a readable table of a run, got: "):
        read_records(tmp_path / "b.csv")


def test_records_and_metrics_are_read_as_written(tmp_path):
    write_record(tmp_path, FACTS)
    write_metrics(tmp_path, {"test": FACTS})
    write_history(tmp_path, [FACTS, {"epoch": 2}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "metrics.jsonl", "run.json"]
    assert read_record(tmp_path) == FACTS
    assert read_metrics(tmp_path) == {"test": FACTS}
    assert read_history(tmp_path) == [FACTS, {"epoch": 2}]


@pytest.mark.parametrize(
    ("name", "read"), [("run.json", read_record), ("metrics.json", read_metrics), ("metrics.jsonl", read_history)]
)
def test_a_broken_file_is_told_in_one_line(tmp_path, name, read):
    for content in (None, b"{", b"\xff"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RunFolderError, match=rf"{name}` must be a readable file of a run, got: ") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_fold_lies_in_the_run_where_there_is_one_and_else_in_its_own_folder(tmp_path):
    assert fold_folder(tmp_path, 0, 1) == tmp_path
    assert first_fold_with(tmp_path, "file") is None
    for n_folds in (3, 1):
        folder = fold_folder(tmp_path, 0, n_folds)
        folder.mkdir(exist_ok=True)
        (folder / "file").touch()
        assert first_fold_with(tmp_path, "file") == folder


@pytest.mark.parametrize(
    ("status", "binding", "resume", "message"),
    [
        ("finished", {"data": "a"}, True, "must not hold a finished run"),
        ("finished", {"data": "a"}, False, "must not hold a finished run"),
        ("running", {"data": "a"}, False, "must be a new folder, got an unfinished run"),
        ("running", {"data": "b"}, True, "`--resume` must keep the data the run in"),
        ("running", {"data": "a"}, True, None),
    ],
)
def test_a_folder_is_claimed_by_the_same_unfinished_run_alone(tmp_path, status, binding, resume, message):
    write_record(tmp_path, {"status": status, "binding": {"data": "a"}})
    if message is None:
        claim(tmp_path, binding, resume=resume)
        return
    with pytest.raises(RunFolderError, match=message):
        claim(tmp_path, binding, resume=resume)
