import csv
import json
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from diagnet.config import Config, merged, read_config
from diagnet.data.mass import Mass, MassSet
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.data.roi import flipped
from diagnet.errors import DataError, RunFolderError
from diagnet.neighbors import Neighbors
from diagnet.run import augmentation
from diagnet.run.array_files import write_neighbors
from diagnet.run.augmentation import augment, write_augmentation
from diagnet.run.folder import read_records
from phantom_masses import masses_of

CONFIG = Config.from_preset("diagnet", {"roi": {"size": 24}, "neighbors": {"budget": 15, "positive_ratio": 0.6}})


def neighbors_of(images, *, labels, kinds, parents):
    """Neighbors that keep their rules, of which nothing else matters."""
    ones, holds = np.ones(len(images)), np.ones(len(images), bool)
    return Neighbors(
        images=images,
        labels=np.array(labels),
        kinds=np.array(kinds, np.int8),
        parents=np.array(parents),
        probability=ones,
        nearest_original=ones,
        nearest_of_sign=ones,
        positive_spacing=holds,
        negative_spacing=holds,
        negative_reach=holds,
        closest_pair={0: 1.0, 1: 1.0},
    )


@pytest.fixture(scope="module")
def masses():
    return masses_of(*make_masses(60, rng=np.random.default_rng(0), settings=PhantomSettings(size=24)))


@pytest.fixture(scope="module")
def written(masses, tmp_path_factory):
    out = tmp_path_factory.mktemp("augment") / "out"
    return out, write_augmentation(CONFIG, masses, out)


def images_of(folder):
    with np.load(folder / "neighbors.npz", allow_pickle=False) as file:
        return file["images"]


