"""Phantoms: no shortcut tells the classes apart, difficulty is what it says, the release has INbreast's quirks."""

import math
import plistlib
import re

import numpy as np
import pydicom
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from diagnet.data.inbreast import read_inbreast
from diagnet.data.lesion import make_lesion, make_tissue
from diagnet.data.phantom import PhantomSettings, make_inbreast_release, make_masses, make_views
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.errors import RunFolderError

EASY, USUAL, HARD = 0.1, 0.5, 0.9


def auc(labels, values):
    """AUC of a value, whichever direction it points in."""
    found = roc_auc_score(labels, values)
    return max(found, 1 - found)


def masses(n, difficulty, seed=0):
    return make_masses(n, rng=np.random.default_rng(seed), settings=PhantomSettings(difficulty=difficulty))


def boundary_features(images):
    """Energy of gradients along and across the radius, ring by ring."""
    smooth = gaussian_filter(images, (0, 1, 1))
    down, right = np.gradient(smooth, axis=(1, 2))
    y, x = np.mgrid[: images.shape[1], : images.shape[2]] - (images.shape[1] - 1) / 2
    distance = np.hypot(x, y)
    outwards, around = (right * x + down * y) / distance, (down * x - right * y) / distance
    features = []
    for ring in range(8):
        inside = (distance * 16 / images.shape[1]).astype(int) == ring
        energy_out, energy_around = ((part[:, inside] ** 2).mean(axis=1) for part in (outwards, around))
        features += [np.log(energy_around / energy_out), np.log(energy_around + energy_out)]
        features.append(outwards[:, inside].mean(axis=1))
    return np.stack(features, axis=1)


def reachable_auc(difficulty):
    images, labels = masses(500, difficulty)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    scores = cross_val_predict(judge, boundary_features(images), labels, cv=5, method="decision_function")
    return roc_auc_score(labels, scores)


def test_difficulty_moves_the_reachable_auc():
    easy, usual, hard = (reachable_auc(difficulty) for difficulty in (EASY, USUAL, HARD))
    assert easy > 0.9
    assert 0.75 < usual < 0.9
    assert hard < 0.65


def test_few_masses_are_enough_to_learn_from():
    images, labels = masses(550, USUAL)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    judge.fit(boundary_features(images[:150]), labels[:150])
    assert roc_auc_score(labels[150:], judge.decision_function(boundary_features(images[150:]))) > 0.7


@pytest.mark.parametrize("difficulty", [EASY, USUAL])
def test_brightness_alone_does_not_tell_the_classes_apart(difficulty):
    images, labels = masses(500, difficulty)
    middle = images[:, 16:48, 16:48].mean(axis=(1, 2))
    rim = (images.sum(axis=(1, 2)) - middle * 32**2) / (64**2 - 32**2)
    shortcuts = {
        "mean": images.mean(axis=(1, 2)),
        "maximum": images.max(axis=(1, 2)),
        "deviation": images.std(axis=(1, 2)),
        "middle": middle,
        "contrast": middle - rim,
        "range": np.ptp(np.quantile(images, (0.01, 0.99), axis=(1, 2)), axis=0),
    }
    assert {name: value for name, values in shortcuts.items() if (value := auc(labels, values)) >= 0.65} == {}


@pytest.mark.parametrize("difficulty", [EASY, USUAL])
def test_size_and_position_alone_do_not_tell_the_classes_apart(difficulty):
    rng = np.random.default_rng(0)
    rows = []
    for patient in range(250):
        label = patient % 2
        for view in make_views(label, difficulty, rng):
            for finding in view.findings:
                outline = finding.lesion.outline(finding.center, finding.radius)
                x, y = outline.T
                width, height = np.ptp(outline, axis=0)
                area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
                aspect = max(width, height) / min(width, height)
                rows.append((label, area, width * height, width, height, aspect, width / height, *finding.center))
    labels, *shortcuts = np.array(rows).T
    assert len(labels) >= 400
    names = ["area", "box", "width", "height", "aspect", "shape", "x", "y"]
    found = {name: auc(labels, values) for name, values in zip(names, shortcuts, strict=True)}
    assert {name: value for name, value in found.items() if value >= 0.65} == {}


def test_no_reader_can_beat_the_stated_bound():
    for difficulty in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(0)
        labels = np.arange(2000) % 2
        irregularity = [make_lesion(int(label), difficulty, rng).irregularity for label in labels]
        bound = norm.cdf(4 * (1 - difficulty) / math.sqrt(2))
        assert roc_auc_score(labels, irregularity) == pytest.approx(bound, abs=0.03)


def test_masses_are_grey_values_in_balance_and_follow_the_seed():
    images, labels = masses(31, USUAL, seed=5)
    again, other = masses(31, USUAL, seed=5), masses(31, USUAL, seed=6)
    assert images.shape == (31, 64, 64)
    assert 0 <= images.min() < images.max() <= 1
    assert labels.sum() == 15
    assert np.array_equal(images, again[0])
    assert np.array_equal(labels, again[1])
    assert not np.array_equal(images, other[0])
    small, _ = make_masses(2, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))
    assert small.shape == (2, 32, 32)


def test_two_views_show_one_lesion_alike_but_not_equal():
    rng = np.random.default_rng(0)
    pairs = [(lesion := make_lesion(k % 2, USUAL, rng), lesion.seen_again(rng)) for k in range(60)]
    waves = np.array([(first.waves.ravel(), again.waves.ravel()) for first, again in pairs])
    likeness = [np.corrcoef(first, again)[0, 1] for first, again in waves]
    assert 0.6 < np.mean(likeness) < 0.95
    assert all(first.irregularity == again.irregularity for first, again in pairs)


