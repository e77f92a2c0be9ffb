import numpy as np
import pytest

from diagnet.data.mass import Mass
from diagnet.errors import RunFolderError
from diagnet.evaluation.predictions import Predictions
from diagnet.run.tables import (
    PARTS,
    PlacedMass,
    ScoredMass,
    read_predictions,
    read_split,
    scored_masses,
    write_predictions,
    write_split,
)

NAMES = ('Käthe, "K"', "李雷", "two\nlines")
PLACED = [PlacedMass(k, f"Bilder/ß-{k}.png", NAMES[k], "bösartig", 0, PARTS[k]) for k in range(3)]
SCORED = [
    ScoredMass(f"Bilder/ß-{k}.png", NAMES[k], "malignant", k / 4, k, -1, "test", 0.125, "benign", "L", "CC")
    for k in range(3)
]


def test_a_split_is_read_as_written(tmp_path):
    write_split(tmp_path, PLACED)
    assert read_split(tmp_path) == PLACED
    assert (tmp_path / "split.csv").read_text().startswith("index,image,patient_id,label,fold,part,source\n0,Bilder/")


def test_predictions_are_read_as_written(tmp_path):
    write_predictions(tmp_path, SCORED)
    assert read_predictions(tmp_path) == SCORED
    header, first, *_ = (tmp_path / "predictions.csv").read_text().splitlines()
    assert header == "image,patient_id,label,malignancy,index,fold,part,raw_score,decision,laterality,view,source"
    assert first == 'Bilder/ß-0.png,"Käthe, ""K""",malignant,0.000000,0,-1,test,0.125000,benign,L,CC,'


def test_tables_from_before_there_was_a_source_are_read(tmp_path):
    write_split(tmp_path, PLACED)
    write_predictions(tmp_path, SCORED)
    for name, read, rows in (("split.csv", read_split, PLACED), ("predictions.csv", read_predictions, SCORED)):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(",source\n", "\n").replace(",\n", "\n"))
        assert "source" not in (tmp_path / name).read_text()
        assert read(tmp_path) == rows


def test_columns_are_found_by_name(tmp_path):
    write_split(tmp_path, PLACED[:1])
    lines = (tmp_path / "split.csv").read_text().splitlines()
    (tmp_path / "split.csv").write_text("".join(f"more,{line}\n" for line in lines))
    assert read_split(tmp_path) == PLACED[:1]


def test_a_mass_is_called_at_its_own_threshold():
    masses = [
        Mass(np.zeros((4, 4), np.float32), None, "benign", name, laterality="R", view="MLO", source=f"hospital {k}")
        for k, name in enumerate(NAMES)
    ]
    found = scored_masses(
        Predictions(
            ("a", "b"),
            ("key of 0", "key of 2"),
            np.array([0, 1]),
            np.array([[0.5, 0.5], [0.5, 0.5]]),
            ("benign", "malignant"),
        ),
        masses,
        np.array([0, 2]),
        raw_score=np.array([0.25, 0.75]),
        threshold=np.array([0.5, 0.6]),
        fold=np.array([0, 1]),
    )
    assert found == [
        ScoredMass("a", NAMES[0], "benign", 0.5, 0, 0, "test", 0.25, "malignant", "R", "MLO", "hospital 0"),
        ScoredMass("b", NAMES[2], "malignant", 0.5, 2, 1, "test", 0.75, "benign", "R", "MLO", "hospital 2"),
    ]


@pytest.mark.parametrize(
    ("name", "write", "read", "rows"),
    [
        ("split.csv", write_split, read_split, PLACED),
        ("predictions.csv", write_predictions, read_predictions, SCORED),
    ],
)
def test_a_broken_table_is_told_in_one_line(tmp_path, name, write, read, rows):
    write(tmp_path, rows[:2])
    whole = (tmp_path / name).read_text()
    wide, short, text = whole.replace("index", "number"), whole.rpartition(",")[0], whole.replace(",0,", ",none,")
    for content in (None, b"", b"\xff\xfe", wide.encode(), short.encode(), text.encode()):
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(
            RunFolderError, match=rf"{name}` must be a run's table of .*, got one that cannot be read"
        ) as e:
            read(tmp_path)
        assert "\n" not in str(e.value)
        (tmp_path / name).touch()
