import csv
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diagnet.inference.predictor import load_model
from dicom_files import drawn_breast
from runs import write_run

FOLDER = Path(__file__).parents[1] / "examples" / "metarepository"
BOX = (20, 60, 60, 100)  # the mass of `drawn_breast`


@pytest.fixture
def exams(tmp_path):
    """Run predict.sh, with a run in place of the shipped model, on two exams; one image has no box."""
    (tmp_path / "images").mkdir()
    (tmp_path / "work").mkdir()
    names = {view: [f"0_{view}"] for view in ("L-CC", "L-MLO", "R-CC", "R-MLO")}
    for view in names:
        Image.fromarray(drawn_breast(view[0]).astype(np.uint16)).save(tmp_path / "images" / f"0_{view}.png")
    listed = [{**names, "cancer_label": {"left_malignant": 1, "right_malignant": 0}, "horizontal_flip": "NO"}]
    (tmp_path / "exams.pkl").write_bytes(pickle.dumps(listed, protocol=4))
    write_run(tmp_path / "run")
    script = (FOLDER / "predict" / "predict.sh").read_text()
    for name, value in {"RUN": tmp_path / "run", "PYTHON": sys.executable}.items():
        assert f"\n{name}=" in script
        script = "\n".join(f'{name}="{value}"' if line.startswith(f"{name}=") else line for line in script.split("\n"))
    (tmp_path / "predict.sh").write_text(script)
    (tmp_path / "tables.py").write_text((FOLDER / "predict" / "tables.py").read_text())

    def run(box=BOX):
        rows = [f"0_L-CC,{','.join(map(str, box))}", "0_L-MLO.png,20,60,60,100", "other,1,2,3,4"]
        (tmp_path / "images" / "boxes.csv").write_text("\n".join(["image,x0,y0,x1,y1", *rows]) + "\n")
        words = [tmp_path / "exams.pkl", tmp_path / "images", tmp_path / "out.csv", "name", "cpu", tmp_path / "work"]
        command = ["bash", str(tmp_path / "predict.sh"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return tmp_path, run


def test_predict_sh_writes_the_metarepositorys_table(exams):
    folder, run = exams
    done = run()
    assert done.returncode == 0, done.stderr
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_index"] for row in rows] == ["0_L-CC", "0_L-MLO", "0_R-CC", "0_R-MLO"]
    assert [row["malignant_label"] for row in rows] == ["1", "1", "0", "0"]
    (expected,) = load_model(folder / "run", engine="torch").predict(folder / "images" / "0_L-CC.png", [BOX])
    assert float(rows[0]["malignant_pred"]) == pytest.approx(expected.malignancy, abs=1e-5)
    assert [float(row["malignant_pred"]) for row in rows[2:]] == [0, 0]  # no mass was marked


def test_a_refused_mass_stops_it_with_the_reason(exams):
    folder, run = exams
    done = run((400, 60, 440, 100))
    assert done.returncode != 0
    assert "every marked mass must be scored, got one refused on 0_L-CC: `box` must lie inside its image" in done.stderr
    assert not (folder / "out.csv").exists()


def test_a_pickle_that_would_run_something_is_refused(exams):
    folder, run = exams
    trap = folder / "trap"

    class Bad:
        def __reduce__(self):
            return Path.touch, (trap,)

    (folder / "exams.pkl").write_bytes(pickle.dumps([Bad()]))
    done = run()
    assert done.returncode != 0
    assert "must hold plain lists, mappings, texts and numbers, got" in done.stderr
    assert not trap.exists()


def test_config_says_where_predict_goes_as_run_sh_reads_it():
    lines = (FOLDER / "config.txt").read_text().splitlines()
    assert lines[1][23:].strip('"') == "/home/diagnet"  # its `cut -c 24-`
    script = (FOLDER / "predict" / "predict.sh").read_text()
    assert all(f"\n{line.partition('=')[0]}=" in script for line in lines[4:])
