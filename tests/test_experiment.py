import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.sparse import load_npz

from diagnet.config import Config, read_config
from diagnet.data.domain import fit_domain
from diagnet.data.manifest import read_manifest
from diagnet.data.mass import Mass, MassSet
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.data.prepared import write_prepared
from diagnet.data.preprocessing import Preprocessing
from diagnet.data.region_facts import RegionFacts
from diagnet.data.regions import read_rois
from diagnet.data.sources import merged
from diagnet.errors import DataError, RunFolderError
from diagnet.evaluation.abstention import LEAST_HALF_WIDTH
from diagnet.evaluation.figures import evaluate
from diagnet.experiment import run_experiment
from diagnet.inference.external_validation import evaluate_run
from diagnet.inference.model import load_model
from diagnet.run.folder import read_json, read_record
from diagnet.run.model_card import write_model_card
from diagnet.run.report.files import read_run_files
from diagnet.run.tables import read_split
from diagnet.training.state import start

TINY = {
    "roi": {"size": 32},
    "neighbors": {"budget": 20},
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 1, "n_hidden": 16},
    "training": {"epochs": 3, "batch_size": 16},
    "evaluation": {"n_resamples": 100},
}


def tiny(**changes):
    return Config.from_preset("diagnet", {**TINY, **changes})


def phantoms(n=80, seed=0, patient="P"):
    images, labels = make_masses(n, rng=np.random.default_rng(seed), settings=PhantomSettings(size=32))
    names = ("benign", "malignant")
    masses = tuple(
        Mass(image, None, names[label], f"{patient}{k // 2}", laterality="L", view=("CC", "MLO")[k % 2])
        for k, (image, label) in enumerate(zip(images, np.sort(labels), strict=True))
    )
    return MassSet(masses, source="phantoms")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_experiment(tiny(), phantoms(), tmp_path_factory.mktemp("run") / "run", command="diagnet train")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_all_that_is_promised(run):
    names = """config.toml run.json metrics.jsonl split.csv neighbors.npz neighbors.csv graph.npz predictions.csv
        metrics.json report.html model_card.md embeddings.npz checkpoints/epoch-00003-step-000000.safetensors
        model/fold-0.safetensors"""
    for name in names.split():
        assert (run.folder / name).stat().st_size > 0, name
    assert not list(run.folder.rglob("*.tmp*"))
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["versions"]["torch"]
    assert record["command"] == "diagnet train"
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_model_knows_its_preprocessing_and_when_not_to_call(run):
    facts = json.loads((run.folder / "model" / "fold-0.json").read_text())
    model = load_model(run.folder, engine="torch")
    assert model.preprocessing == Preprocessing(roi=tiny().roi)
    assert facts["preprocessing_sha256"] == model.preprocessing.sha256
    (domain,) = model.domains
    measured = np.zeros((80, len(RegionFacts._fields)))
    read_rois(phantoms().masses, model.roi, facts=measured)
    train = [int(row["index"]) for row in rows(run.folder / "split.csv") if row["part"] == "train"]
    assert domain == fit_domain(measured[train], [f"P{k // 2}" for k in train])
    assert facts["abstention"]["half_width"] == model.abstention.half_width
    assert 0 <= model.abstention.half_width < 1
    assert model.sha256 == load_model(run.folder, engine="torch").sha256
    edited = run.folder / "model" / "fold-0.json"
    content = edited.read_text()
    try:
        edited.write_text(content.replace('"display_chain": 1', '"display_chain": 2'))
        with pytest.raises(RunFolderError, match=r"fold-0\.json` must be as it was sealed"):
            load_model(run.folder)
    finally:
        edited.write_text(content)


def test_each_test_mass_is_predicted_once_and_patients_stay_apart(run):
    split = rows(run.folder / "split.csv")
    sides = {}
    for row in split:
        sides.setdefault(row["patient_id"], set()).add(row["part"])
    assert all(len(parts) == 1 for parts in sides.values())
    assert sorted(int(row["index"]) for row in split) == list(range(80))
    predictions = rows(run.folder / "predictions.csv")
    assert [row["index"] for row in predictions] == [row["index"] for row in split if row["part"] == "test"]
    assert list(predictions[0])[:4] == ["image", "patient_id", "label", "malignancy"]
    assert all(0 <= float(row["malignancy"]) <= 1 for row in predictions)


