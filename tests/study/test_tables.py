import itertools
import json
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from tiny import TINY

from diagnet.config import Config, merged
from diagnet.data.manifest import read_manifest
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import write_prepared
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.errors import DataError, SettingsError
from diagnet.run.folder import read_json
from diagnet.study.arms import PLAIN, STUDIES, Arm, read_arms
from diagnet.study.jobs import Job, Rows, run_job
from diagnet.study.network_fit import Cases
from diagnet.study.perturbations import PERTURBATIONS
from diagnet.study.results.calibration_tables import abstention, calibration, calibration_error
from diagnet.study.results.choice import choice
from diagnet.study.results.pictures import write_pictures
from diagnet.study.results.published import PUBLISHED
from diagnet.study.results.scores import (
    Scores,
    Truth,
    per_job,
    percentiles,
    read_jobs,
    read_scores,
    resampled,
    truth_of,
    weighted_accuracy,
)
from diagnet.study.results.seed_luck import SeedLuck
from diagnet.study.results.tables import arm_figures, write_tables
from diagnet.study.running import Study, claim_study, run_study, write_rows


def rows(validation, test):
    """Rows of a job from (index, score) pairs."""
    parts = [("validation", *each) for each in validation] + [("test", *each) for each in test]
    return [{"part": part, "index": str(index), "score": str(score), "seconds": "1"} for part, index, score in parts]


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    return Truth(rng.random(400) < 0.5, np.arange(400) // 2, np.arange(400) // 100)


def jobs_from(scores, folds):
    """One repeat: each fold tested, the next fold held out."""
    return {
        (fold, 0): rows(
            [(k, scores[k]) for k in np.flatnonzero(folds == (fold + 1) % 4)],
            [(k, scores[k]) for k in np.flatnonzero(folds == fold)],
        )
        for fold in range(4)
    }


def test_the_arm_inner_folds_prefer_is_the_one_reported(truth):
    rng = np.random.default_rng(1)
    good, bad = truth.targets + rng.normal(0, 0.7, 400), rng.normal(0, 1, 400)
    lines = choice({"bad": jobs_from(bad, truth.folds), "good": jobs_from(good, truth.folds)}, truth, 1)
    assert [line["chosen"] for line in lines] == ["good"] * 4 + [""]
    aucs = [roc_auc_score(truth.targets[truth.folds == f], good[truth.folds == f]) for f in range(4)]
    assert [line["auc"]["value"] for line in lines] == pytest.approx([*aucs, np.mean(aucs)])
    assert lines[-1]["auc"]["low"] < lines[-1]["auc"]["value"] < lines[-1]["auc"]["high"]


def test_test_masses_have_no_part_in_the_choice(truth):
    """An arm that is right on test masses alone is not chosen."""
    rng = np.random.default_rng(1)
    good, bad = truth.targets + rng.normal(0, 0.7, 400), rng.normal(0, 1, 400)
    honest, cheat = jobs_from(good, truth.folds), {}
    for fold, repeat in honest:
        own = np.flatnonzero(truth.folds == fold)
        inner = np.flatnonzero(truth.folds == (fold + 1) % 4)
        cheat[fold, repeat] = rows([(k, bad[k]) for k in inner], [(k, float(truth.targets[k])) for k in own])
    assert {line["chosen"] for line in choice({"cheat": cheat, "honest": honest}, truth, 1)[:-1]} == {"honest"}
    assert choice({"honest": honest}, truth, 1) == []


def test_calibration_error_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    chances, targets = rng.random(97), rng.random(97) < 0.4
    edges = [97 * k // 10 for k in range(11)]
    order = np.argsort(chances)
    gaps = [abs(sum(float(chances[k]) - targets[k] for k in order[a:b])) for a, b in itertools.pairwise(edges)]
    assert calibration_error(chances, targets, np.ones((1, 97)))[0] == pytest.approx(sum(gaps) / 97)


def test_a_temperature_repairs_what_is_too_sure(truth):
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 1.5, 400)
    told = Truth(rng.random(400) < expit(logits), truth.patients, truth.folds)
    figures = {row["figure"]: row["value"] for row in calibration("a", jobs_from(4 * logits, told.folds), told)}
    before, after = figures["expected calibration error"], figures["expected calibration error, with temperature"]
    assert after["high"] < before["low"]
    assert figures["Brier score, with temperature"]["value"] < figures["Brier score"]["value"]
    assert figures["net benefit at 0.3"]["value"] > figures["net benefit of calling all at 0.3"]["value"] > 0
    assert 0.8 < figures["sensitivity where 90 % was asked for"]["value"] < 0.98
    assert all(each["low"] <= each["value"] <= each["high"] for each in figures.values())


def test_masses_far_from_the_threshold_are_decided_better(truth):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, 400)
    told = Truth(rng.random(400) < expit(logits), truth.patients, truth.folds)
    lines = abstention("a", jobs_from(logits, told.folds), told)
    assert [line["decided"] for line in lines] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert lines[-1]["accuracy"]["value"] > lines[0]["accuracy"]["value"]