def test_tissue_follows_the_power_law():
    fields = make_tissue(20, 128, 128, np.random.default_rng(0))
    power = (np.abs(np.fft.rfft2(fields)) ** 2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128))
    inner = (frequency > 0.02) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[inner]), np.log(power[inner]), 1)[0]
    assert slope == pytest.approx(-3, abs=0.1)
    assert fields.std(axis=(1, 2)) == pytest.approx(np.ones(20), abs=1e-3)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return make_inbreast_release(tmp_path_factory.mktemp("phantom"), n_patients=16, rng=np.random.default_rng(1))


def table(release):
    lines = (release / "INbreast.csv").read_bytes().decode("ascii").split("\r\n")
    assert lines[-1] == ""
    return [dict(zip(lines[0].split(";"), line.split(";"), strict=True)) for line in lines[1:-1]]


def outlines(release):
    for path in (release / "AllXML").iterdir():
        for roi in plistlib.loads(path.read_bytes())["Images"][0]["ROIs"]:
            points = [tuple(float(n) for n in re.fullmatch(r"\((.+), (.+)\)", p).groups()) for p in roi["Point_px"]]
            assert len(points) == roi["NumberOfPoints"]
            yield path.stem, roi["Name"], np.array(points)


def test_the_table_has_the_quirks_of_inbreast(release):
    rows = table(release)
    assert ";".join(rows[0]) == "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
    assert {row["Patient ID"] for row in rows} == {"removed"}
    assert {row["View"] for row in rows} == {"CC", "MLO"}
    assert [row["ACR"] for row in rows].count("    ") == 1
    assert {"1", "2", "5"} <= {row["Bi-Rads"] for row in rows} <= {"1", "2", "3", "4a", "4b", "4c", "5", "6"}


def test_files_are_named_as_in_inbreast_and_each_row_has_one(release):
    names = sorted(path.name for path in (release / "AllDICOMs").iterdir())
    found = {
        name.split("_")[0]: re.fullmatch(r"\d{8}_[0-9a-f]{16}_MG_([LR])_(CC|ML)_ANON\.dcm", name) for name in names
    }
    rows = table(release)
    assert len(rows) == len(names)
    for row in rows:
        assert found[row["File Name"]].groups() == (row["Laterality"], row["View"].removesuffix("O"))
    assert len({name.split("_")[1] for name in names}) == 16


def test_outlines_have_the_quirks_of_inbreast(release):
    rois = list(outlines(release))
    names = [name for _, name, _ in rois]
    assert {"Mass", "Calcification", "Asimmetry", "Spiculated Region", ""} <= set(names)
    with_mass = [image for image, name, _ in rois if name == "Mass"]
    assert len(with_mass) > len(set(with_mass))  # several masses in an image
    assert len(set(with_mass)) < len(table(release))  # images without a mass
    low = min(points[:, 0].min() for _, name, points in rois if name == "Mass")
    high = max(points[:, 0].max() for _, name, points in rois if name == "Mass")
    assert low < 0 or high > 640


def test_dicom_files_are_real_and_nobodys(release):
    inverted = 0
    for path in (release / "AllDICOMs").iterdir():
        file = pydicom.dcmread(path)
        assert file.SOPClassUID.name == "Digital Mammography X-Ray Image Storage - For Presentation"
        assert (file.PresentationIntentType, file.Modality) == ("FOR PRESENTATION", "MG")
        assert str(file.PatientName).startswith("PHANTOM^")
        assert "synthetic" in file.ImageComments
        assert (file.BitsAllocated, file.BitsStored, file.pixel_array.shape) == (16, 14, (800, 640))
        grey = (file.pixel_array - (file.WindowCenter - 0.5)) / (file.WindowWidth - 1) + 0.5
        if file.PhotometricInterpretation == "MONOCHROME1":
            grey, inverted = 1 - grey, inverted + 1
        assert grey.min() == pytest.approx(0, abs=1e-3)
        assert 0.5 < grey.max() < 1 + 1e-3
        wall = 0 if file.ImageLaterality == "L" else -1
        assert grey[:, wall].mean() > 0.2
        assert np.all(grey[:, -1 - wall] < 1e-3)  # air on the other side
    assert inverted == 1


def test_the_release_is_read_back(release):
    found = read_inbreast(release)
    outlined = [(image, points) for image, name, points in outlines(release) if name == "Mass"]
    assert len(found.masses) == len(outlined)
    assert len(set(found.patients)) == 16
    assert 0.3 < found.labels.mean() < 0.7
    rois = read_rois(found.masses, RoiSettings())
    middle, rim = rois[:, 24:40, 24:40].mean(axis=(1, 2)), rois[:, :4].mean(axis=(1, 2))
    assert np.mean(middle > rim) > 0.9  # the mass is where its outline says


def test_a_release_follows_its_seed(tmp_path):
    first, again, other = (
        make_inbreast_release(tmp_path / name, n_patients=2, rng=np.random.default_rng(seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    contents = [
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (first, again, other)
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_errors_leave_nothing_behind(tmp_path, release):
    with pytest.raises(RunFolderError, match="`--out` must be a new or an empty folder"):
        make_inbreast_release(release.parent, n_patients=2, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"`n_patients` must be at least 2, .* got 1"):
        make_inbreast_release(tmp_path, n_patients=1, rng=np.random.default_rng(0))

    def interrupted(*step):
        if step[1] == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        make_inbreast_release(tmp_path, n_patients=3, rng=np.random.default_rng(0), progress=interrupted)
    assert list(tmp_path.iterdir()) == []
