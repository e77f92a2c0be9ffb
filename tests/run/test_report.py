import base64
import csv
import importlib.util
import io
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array, save_npz

from diagnet.config import Config
from diagnet.data.mass import MassSet
from diagnet.errors import MissingExtraError, RunFolderError
from diagnet.evaluation.figures import EvaluationSettings, across_folds, evaluate
from diagnet.evaluation.predictions import Predictions
from diagnet.neighbors import find_neighbors
from diagnet.notice import NOTICE
from diagnet.run.array_files import write_neighbors
from diagnet.run.report import require_report, write_report
from diagnet.run.report.page import tag

HOSTILE = "<script>alert(1)</script>&\"'$x^2$"
PARTS = ("train", "validation", "test")


def make_run(folder, *, n=90, size=16, classes=("benign", "malignant"), n_folds=1, seed=0, images=None, **changes):
    """Write a run folder as an experiment does; return its images."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    if images is None:
        images = rng.uniform(size=(n, size, size)).astype(np.float32)
    n = len(images)
    labels = changes.get("labels", rng.permutation(np.arange(n) % len(classes)))
    patients = [f"SECRET_PATIENT_{i // 2}" for i in range(n)]
    names = [f"{patient}_LEFT_CC.png" for patient in patients]
    part = np.array([0, 0, 0, 1, 2, 2])[(np.arange(n) // 2) % 6]
    tested = np.arange(n) if n_folds > 1 else np.flatnonzero(part == 2)
    fold_of = (np.arange(n) // 2) % n_folds

    logits = rng.normal(size=(len(tested), len(classes))) + 1.3 * np.eye(len(classes))[labels[tested]]
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predictions = Predictions(
        tuple(names[i] for i in tested),
        tuple(patients[i] for i in tested),
        labels[tested],
        np.clip(chances, 0, 1),
        classes,
    )
    evaluation = EvaluationSettings(n_resamples=changes.get("n_resamples", 200), folds=n_folds)
    metrics = {
        "schema_version": 1,
        "test": evaluate(predictions, 0.45, evaluation, rng=rng),
        "threshold": {"value": 0.45, "rule": "youden", "chosen_on": "validation masses"},
        "temperature": 1.3,
        "folds": {"n": n_folds, "auc": across_folds([0.8, 0.9]), "accuracy": across_folds([0.7, 0.8])},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, allow_nan=False))

    counts = {
        name: {
            "masses": int((part == code).sum()),
            "images": 3,
            "patients": 2,
            **{each: int((labels[part == code] == label).sum()) for label, each in enumerate(classes)},
        }
        for code, name in enumerate(PARTS)
    }
    record = {
        "schema_version": 1,
        "status": "finished",
        "preset": "small",
        "seed": 0,
        "device": "cpu",
        "precision": "float32",
        "command": "diagnet train masses.csv --out run --seed 0",
        "git_revision": None,
        "started": "2026-01-01T12:00:00+00:00",
        "duration_s": 123.4,
        "versions": {"diagnet": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "data": {
            "source": "/somewhere/masses.csv",
            "sha256": "ab" * 32,
            "classes": list(classes),
            "left_out": changes.get("left_out", {"no label": 3}),
            "notes": changes.get("notes", {}),
        },
        "counts": counts,
        "warnings": changes.get("warnings", []),
    }
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.toml").write_text(changes.get("config", 'preset = "small"\n\n[training]\nepochs = 8\n'))

    epochs = np.arange(1, 9)
    history = [
        {
            "fold": fold,
            "epoch": int(epoch),
            "loss": 1.0,
            "classification_loss": float(0.7 * np.exp(-epoch / 6)),
            "signed_graph_loss": None if epoch == 1 else float(2 / epoch),
            "validation_loss": float(0.7 * np.exp(-epoch / 12)),
            "validation_auc": float(0.9 - 0.4 / epoch),
            "learning_rate": 1e-3,
            "seconds": 2.0,
        }
        for fold in range(n_folds)
        for epoch in epochs
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))

    def write(name, rows):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write(
        "split.csv",
        [
            {
                "index": i,
                "image": names[i],
                "patient_id": patients[i],
                "label": classes[labels[i]],
                "fold": fold,
                "part": PARTS[part[i]],
            }
            for fold in range(n_folds)
            for i in range(n)
        ],
    )
    target = "malignant" if "malignant" in classes else classes[-1]
    write(
        "predictions.csv",
        [
            {
                "image": names[i],
                "patient_id": patients[i],
                "label": classes[labels[i]],
                "malignancy": f"{score:.6f}",
                "index": i,
                "fold": fold_of[i],
                "part": "test",
                "raw_score": "0.5",
                "decision": target if score >= 0.45 else "benign",
                "laterality": changes.get("laterality", "L"),
                "view": "CC",
            }
            for i, score in zip(tested, predictions.malignancy, strict=True)
        ],
    )

    inner = folder if n_folds == 1 else folder / "fold-0"
    inner.mkdir(exist_ok=True)
    training = np.flatnonzero(part == 0)
    kinds = np.repeat([1, -1], 4 * len(classes)).astype(np.int8)
    of_class = np.tile(np.repeat(np.arange(len(classes)), 4), 2)
    parents = np.array([training[labels[training] == label][i % 4] for i, label in enumerate(of_class)], dtype=np.int64)
    strength = np.where(kinds > 0, 0.05, 0.15)[:, None, None]
    moved = np.clip(images[parents] + strength * rng.normal(size=(len(kinds), *images.shape[1:])), 0, 1)
    np.savez_compressed(
        inner / "neighbors.npz",
        images=moved.astype(np.float32),
        labels=of_class,
        kinds=kinds,
        parents=parents,
        parent_patients=np.array([patients[parent] for parent in parents]),
        probability=rng.uniform(size=len(kinds)),
        distance=np.where(kinds > 0, 0.01, 0.04),
        closest_pair=np.full(len(classes), 0.008),
        settings_sha256="ab" * 32,
        about="Synthetic images",
    )
    n_points = len(training) + len(kinds)
    signs = np.zeros((n_points, n_points), np.int8)
    signs[np.arange(n_points - 1), np.arange(1, n_points)] = 1
    signs[np.arange(1, n_points), np.arange(n_points - 1)] = -1
    save_npz(inner / "graph.npz", csr_array(signs))
    centers = np.eye(8)[labels] * 2
    np.savez_compressed(
        folder / "embeddings.npz",
        embeddings=(centers + rng.normal(size=(n, 8))).astype(np.float32),
        index=np.arange(n),
        part=part.astype(np.int8),
        labels=labels,
    )
    return images


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text between them."""

    VOID = ("br", "img", "meta")

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if "style" not in self.open:
            self.texts.append(text)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a usual run."""
    run = tmp_path_factory.mktemp("run")
    images = make_run(run, warnings=["split by image: views of one lesion may lie on both sides"])
    return write_report(run, images)


def test_every_part_is_there(report):
    page = Page(report.read_text())
    metrics = json.loads((report.parent / "metrics.json").read_text())
    mass = metrics["test"]["units"]["mass"]
    assert f"{mass['auc']['value']:.3f}" in page.text
    assert f"({mass['auc']['low']:.3f} to {mass['auc']['high']:.3f})" in page.text
    for expected in (
        "Accuracy", "Sensitivity", "Specificity", "Brier", "by image", "by patient", "from a score of 0.450",
        "validation masses", "no label", "positive neighbors", "negative neighbors", "attracting", "ROC curve",
        "Calibration", "Decision curve", "Confusion matrix", "Embedding map", "Worst mistakes", "config.toml",
        "torch version", "2.13.0", "split by image", "diagnet train masses.csv", "epochs = 8",
        "drawing the test patients anew",
    ):  # fmt: skip
        assert expected in page.text, expected
    assert sum(name == "svg" for name, _ in page.elements) == 7
    curve = mass["decision_curve"]
    at = curve["thresholds"].index(0.2)
    told = [100 * curve[key][at] for key in ("net_benefit", "low", "high", "call_all")]
    assert "0.2 {:.1f} ({:.1f} to {:.1f}) {:.1f}".format(*told) in re.sub(r"\s+", " ", page.text)
    assert sum(name == "h2" for name, _ in page.elements) == 7


def test_ppv_and_npv_are_told_and_an_older_run_goes_without(report, tmp_path):
    mass = json.loads((report.parent / "metrics.json").read_text())["test"]["units"]["mass"]
    (benign, false_alarms), (missed, hits) = mass["confusion"]
    assert mass["ppv"]["value"] == pytest.approx(hits / (hits + false_alarms))
    assert mass["npv"]["value"] == pytest.approx(benign / (benign + missed))
    text = Page(report.read_text()).text
    for name in ("ppv", "npv"):
        each = mass[name]
        value, low, high = (f"{100 * each[key]:.1f}" for key in ("value", "low", "high"))
        assert f"{name.upper()} {value} % ({low} to {high} %)" in text
    images = make_run(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for unit in metrics["test"]["units"].values():
        del unit["ppv"], unit["npv"]
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "PPV" not in Page(write_report(tmp_path, images).read_text()).text


def test_masses_without_a_call_are_counted(report, tmp_path):
    assert "Without a call" not in Page(report.read_text()).text  # its model says nothing of a band
    images = make_run(tmp_path)
    (tmp_path / "model").mkdir()
    facts = {"threshold": 0.45, "abstention": {"half_width": 0.2, "dissent": 0.3}}
    (tmp_path / "model" / "fold-0.json").write_text(json.dumps(facts))
    with (tmp_path / "predictions.csv").open() as file:
        scores = [float(row["malignancy"]) for row in csv.DictReader(file)]
    n_between = sum(0.25 < score < 0.65 for score in scores)
    assert 0 < n_between < len(scores)
    text = Page(write_report(tmp_path, images).read_text()).text
    assert f"Without a call: {n_between} of {len(scores)} test masses" in text


def test_no_row_of_the_panel_is_empty(tmp_path):
    images = make_run(tmp_path)
    with np.load(tmp_path / "neighbors.npz") as file:
        found = dict(file)
    for name in ("images", "labels", "kinds", "parents", "parent_patients", "probability", "distance"):
        found[name] = found[name][found["kinds"] > 0] if name != "kinds" else found[name]
    found["kinds"] = found["kinds"][found["kinds"] > 0]
    np.savez_compressed(tmp_path / "neighbors.npz", **found)
    html = write_report(tmp_path, images).read_text()
    assert ">positive neighbors<" in html
    assert ">negative neighbors<" not in html


def test_it_is_dark_where_the_system_is_figures_too(report):
    html = report.read_text()
    dark = html.split("@media screen and (prefers-color-scheme: dark)", 1)[1]
    assert "--paper: #12171c" in dark[:300]
    assert "figure > svg { filter: invert(1)" in dark[:600]
    assert "color-scheme: light dark" in html
    for figure in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        assert "fill: #ffffff; stroke: none" not in figure  # no white paper under a figure


def test_the_notice_is_on_top_and_beside_scores(report):
    text = Page(report.read_text()).text
    assert text.index(NOTICE) < text.index("DiagNet: how well")
    assert text.count(NOTICE) >= 4


def test_the_notice_is_on_every_printed_page(report):
    assert f'@top-center {{ content: "{NOTICE}"' in report.read_text()


def test_nothing_is_loaded_and_nothing_runs(report):
    html = report.read_text()
    page = Page(html)
    for name, attributes in page.elements:
        assert name not in ("script", "link", "iframe", "object", "form")
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "xlink:href"):
                assert value.startswith(("data:image/png;base64,", "#")), (name, key, value)
    policy = next(a["content"] for n, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not re.search(r"url\((?!#)|@import", html)


def test_no_patient_and_no_file_name_is_in_it(report):
    assert "SECRET" not in report.read_text()


def test_every_figure_says_what_it_shows_and_ids_are_unique(report):
    html = report.read_text()
    page = Page(html)
    for name, attributes in page.elements:
        if name == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"]) > 20
        if name == "img":
            assert attributes["alt"]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|xlink:href="|href=")#([^)"]+)', html)) <= set(ids)


def test_pictures_are_small_pngs(report):
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", report.read_text())
    assert len(pictures) > 20
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size == (16, 16)
        assert picture.mode == "L"


def test_the_same_run_gives_the_same_file(report, tmp_path):
    images = make_run(tmp_path, warnings=["split by image: views of one lesion may lie on both sides"])
    assert write_report(tmp_path, images).read_bytes() == report.read_bytes()


def test_hostile_text_stays_text(tmp_path):
    images = make_run(
        tmp_path,
        classes=(f"benign{HOSTILE}", "malignant"),
        warnings=[HOSTILE],
        left_out={HOSTILE: 1},
        notes={HOSTILE: 1},
        laterality=HOSTILE,
        config=f"name = {HOSTILE!r}\n",
    )
    html = write_report(tmp_path, images).read_text()
    assert "<script" not in html
    assert not [name for name, _ in Page(html).elements if name == "script"]
    assert "&lt;script&gt;" in html


def test_elements_escape_by_construction():
    made = tag("p", "<b>", tag("b", "&"), None, title='"><i>')
    assert made == '<p title="&quot;&gt;&lt;i&gt;">&lt;b&gt;<b>&amp;</b></p>'


def test_large_images_make_a_light_report_quickly(tmp_path):
    images = make_run(tmp_path, n=60, size=224)
    start = time.process_time()
    path = write_report(tmp_path, images)
    assert time.process_time() - start < 10
    assert path.stat().st_size < 5_000_000


def test_thousands_of_masses_are_drawn_as_pixels_and_the_report_stays_light(tmp_path):
    path = write_report(tmp_path, make_run(tmp_path, n=4000, size=8))
    html = path.read_text()
    assert path.stat().st_size < 1_000_000
    assert [name for name, _ in Page(html).elements if name == "image"]


def test_a_run_without_neighbors_or_graph(tmp_path):
    images = make_run(tmp_path)
    for name in ("neighbors.npz", "graph.npz", "embeddings.npz"):
        (tmp_path / name).unlink()
    text = Page(write_report(tmp_path, images).read_text()).text
    assert "made no adversarial neighbors" in text
    assert "Embedding map" not in text
    none = Config.from_preset("diagnet", {"neighbors": {"positive_ratio": 0, "negative_ratio": 0}}).neighbors
    found = find_neighbors(images, np.zeros(len(images), np.int64), none, rng=np.random.default_rng(0))
    write_neighbors(tmp_path, found, np.zeros(0, np.int64), MassSet(()), none)
    assert "made no adversarial neighbors" in Page(write_report(tmp_path, images).read_text()).text


def test_cross_validation_tells_the_spread_and_reads_the_first_fold(tmp_path):
    images = make_run(tmp_path, n_folds=3)
    text = Page(write_report(tmp_path, images).read_text()).text
    assert "Mean over 3 folds: AUC 0.850 (SD 0.071, SE 0.050)" in text
    assert "positive neighbors" in text


@pytest.mark.parametrize("classes", [("normal", "benign", "malignant"), ("cat", "cow", "dog"), ("cat", "dog")])
def test_other_classes(tmp_path, classes):
    images = make_run(tmp_path, classes=classes)
    text = Page(write_report(tmp_path, images).read_text()).text
    assert all(f"called {name}" in text for name in classes)
    assert ("not defined" in text) == (classes == ("cat", "cow", "dog"))


def test_a_test_part_of_one_class_has_no_curve_but_a_report(tmp_path):
    labels = np.where((np.arange(90) // 2) % 6 >= 4, 0, np.arange(90) % 2)
    text = Page(write_report(tmp_path, make_run(tmp_path, labels=labels)).read_text()).text
    assert "not defined" in text
    assert "ROC curve:" not in text


def test_a_result_no_better_than_guessing_is_called_that(tmp_path):
    images = make_run(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    metrics["test"]["units"]["mass"]["auc"]["low"] = 0.49
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "does not show more than guessing" in Page(write_report(tmp_path, images).read_text()).text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", None, "run.json"),
        ("metrics.json", "[]", "JSON object"),
        ("metrics.jsonl", "{", "must hold the readable files of a run"),
        ("predictions.csv", None, "must hold the readable files of a run"),
        ("neighbors.npz", "no archive", "must be a readable array file"),
        ("graph.npz", "no archive", "must hold the readable files of a run"),
    ],
)
def test_a_broken_run_is_told_in_one_line_and_leaves_no_report(tmp_path, name, content, message):
    images = make_run(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(RunFolderError, match=message) as caught:
        write_report(tmp_path, images)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_arrays_are_never_unpickled(tmp_path):
    images = make_run(tmp_path)
    np.savez(tmp_path / "neighbors.npz", kinds=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(RunFolderError, match="must be a readable array file"):
        write_report(tmp_path, images)


def test_without_matplotlib_the_missing_extra_is_named(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "diagnet.run.report.find_spec", lambda name: None if name == "matplotlib" else find(name), raising=True
    )
    for ask in (require_report, lambda: write_report(tmp_path, np.zeros((1, 4, 4), np.float32))):
        with pytest.raises(
            MissingExtraError, match=r"`matplotlib` must be installed.*pip install 'diagnet-mammography\[report\]'"
        ):
            ask()