def test_accuracy_is_of_the_more_probable_class(truth):
    scores = Scores("a", np.where(truth.targets, 0.1, -0.1)[None] * np.where(np.arange(400) < 40, -1, 1), np.ones(4))
    assert per_job(scores, truth, weighted_accuracy) == pytest.approx([0.6, 1, 1, 1])


def test_the_mean_score_of_several_trainings_has_an_auc_of_its_own(truth):
    values = truth.targets + np.random.default_rng(2).normal(0, 1, (3, 400))
    row = arm_figures(Scores("a", values, np.ones(12)), truth)
    mean = values.mean(axis=0)
    by_hand = [roc_auc_score(truth.targets[truth.folds == f], mean[truth.folds == f]) for f in range(4)]
    assert row["auc_of_mean_score"]["value"] == pytest.approx(np.mean(by_hand))
    assert row["gain_of_mean_score"]["value"] == pytest.approx(np.mean(by_hand) - row["auc"]["value"])
    assert row["gain_of_mean_score"]["low"] > 0
    values[1, 7] = np.nan  # a training is missing
    for given in (values, values[:1]):
        assert arm_figures(Scores("a", given, np.ones(12)), truth)["auc_of_mean_score"]["value"] is None


def test_the_same_masses_twice_are_not_more_evidence(truth):
    # Patients are drawn: a mass that is there twice comes twice in every resample. Were masses drawn, the interval
    # would be narrower by the root of 2.
    values = truth.targets + np.random.default_rng(4).normal(0, 1, (3, 400))
    once = resampled(Scores("a", values, np.ones(12)), truth, n_resamples=300)
    twice = Truth(*(np.repeat(each, 2) for each in (truth.targets, truth.patients, truth.folds)))
    again = resampled(Scores("a", np.repeat(values, 2, axis=1), np.ones(12)), twice, n_resamples=300)
    np.testing.assert_allclose(again, once, rtol=1e-12)
    assert percentiles(once)["low"] < percentiles(once)["value"] < percentiles(once)["high"]


def test_masses_of_one_patient_are_drawn_together():
    # 8 patients of one fold, each right or wrong as a whole: a resample's accuracy is a number of patients over 8.
    patients = np.repeat(np.arange(8), 5)
    truth = Truth(np.ones(40, bool), patients, np.zeros(40, int))
    right = np.where(patients < 4, 1.0, -1.0)
    figures = resampled(Scores("a", right[None], np.ones(1)), truth, measure=weighted_accuracy, n_resamples=500)
    assert figures[0] == 0.5
    np.testing.assert_allclose(8 * figures, np.round(8 * figures), atol=1e-9)
    assert figures[1:].std() == pytest.approx((0.25 / 8) ** 0.5, rel=0.1)  # of 8 draws, not of 40