def test_everything_is_fitted_on_training_masses_alone(run):
    train = {int(row["index"]) for row in rows(run.folder / "split.csv") if row["part"] == "train"}
    with np.load(run.folder / "neighbors.npz", allow_pickle=False) as found:
        assert set(found["parents"].tolist()) <= train
        kinds = found["kinds"]
    assert load_npz(run.folder / "graph.npz").shape[0] == len(train) + len(kinds)


def with_other_test_pictures(masses, folder):
    """The same masses, but for the pictures of a run's test part."""
    test = {int(row["index"]) for row in rows(folder / "split.csv") if row["part"] == "test"}
    return MassSet(
        tuple(replace(mass, image=1 - mass.image) if k in test else mass for k, mass in enumerate(masses.masses))
    )


def test_test_images_cannot_reach_the_model(run, tmp_path):
    # Other pictures in the test part: same split, same network, bit for bit.
    masses = with_other_test_pictures(phantoms(), run.folder)
    other = run_experiment(tiny(), masses, tmp_path / "run", with_report=False)
    weights = [(folder / "model" / "fold-0.safetensors").read_bytes() for folder in (run.folder, other.folder)]
    assert weights[0] == weights[1]


def test_test_images_cannot_reach_what_is_fitted_on_scores(tmp_path):
    # Masses that a few epochs tell apart: of a network that guesses, whatever masses they are fitted on, the
    # temperature is at its bound and the band at its floor. They differ in brightness, which a region's own range would
    # hide.
    config = tiny(
        roi={**TINY["roi"], "grey_range": "image"},
        neighbors={"positive_ratio": 0, "negative_ratio": 0},
        training={"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "graph_weight": 0.0},
    )
    bright = MassSet(
        tuple(
            replace(mass, image=np.float32(0.8) * mass.image + np.float32(0.2 * (mass.label == "malignant")))
            for mass in phantoms().masses
        )
    )
    folders, fitted = (tmp_path / "run", tmp_path / "other"), []
    for folder in folders:
        run_experiment(config, bright, folder, with_report=False)
        facts = json.loads((folder / "model" / "fold-0.json").read_text())
        fitted.append((facts["temperature"], facts["threshold"], facts["abstention"]["half_width"]))
        bright = with_other_test_pictures(bright, folder)
    scores = [[row["malignancy"] for row in rows(folder / "predictions.csv")] for folder in folders]
    assert scores[0] != scores[1]
    temperature, threshold, half_width = fitted[0]
    assert 0.06 < temperature < 19
    assert threshold != 0.5
    assert half_width > LEAST_HALF_WIDTH
    assert fitted[0] == fitted[1]


def test_same_seed_same_run_another_seed_another(run, tmp_path):
    again = run_experiment(tiny(), phantoms(), tmp_path / "again", with_report=False, workers=1)
    assert (again.folder / "predictions.csv").read_text() == (run.folder / "predictions.csv").read_text()
    other = run_experiment(tiny(seed=1), phantoms(), tmp_path / "other", with_report=False)
    assert (other.folder / "predictions.csv").read_text() != (run.folder / "predictions.csv").read_text()


def test_an_interrupted_run_is_taken_up_again_with_the_same_result(run, tmp_path):
    class Stop(Exception):  # noqa: N818 -- not an error
        pass

    def stop(stage, done, total, _note=""):
        if stage == "train" and done > total * 0.7:
            raise Stop("pulled the plug")

    out = tmp_path / "run"
    with pytest.raises(Stop, match="pulled the plug"):
        run_experiment(tiny(), phantoms(), out, with_report=False, progress=stop)
    with pytest.raises(RunFolderError, match="add --resume"):
        run_experiment(tiny(), phantoms(), out, with_report=False)
    with pytest.raises(RunFolderError, match="must keep the settings"):
        run_experiment(tiny(seed=3), phantoms(), out, with_report=False, resume=True)
    with pytest.raises(RunFolderError, match="must keep the data"):
        run_experiment(tiny(), phantoms(seed=5), out, with_report=False, resume=True)
    run_experiment(tiny(), phantoms(), out, with_report=False, resume=True)
    assert (out / "predictions.csv").read_text() == (run.folder / "predictions.csv").read_text()


def test_a_folder_with_a_run_or_other_files_is_not_touched(run, tmp_path):
    with pytest.raises(RunFolderError, match="must not hold a finished run"):
        run_experiment(tiny(), phantoms(), run.folder, resume=True, with_report=False)
    (tmp_path / "thesis.txt").write_text("all my work")
    with pytest.raises(RunFolderError, match="with other files in it"):
        run_experiment(tiny(), phantoms(), tmp_path, with_report=False)
    assert (tmp_path / "thesis.txt").read_text() == "all my work"


def test_folds_test_every_mass_once_and_evaluate_as_one_model(tmp_path):
    config = tiny(evaluation={"folds": 3, "n_resamples": 50}, neighbors={"positive_ratio": 0, "negative_ratio": 0})
    run = run_experiment(config, phantoms(), tmp_path / "run")
    predictions = rows(run.folder / "predictions.csv")
    assert [int(row["index"]) for row in predictions] == list(range(80))
    assert {row["fold"] for row in predictions} == {"0", "1", "2"}
    assert run.metrics["folds"]["auc"]["n"] == 3
    assert len(load_model(run.folder).networks) == 3


def test_three_classes(tmp_path):
    masses = tuple(
        Mass(mass.image, None, ("normal", "benign", "malignant")[k % 3], f"P{k // 3}")
        for k, mass in enumerate(phantoms(90).masses)
    )
    classes = ("normal", "benign", "malignant")
    run = run_experiment(tiny(classes=classes), MassSet(masses, classes=classes), tmp_path / "run")
    assert run.predictions.probabilities.shape[1] == 3
    assert run.metrics["test"]["units"]["mass"]["n_per_class"].keys() == set(classes)


def test_the_letter_runs_too(tmp_path):
    config = tiny(
        graph={"space": "image", "skip_same_patient": False, "skip_own_neighbors": False},
        neighbors={"budget": 10, "search_space": "pixel", "positive_ratio": 0.1, "negative_ratio": 0.1},
        training={"epochs": 1, "batch_size": 16, "flips": "stored", "reduction": "sum", "batching": "exact",
                  "negative_label": "own", "graph_weight": 1.0, "padding": (1.6, 1.6), "shift": 0.0},
    )  # fmt: skip
    run = run_experiment(config, phantoms(48), tmp_path / "run", with_report=False)
    n_train = sum(row["part"] == "train" for row in rows(run.folder / "split.csv"))
    with np.load(run.folder / "neighbors.npz", allow_pickle=False) as found:
        n_neighbors = len(found["kinds"])
    assert load_npz(run.folder / "graph.npz").shape[0] == 4 * n_train + n_neighbors


def two_sources(distinct_patients=False):
    """Two sources of the same 20 patients' names, with other pictures."""
    apart = {name: phantoms(40, seed) for seed, name in enumerate(("north", "south"))}
    return merged(apart, distinct_patients=distinct_patients)


PLAIN = {"neighbors": {"positive_ratio": 0, "negative_ratio": 0}, "training": {"epochs": 1, "batch_size": 16}}


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    return run_experiment(tiny(**PLAIN), two_sources(), tmp_path_factory.mktemp("two") / "run")


def test_a_patient_of_two_sources_is_never_split(run_of_two):
    split = rows(run_of_two.folder / "split.csv")
    sides = {}
    for row in split:
        sides.setdefault(row["patient_id"], set()).add(row["part"])
    assert len(sides) == 20
    assert all(len(parts) == 1 for parts in sides.values())
    assert [row["source"] for row in split] == ["north"] * 40 + ["south"] * 40


def test_distinct_patients_may_be_split_and_keep_their_names(tmp_path):
    run = run_experiment(tiny(**PLAIN), two_sources(distinct_patients=True), tmp_path / "run", with_report=False)
    split = rows(run.folder / "split.csv")
    sides = {}
    for row in split:
        sides.setdefault((row["source"], row["patient_id"]), set()).add(row["part"])
    assert sides.keys() == {(source, f"P{k}") for source in ("north", "south") for k in range(20)}
    assert all(len(parts) == 1 for parts in sides.values())
    assert any(sides["north", f"P{k}"] != sides["south", f"P{k}"] for k in range(20))
    tested = [row for row in split if row["part"] == "test"]
    predictions = rows(run.folder / "predictions.csv")
    assert [(row["source"], row["patient_id"]) for row in predictions] == [
        (row["source"], row["patient_id"]) for row in tested
    ]
    patients = {(row["source"], row["patient_id"]) for row in tested}
    assert run.metrics["test"]["units"]["mass"]["n_patients"] == len(patients)


def test_evaluating_leaves_out_a_seen_name_of_any_source(tmp_path):
    both = two_sources(distinct_patients=True)
    run = run_experiment(tiny(**PLAIN), both, tmp_path / "run", with_report=False)
    seen = {row["patient_id"] for row in rows(run.folder / "split.csv") if row["part"] != "test"}
    n_seen = sum(mass.patient_id in seen for mass in both.masses)
    assert n_seen > 80 - len(run.predictions.labels)  # a test mass whose patient has a namesake in training
    more = replace(both, masses=[*both.masses, *phantoms(8, seed=9, patient="Q").masses])
    metrics = evaluate_run(run.folder, more, tmp_path / "more", settings=tiny().evaluation)
    assert metrics["left_out"] == {"patient was in the run's training or validation part": n_seen}


def test_figures_by_source_are_those_of_each_source_alone(run_of_two):
    by_source, predictions = run_of_two.metrics["test"]["by_source"], run_of_two.predictions
    sources = [row["source"] for row in rows(run_of_two.folder / "predictions.csv")]
    assert [*by_source] == ["north", "south"]
    for name, found in by_source.items():
        part = predictions.part(np.flatnonzero(np.array(sources) == name))
        alone = evaluate(part, 0.5, tiny().evaluation, rng=np.random.default_rng([0, 3]))["units"]["mass"]
        assert found == {key: alone[key] for key in ("n", "n_patients", "auc")}
    assert json.loads((run_of_two.folder / "metrics.json").read_text())["test"]["by_source"] == by_source


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (tiny(), "with 1 positive neighbors for each mass and the signed graph at lambda 0.05"),
        (Config(), "with plain cross-entropy, without neighbors and graph"),
    ],
)
def test_the_model_card_says_how_much_of_the_method_there_was(run_of_two, tmp_path, config, said):
    write_model_card(tmp_path, config, read_record(run_of_two.folder), run_of_two.metrics)
    assert f" {said}. " in (tmp_path / "model_card.md").read_text()