def test_every_neighbor_has_its_provenance_and_says_it_is_synthetic(written, masses):
    out, summary = written
    with (out / "neighbors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(summary["neighbors"].values()) == len(images_of(out))
    for row in rows:
        parent = masses.masses[int(row["parent"])]
        assert (row["label"], row["parent_patient"]) == (parent.label, parent.patient_id)
        assert row["kind"] in ("positive", "negative")
        assert row["keeps_rules"] == "True"
        assert row["synthetic"] == "yes"
        assert len(row["settings"]) == 16
    with np.load(out / "neighbors.npz", allow_pickle=False) as file:
        assert str(file["about"]).startswith("Synthetic images")
        assert file["parent_patients"].tolist() == [row["parent_patient"] for row in rows]
    with Image.open(out / "neighbors.png") as sheet:
        assert sheet.info["Comment"].startswith("Synthetic images")


def test_the_contact_sheet_names_class_kind_and_row_and_says_synthetic_above_each_neighbor(monkeypatch):
    said = []

    def note(_, place, text, **__):
        said.append((*place, text))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    monkeypatch.setattr(ImageDraw.ImageDraw, "multiline_text", note)
    images = np.linspace(0, 0.5, 4, dtype=np.float32)[:, None, None] * np.ones((1, 32, 32), np.float32)
    found = neighbors_of(np.full((3, 32, 32), 0.9, np.float32), labels=[0, 0, 1], kinds=[1, 1, -1], parents=[2, 0, 3])
    sheet = augmentation._picture(images, found, np.array([2, 0, 3]), ("benign", "malignant"))
    words = [text for *_, text in said]
    assert [text for text in words if "\n" in text] == [
        "benign\noriginals", "benign\npositive", "benign\noriginals\nnone", "benign\nnegative\nnone",
        "malignant\noriginals\nnone", "malignant\npositive\nnone", "malignant\noriginals", "malignant\nnegative",
    ]  # fmt: skip
    assert [text for text in words if text.startswith("row")] == ["row 2", "row 0", "row 3"]
    assert words.count("SYNTHETIC") == 3
    (x, y, _), (x_below, y_below, _) = (
        next(each for each in said if each[2] == text) for text in ("row 2", "SYNTHETIC")
    )
    assert x == x_below
    assert y < y_below
    assert sheet.getpixel((x + 5, y + 20)) == round(255 * images[2, 0, 0])
    assert sheet.getpixel((x + 5, y_below + 20)) == round(255 * 0.9)


@pytest.mark.parametrize("flips", ["random", "stored"])
@pytest.mark.parametrize("share", [0, 0.3])
def test_every_point_knows_the_mass_it_comes_from(masses, flips, share):
    training = {"flips": flips, "padding": (1.6, 1.6), "shift": 0.0}
    changes = {"training": training, "neighbors": {"positive_ratio": share, "negative_ratio": share}}
    config = Config.from_preset("diagnet", merged({"roi": {"size": 24}, "neighbors": {"budget": 2}}, changes))
    images = np.stack([mass.image for mass in masses.masses])
    rows, patients = np.arange(0, 60, 2), masses.patient_numbers
    found = augment(config, images, rows, masses.labels[rows], patients[rows], rng=np.random.default_rng(0))
    n_originals = len(rows) * (4 if flips == "stored" else 1)
    np.testing.assert_array_equal(found.origin[:n_originals], np.arange(n_originals) % len(rows))
    assert len(found.parents) == len(found.neighbors.kinds) == len(found.points) - n_originals
    np.testing.assert_array_equal(found.points.relatives, patients[rows][found.origin])
    np.testing.assert_array_equal(masses.labels[rows][found.parents], found.neighbors.labels)
    np.testing.assert_array_equal(found.parents, found.neighbors.parents % len(rows))


def test_privacy_figure_is_a_share_of_the_originals_own_distance(written):
    _, summary = written
    for figure in summary["privacy"].values():
        near = figure["nearest_original_over_originals_own"]
        assert 0 < near["5 %"] <= near["median"] <= near["95 %"]


@pytest.mark.parametrize("flips", ["random", "stored"])
def test_each_point_is_its_masss_patients(flips):
    # Whose a point is, is read off its pixels: an original is its mass, or a flip of it, to the bit; a neighbor that is
    # searched in pixels is nearer to what it was made from than to anything else.
    images, labels = make_masses(60, rng=np.random.default_rng(0), settings=PhantomSettings(size=24))
    rng = np.random.default_rng(1)
    rows = rng.permutation(60)[:16]  # training masses are not the first, and patients' numbers not their masses'
    patients = 100 + rng.permutation(16) // 2
    search = {"budget": 10, "search_space": "pixel", "positive_ratio": 0.2, "negative_ratio": 0.2}
    training = {"flips": flips, "padding": (1.6, 1.6), "shift": 0.0}
    config = Config.from_preset("diagnet", {"roi": {"size": 24}, "neighbors": search, "training": training})
    augmented = augment(config, images, rows, labels[rows], patients, rng=rng, workers=1)
    points, found, origin = augmented.points, augmented.neighbors, augmented.origin

    ways = [(across, down) for across in (False, True) for down in (False, True)]
    if flips == "random":
        ways = ways[:1]
    every_way = np.concatenate([flipped(images[rows], *way) for way in ways]).reshape(len(ways) * 16, -1)
    pixels = points.take(np.arange(len(points))).reshape(len(points), -1)
    nearest = np.square(pixels[:, None] - every_way[None]).sum(axis=2)
    masses = nearest.argmin(axis=1) % 16
    n_originals = len(ways) * 16
    assert len(points) == n_originals + len(found.kinds) > n_originals
    assert (nearest[:n_originals].min(axis=1) == 0).all()
    assert (nearest[n_originals:].min(axis=1) > 0).all()
    assert set(found.kinds.tolist()) == {1, -1}
    assert (points.relatives == patients[masses]).all()
    assert (points.labels == labels[rows][masses]).all()
    assert (origin == masses).all()


def test_an_interrupted_search_is_taken_up_again_with_the_same_result(written, masses, tmp_path):
    out, _ = written

    class Stop(Exception):  # noqa: N818 -- not an error
        pass

    def stop(stage, count, total):
        if stage == "neighbors" and count > total // 2:
            raise Stop("killed")

    with pytest.raises(Stop, match="killed"):
        write_augmentation(CONFIG, masses, tmp_path / "out", progress=stop)
    with pytest.raises(RunFolderError, match="add --resume"):
        write_augmentation(CONFIG, masses, tmp_path / "out")
    steps = []
    write_augmentation(CONFIG, masses, tmp_path / "out", resume=True, progress=lambda *step: steps.append(step))
    assert next(done for stage, done, _ in steps if stage == "neighbors") > 0  # what was found is not searched again
    assert np.array_equal(images_of(tmp_path / "out"), images_of(out))
    assert not (tmp_path / "out" / "search").exists()


def test_a_folder_in_use_is_not_touched(written, masses, tmp_path):
    out, _ = written
    with pytest.raises(RunFolderError, match="finished"):
        write_augmentation(CONFIG, masses, out, resume=True)
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").unlink()
    with pytest.raises(RunFolderError, match="other files"):
        write_augmentation(CONFIG, masses, tmp_path / "copy")


def test_too_few_masses_of_a_class(masses, tmp_path):
    benign = [mass for mass in masses.masses if mass.label == "benign"]
    one = next(mass for mass in masses.masses if mass.label == "malignant")
    with pytest.raises(DataError, match="must"):
        write_augmentation(CONFIG, MassSet((*benign, one)), tmp_path / "out")


def test_the_digits_example_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "digits.py"))
    assert "positive neighbors" in capsys.readouterr().out