def test_the_luck_of_a_training_is_in_the_interval(truth):
    # Two trainings, one always right and one always wrong, whoever is drawn: the patients' draw changes nothing.
    right = np.where(truth.targets, 1.0, -1.0)
    scores = Scores("a", np.stack([right, -right]), np.ones(8))
    luck = SeedLuck.of([scores], truth)
    # AUCs of 0 and 1 have a variance of 1/2; a fold has 2 trainings, the figure is the mean of 4 folds.
    assert luck.of_arm(scores) == (0.5, "own")
    figures = resampled(scores, truth, n_resamples=2000, seed_variance=0.5)
    assert figures[0] == 0.5
    assert figures[1:].var() == pytest.approx(1 / 2 / 2 / 4, rel=0.1)
    assert arm_figures(scores, truth)["auc"]["low"] < 0.1


@pytest.fixture(scope="module")
def cases(manifest):
    masses = read_manifest(manifest)
    images = read_rois(masses.masses[:12], RoiSettings(size=16))
    return Cases(images, tuple(masses.masses[:12]), masses.labels[:12], masses.patient_numbers[:12])


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_change_a_little_and_keep_the_range(name, cases):
    settings = Config.from_preset("diagnet", TINY).roi
    first, again = (PERTURBATIONS[name](cases, settings, np.random.default_rng(0)) for _ in range(2))
    for images, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(images, same)
        assert images.shape == cases.images.shape
        assert images.dtype == np.float32
        assert 0 <= images.min() <= images.max() <= 1
    changed = np.abs(np.mean(first, axis=0) - cases.images).mean()
    assert 1e-4 < changed < 0.3


def test_a_box_is_not_moved_where_there_is_no_image(cases):
    alone = Cases(cases.images, (), cases.labels, cases.patients).part(np.arange(0))
    assert PERTURBATIONS["noise-0.02"](alone, Config().roi, np.random.default_rng(0))[0].shape[0] == 0
    regions = replace(cases, masses=tuple(replace(mass, image=cases.images[0]) for mass in cases.masses))
    with pytest.raises(DataError, match="must be a manifest of images with boxes"):
        PERTURBATIONS["box-0.1"](regions, Config().roi, np.random.default_rng(0))


def test_every_table_of_a_study_is_written_from_its_rows(manifest, tmp_path):
    arms = (
        Arm("plain", "", PLAIN),
        Arm("n+0n-0", "", PLAIN, holdout=True),
        Arm("n+1n-4", "", holdout=True),
        Arm("plain-20", "", PLAIN, n_train=20),
        Arm("seen", "", PLAIN, perturbed=True),
        Arm("border", "", PLAIN, "border"),
        Arm("permuted", "", PLAIN, "permuted"),
    )
    study = Study("all", arms, (manifest,), Config.from_preset("diagnet", TINY), folds=2, repeats=1)
    out, masses = tmp_path / "all", read_manifest(manifest)
    claim_study(study, masses, out, joins=False)
    assert run_study(study, out, workers=1) == 14
    write_tables(out, masses)
    names = ("arms", "differences", "table1", "choice", "calibration", "abstention", "robustness")
    tables = {name: (out / f"{name}.csv").read_text().splitlines() for name in names}
    assert len(tables["choice"]) == 1 + 2 + 1
    assert len(tables["calibration"]) == 1 + 2 * 14
    assert len(tables["robustness"]) == 1 + 1 + len(PERTURBATIONS)
    assert sum(name in line for line in tables["table1"] for name in PUBLISHED) >= 6
    assert {path.name for path in out.glob("*.svg")} == {"neighbors.svg", "curve.svg"}
    # Perturbed rows are no test rows.
    truth = truth_of(masses, 2)
    assert not np.isnan(read_scores(out / "seen", 60, 1).values).any()
    assert read_jobs(out / "seen", 1)[0, 0][-1]["part"] == "test@flips-averaged"
    assert len(per_job(read_scores(out / "seen", 60, 1), truth)) == 2
    # A study from before an arm could be perturbed is joined.
    record = out / "study.json"
    record.write_text(record.read_text().replace('"perturbed": false', '"n_train": null'))
    claim_study(Study("all", arms[:1], (manifest,), study.base, 2, 1), masses, out, joins=True)