def test_a_run_of_two_sources_says_so(run_of_two):
    record = read_json(run_of_two.folder / "run.json")
    about = {"source": "phantoms", "masses": 40, "patients": 20}
    assert record["data"]["sources"] == {"north": about, "south": about}
    assert record["data"]["distinct_patients"] is False
    card = (run_of_two.folder / "model_card.md").read_text()
    assert "Source: north, south (" in card
    assert "- north (phantoms): 40 masses of 20 patients" in card
    assert "- patients of the same name in different sources are one patient" in card
    page = (run_of_two.folder / "report.html").read_text()
    assert "By source" in page
    assert "north, south · preset diagnet" in page


def test_one_source_is_not_talked_about(run):
    assert "by_source" not in run.metrics["test"]
    assert "sources" not in read_json(run.folder / "run.json")["data"]
    assert read_json(run.folder / "run.json")["binding"].keys() == {"settings", "data"}
    assert "ource" not in (run.folder / "report.html").read_text().split("<h2>Settings")[0].split("</style>")[1]
    for name in ("split.csv", "predictions.csv"):
        assert {row["source"] for row in rows(run.folder / name)} == {""}


def test_a_run_is_not_resumed_with_other_patients(tmp_path):
    def stop(stage, *_):
        if stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny(**PLAIN), two_sources(), tmp_path / "run", with_report=False, progress=stop)
    with pytest.raises(RunFolderError, match=r"must keep the patients the run in .* began with"):
        run_experiment(tiny(**PLAIN), two_sources(True), tmp_path / "run", with_report=False, resume=True)