@settings(deadline=None)  # it writes files
@given(st.lists(st.text(), min_size=2, max_size=2, unique=True), st.lists(st.text(), min_size=2, max_size=2))
@example(["a\rb", ""], ["P\r1", "\u2028;\n"])
@example(["a", "b"], ["", "\x00"])
def test_provenance_of_any_name_is_read_back(tmp_path_factory, classes, patients):
    image = np.zeros((2, 4, 4), np.float32)
    found = neighbors_of(image, labels=[0, 1], kinds=[1, -1], parents=[0, 1])
    masses = MassSet([Mass(image[k], None, classes[k], patients[k]) for k in (0, 1)], classes=tuple(classes))
    folder = tmp_path_factory.mktemp("neighbors")
    write_neighbors(folder, found, np.array([0, 1]), masses, CONFIG.neighbors)
    rows = read_records(folder / "neighbors.csv")
    assert [row["label"] for row in rows] == classes
    assert [row["parent_patient"] for row in rows] == patients
    with np.load(folder / "neighbors.npz", allow_pickle=False) as file:  # numpy pads text with NUL, which is stripped
        assert file["parent_patients"].tolist() == [patient.rstrip("\0") for patient in patients]


def test_any_class_name_is_in_what_is_written(masses, tmp_path):
    classes = ("gut\r\x7f\u2028", '\U0001f600 "b\\')
    config = CONFIG.model_copy(update={"classes": classes})
    renamed = [replace(mass, label=classes[mass.label == "malignant"]) for mass in masses.masses]
    summary = write_augmentation(config, MassSet(renamed, classes=classes), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "augmentation.json").read_text()) == summary
    assert set(summary["neighbors"]) == {f"{kind} {name}" for kind in ("positive", "negative") for name in classes}
    assert read_config(tmp_path / "out" / "config.toml") == config


def test_what_is_no_text_is_told_before_anything_is_written(masses, tmp_path):
    nameless = replace(masses, masses=[replace(mass, patient_id="a\udcff") for mass in masses.masses])
    with pytest.raises(DataError, match=r"`text` must be text that UTF-8 can hold, got the lone surrogate U\+DCFF"):
        write_augmentation(CONFIG, nameless, tmp_path / "out")
    assert not (tmp_path / "out").exists()