def test_regions_cut_otherwise_are_refused(manifest, tmp_path):
    masses = read_manifest(manifest)
    config = Config.from_preset("diagnet", TINY)
    write_prepared(masses, tmp_path / "data", config.roi)
    other = Arm("wide", "", {"roi": {"padding_factor": 2.0}})
    with pytest.raises(SettingsError, match="`roi` must be the prepared folder's"):
        run_job(Job(other, 0, 0), (tmp_path / "data",), config, 2)


def test_nothing_is_drawn_of_nothing(tmp_path):
    write_pictures(tmp_path, [], {})
    assert list(tmp_path.iterdir()) == []


def test_rows_are_read_as_they_were_written(tmp_path):
    write_rows(tmp_path / "a" / "fold1-repeat2.csv", Rows(["test"], np.array([3]), np.array([0.5]), 7.0))
    assert read_jobs(tmp_path / "a", 3) == {
        (1, 2): [{"part": "test", "index": "3", "score": "0.50000", "seconds": "7"}]
    }
    assert read_jobs(tmp_path / "a", 2) == {}


@pytest.mark.parametrize(
    ("study", "designs"), [("studies", "designs"), ("mammograms", "mammograms"), ("figure3", None)]
)
def test_the_arms_of_the_evidence_can_be_run_again(study, designs):
    folder = Path(__file__).parents[2] / "evidence"
    record = json.loads((folder / study / "study.json").read_text())
    base = Config.stored(record["settings"])
    today = {arm.name: arm for arms in STUDIES.values() for arm in arms}
    if designs is not None:
        with warnings.catch_warnings():  # the evidence stays as it was written, with old names
            warnings.simplefilter("ignore", FutureWarning)
            today |= {arm.name: arm for arm in read_arms(folder / f"{designs}.toml", base)}
    for name, kept in record["arms"].items():
        described = {**asdict(today[name]), "what": kept["what"]}  # words, which may change
        assert merged({}, {key: described[key] for key in kept}) == merged({}, kept)  # old names of settings are read


def test_the_evidence_is_of_the_preset_diagnet_but_for_grey_range_search_and_draws():
    record = json.loads((Path(__file__).parents[2] / "evidence" / "studies" / "study.json").read_text())
    (ours,) = (arm for arm in STUDIES["ablation"] if arm.name == "diagnet")
    fixed = {"padding": (1.6, 1.6), "shift": 0.0, "gamma": 0.0, "noise": 0.0, "zoom": 0.15}
    before = {"roi": {"grey_range": "image"}, "neighbors": {"start_originals": 10}, "training": fixed}
    base = Config.from_preset("diagnet", {**before, "network": {"average_flips": False}})
    assert Config.stored(record["settings"]).model_copy(update={"preset": "diagnet"}) == base == ours.config(base)


@hypothesis.settings(deadline=None)  # it writes files
@hypothesis.given(st.text(min_size=1), st.lists(st.text(), min_size=2, max_size=2, unique=True))
@hypothesis.example("a\r\n\x85\u2028\x7f", ["\U0001f600", "\x00"])
def test_study_and_rows_of_any_text_are_read_back(tmp_path_factory, text, classes):
    out = tmp_path_factory.mktemp("study")
    base = Config.from_preset("diagnet", {**TINY, "classes": classes, "tracking": {"mlflow": text}})
    study = Study("own", (Arm("own", text),), (Path(text.replace("\0", "")),), base, 2, 1)
    masses = MassSet([Mass(Path("a"), None, classes[0], text)], tuple(classes))
    claim_study(study, masses, out / "study", joins=False)
    claim_study(study, masses, out / "study", joins=True)  # the same study
    record = read_json(out / "study" / "study.json")
    assert record["settings"] == base.model_dump(mode="json")
    assert record["arms"]["own"]["what"] == text
    write_rows(out / "own" / "fold0-repeat0.csv", Rows([text], np.array([3]), np.array([0.5]), 1.0))
    assert [row["part"] for row in read_jobs(out / "own", 1)[0, 0]] == [text]