def half_labelled():
    """Phantoms of 30 patients, and of 24 whose masses have no label; six of these have others with one."""
    whole = phantoms(60)
    others = phantoms(48, seed=1, patient="U").masses
    hidden = [
        replace(mass, label=None, patient_id=f"P{k // 2}" if k < 12 else mass.patient_id, view=("MLO", "CC")[k % 2])
        for k, mass in enumerate(others)
    ]
    return replace(whole, unlabelled=hidden)


def begun_with(masses, out, monkeypatch, **training):
    """Weights of a run that trains no more than the head, and the masses without a label that this head saw."""
    seen, training = [], {"epochs": 1, "batch_size": 16, "head_views": 1, "known_weight": 0.3, **training}

    def noted(points, *given, unlabelled, **named):
        seen.append(unlabelled)
        return start(points, *given, unlabelled=unlabelled, **named)

    monkeypatch.setattr("diagnet.run.fold.start", noted)
    config = Config.from_preset("lite0", {**TINY, "network": {"trainable": "none"}, "training": training})
    run = run_experiment(config, masses, out, with_report=False)
    return load_file(run.folder / "model" / "fold-0.safetensors")["classifier.weight"], seen[0], run


def test_masses_without_a_label_count_in_training_alone(tmp_path, monkeypatch):
    masses = half_labelled()
    weights, seen, run = begun_with(masses, tmp_path / "with", monkeypatch)
    split = rows(run.folder / "split.csv")
    elsewhere = {row["patient_id"] for row in split if row["part"] != "train"}
    kept = [mass for mass in masses.unlabelled if mass.patient_id not in elsewhere]
    assert 0 < len(kept) < len(masses.unlabelled)  # whoever is tested on is not learned from
    assert len(seen) == len(kept)
    assert np.array_equal(seen.images, read_rois(kept, Config.from_preset("lite0", {"roi": TINY["roi"]}).roi))
    assert set(seen.labels) == {-1}
    assert run.metrics["test"]["units"]["mass"]["n"] == sum(row["part"] == "test" for row in split)
    assert read_json(run.folder / "run.json")["data"]["unlabelled"] == len(masses.unlabelled)
    assert "in training alone: 48 masses" in (run.folder / "model_card.md").read_text()
    without, none, _ = begun_with(masses, tmp_path / "without", monkeypatch, known_weight=0.0)
    assert none is None
    assert not np.allclose(weights, without)
    labelled, none, _ = begun_with(phantoms(60), tmp_path / "labelled", monkeypatch, known_weight=0.0)
    assert np.array_equal(without, labelled)
    edges, none, _ = begun_with(phantoms(60), tmp_path / "edges", monkeypatch)  # of the masses with a label
    assert len(none) == 0
    assert not np.allclose(edges, labelled)


def test_a_run_is_not_resumed_with_other_masses_without_a_label(tmp_path):
    masses = half_labelled()
    changes = {**TINY, "network": {"trainable": "none"}, "training": {"head_views": 0, "known_weight": 0.3}}
    config = Config.from_preset("lite0", changes)

    def stop(stage, *_):
        if stage == "features":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, masses, tmp_path / "run", with_report=False, progress=stop)
    fewer = replace(masses, unlabelled=masses.unlabelled[2:])
    with pytest.raises(RunFolderError, match=r"must keep the unlabelled the run in .* began with"):
        run_experiment(config, fewer, tmp_path / "run", with_report=False, resume=True)


def test_evaluating_on_other_masses(run, tmp_path):
    other = phantoms(30, seed=9, patient="Q")
    metrics = evaluate_run(run.folder, other, tmp_path / "other", settings=tiny().evaluation)
    assert metrics["test"]["units"]["mass"]["n"] == 30
    assert len(rows(tmp_path / "other" / "predictions.csv")) == 30


def test_a_black_region_is_neither_trained_on_nor_evaluated(run, tmp_path):
    black = Mass(np.zeros((32, 32), np.float32), None, "benign", "black")
    other = phantoms(30, seed=9, patient="Q")
    with_black = replace(other, masses=(black, *other.masses))
    metrics = evaluate_run(run.folder, with_black, tmp_path / "other", settings=tiny().evaluation)
    assert metrics["test"]["units"]["mass"]["n"] == 30
    assert metrics["left_out"] == {"region has one grey value": 1}
    assert [row["index"] for row in rows(tmp_path / "other" / "predictions.csv")] == [str(k) for k in range(1, 31)]
    plain = tiny(neighbors={"positive_ratio": 0, "negative_ratio": 0}, training={"epochs": 1, "batch_size": 16})
    run_experiment(plain, with_black, tmp_path / "run", with_report=False)
    assert read_json(tmp_path / "run" / "run.json")["data"]["left_out"] == {"region has one grey value": 1}
    assert "black" not in {row["patient_id"] for row in rows(tmp_path / "run" / "split.csv")}


def test_masses_the_run_has_seen_are_left_out(run, tmp_path):
    metrics = evaluate_run(run.folder, phantoms(), tmp_path / "same", settings=tiny().evaluation)
    assert metrics["left_out"] == {
        "patient was in the run's training or validation part": 80 - len(run.predictions.labels)
    }
    ours = {row["index"]: float(row["malignancy"]) for row in rows(run.folder / "predictions.csv")}
    theirs = {row["index"]: float(row["malignancy"]) for row in rows(tmp_path / "same" / "predictions.csv")}
    assert theirs == pytest.approx(ours, abs=1e-5)  # another engine may have scored them
    seen = {row["patient_id"] for row in rows(run.folder / "split.csv") if row["part"] == "train"}
    only_seen = MassSet(tuple(mass for mass in phantoms().masses if mass.patient_id in seen))
    with pytest.raises(DataError, match="patients the run was not trained on"):
        evaluate_run(run.folder, only_seen, tmp_path / "none", settings=tiny().evaluation)


def test_what_cannot_be_trained_or_evaluated_is_refused(run, tmp_path):
    one_class = MassSet(tuple(mass for mass in phantoms().masses if mass.label == "benign"))
    with pytest.raises(DataError, match="at least two classes"):
        run_experiment(tiny(), one_class, tmp_path / "a", with_report=False)
    few = MassSet(phantoms().masses[::20])
    with pytest.raises(DataError, match="must"):
        run_experiment(tiny(evaluation={"folds": 5}), few, tmp_path / "b", with_report=False)
    with pytest.raises(DataError, match="`classes` must be those of the data"):
        run_experiment(tiny(classes=("a", "b")), phantoms(), tmp_path / "c", with_report=False)
    assert not any(tmp_path.iterdir())
    with pytest.raises(RunFolderError, match="must be a readable file of a run"):
        evaluate_run(tmp_path, phantoms(), tmp_path / "d", settings=tiny().evaluation)
    edited = run.folder / "model" / "fold-0.safetensors"
    content = edited.read_bytes()
    try:
        edited.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(RunFolderError, match=r"fold-0\.safetensors` must be as it was sealed"):
            load_model(run.folder)
    finally:
        edited.write_bytes(content)


def test_the_main_job_on_real_masses(shared_masses, tmp_path):
    config = tiny(
        training={"epochs": 2, "batch_size": 32},
        neighbors={"budget": 10, "positive_ratio": 0.05, "negative_ratio": 0.05},
    )
    masses = read_manifest(shared_masses / "rois.csv")
    prepared = write_prepared(masses, tmp_path / "data", config.roi)
    run = run_experiment(config, prepared, tmp_path / "run")
    assert run.metrics["test"]["units"]["mass"]["n"] == len(run.predictions.labels) > 100
    assert run.metrics["test"]["units"]["mass"]["auc"]["low"] is not None
    assert (run.folder / "report.html").exists()


NAMES = ("gut\r\x7f\u2028ss", '\U0001f600 "b\\\n')


@pytest.mark.filterwarnings("ignore:Glyph")  # matplotlib's, of letters that its font lacks
def test_names_of_any_text_are_read_back(tmp_path):
    masses = [
        replace(mass, label=NAMES[mass.label == "malignant"], patient_id=f"{mass.patient_id}\r\n\x85;", view="C\rC")
        for mass in phantoms().masses
    ]
    mass_set = MassSet(masses, classes=NAMES, source="a\udcff")
    config = tiny(classes=NAMES, training={**TINY["training"], "epochs": 1})
    out = run_experiment(config, mass_set, tmp_path / "run", command="diagnet train a\udcff", with_report=True).folder
    assert read_config(out / "config.toml") == config
    assert read_json(out / "run.json")["data"]["source"] == "a\udcff"
    split, files = read_split(out), read_run_files(out)
    for row in (*split, *files.predictions):
        mass = masses[row.index]
        assert (row.label, row.patient_id) == (mass.label, mass.patient_id)
    assert len(split) == len(masses)
    assert {row.view for row in files.predictions} == {"C\rC"}
    assert files.classes == list(NAMES)
    assert [row["epoch"] for row in files.history] == [1]
    assert load_model(out).classes == NAMES
    assert "a? · preset diagnet" in (out / "report.html").read_text(encoding="utf-8")
    assert "Source: a? (" in (out / "model_card.md").read_text(encoding="utf-8")
    metrics = evaluate_run(out, mass_set, tmp_path / "again", settings=config.evaluation)
    n_seen = sum(row.part != "test" for row in split)
    assert metrics["left_out"]["patient was in the run's training or validation part"] == n_seen


def test_names_that_are_no_text_are_told_before_anything_is_written(run, tmp_path):
    named = [Mass(tmp_path / "a\udcff.png", None, mass.label, mass.patient_id) for mass in phantoms().masses]
    strange = MassSet([replace(mass, patient_id="Q\udcff") for mass in phantoms().masses])
    for masses in (MassSet(named), strange):
        for write in (
            lambda masses: run_experiment(tiny(), masses, tmp_path / "out"),
            lambda masses: evaluate_run(run.folder, masses, tmp_path / "out", settings=tiny().evaluation),
        ):
            with pytest.raises(DataError, match=r"`text` must be text .*, got the lone surrogate U\+DCFF in a name"):
                write(masses)
            assert not (tmp_path / "out").exists()
