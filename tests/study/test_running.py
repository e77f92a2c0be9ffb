import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny import ARMS, tiny
from typer.testing import CliRunner

from diagnet.cli import app
from diagnet.config import Config
from diagnet.data.manifest import read_manifest
from diagnet.errors import DataError, RunFolderError, SettingsError
from diagnet.run.folder import read_json
from diagnet.study.arms import STUDIES, Arm, chosen_arms, read_arms
from diagnet.study.jobs import Job, parts, run_job
from diagnet.study.methods import METHODS
from diagnet.study.results.differences import compare_arms
from diagnet.study.results.scores import read_scores, truth_of
from diagnet.study.results.tables import arm_figures, write_tables
from diagnet.study.running import claim_study, duration, parse_shard, run_study
from diagnet.version import __version__

SETTINGS = [
    *("--set", "roi.size=16", "--set", "training.epochs=1", "--set", "neighbors.budget=2"),
    *("--set", "network.stem_widths=[4,8]", "--set", "network.widths=[8,16]", "--set", "network.n_middle=0"),
]


@pytest.fixture(scope="module")
def study(manifest, tmp_path_factory):
    """Two arms on two folds, run by two workers."""
    out = tmp_path_factory.mktemp("study") / "tiny"
    claim_study(tiny(manifest), read_manifest(manifest), out, joins=False)
    assert run_study(tiny(manifest), out, workers=2) == 4
    return out


def rows(out):
    """Each job's rows without the time it took."""
    return {
        str(path.relative_to(out)): [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        for path in sorted(out.glob("*/fold*.csv"))
    }


def test_each_mass_is_tested_once_by_each_arm(study, manifest):
    truth = truth_of(read_manifest(manifest), 2)
    for arm in ARMS:
        scores = read_scores(study / arm.name, 60, 1)
        assert not np.isnan(scores.values).any()
        figures = arm_figures(scores, truth)
        by_fold = [roc_auc_score(truth.targets[truth.folds == f], scores.values[0, truth.folds == f]) for f in (0, 1)]
        assert figures["auc"]["value"] == pytest.approx(np.mean(by_fold))
        assert figures["auc"]["low"] <= figures["auc"]["value"] <= figures["auc"]["high"]
        assert (figures["jobs"], figures["of"]) == (2, 2)


def test_what_is_done_is_not_run_again(study, manifest):
    before = rows(study)
    claim_study(tiny(manifest), read_manifest(manifest), study, joins=True)
    assert run_study(tiny(manifest), study, workers=1) == 0
    assert rows(study) == before


def test_a_study_names_each_revision_that_had_a_part_in_it(manifest, tmp_path, monkeypatch):
    def claimed(revision):
        monkeypatch.setattr("diagnet.study.running.git_revision", lambda: revision)
        return claim_study(tiny(manifest), read_manifest(manifest), tmp_path / "r", joins=True)

    assert claimed("old") == ["old"]
    assert claimed("new") == ["old", "new"]
    assert claimed("old") == ["new", "old"]
    record = tmp_path / "r" / "study.json"
    stored = json.loads(record.read_text())
    assert (stored["git_revision"], stored.pop("revisions")) == ("old", ["new", "old"])
    record.write_text(json.dumps(stored))  # as before there was such a list
    assert claimed(None) == ["old", __version__]


def test_the_rows_do_not_depend_on_workers_or_shards(study, manifest, tmp_path):
    for shard in ((1, 2), (0, 2)):
        claim_study(tiny(manifest), read_manifest(manifest), tmp_path / "s", joins=True)
        run_study(tiny(manifest), tmp_path / "s", workers=1, shard=shard)
    assert rows(tmp_path / "s") == rows(study)


def test_a_dask_cluster_gives_the_same_rows(study, manifest, tmp_path):
    distributed = pytest.importorskip("distributed", reason="dask is not installed: the cluster was not tried")
    claim_study(tiny(manifest), read_manifest(manifest), tmp_path / "d", joins=False)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as cluster:
        assert run_study(tiny(manifest), tmp_path / "d", scheduler=cluster.scheduler_address) == 4
    assert rows(tmp_path / "d") == rows(study)


def test_a_killed_study_goes_on_where_it_was(manifest, tmp_path):
    out = tmp_path / "killed"
    arms = tmp_path / "arms.toml"
    arms.write_text(
        "[plain.training]\ngraph_weight = 0.0\n[plain.neighbors]\npositive_ratio = 0.0\nnegative_ratio = 0.0\n"
    )
    command = [sys.executable, "-m", "diagnet.cli", "study", "designs", str(manifest), "--arms", str(arms)]
    command += ["--out", str(out), "--folds", "3", "--repeats", "1", "--workers", "1", *SETTINGS]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not list(out.glob("plain/fold*.csv")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("plain/fold*.csv")}
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("plain/fold*-repeat0.csv"))) == 3
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_a_job_another_process_is_at_is_left_alone(manifest, tmp_path):
    from diagnet.study.running import _lock_of

    one = tiny(manifest, arms=ARMS[:1])
    out = tmp_path / "busy"
    claim_study(one, read_manifest(manifest), out, joins=False)
    with _lock_of(one.jobs()[0], out):
        assert run_study(one, out, workers=1) == 1
    assert not one.jobs()[0].path(out).exists()
    assert run_study(one, out, workers=1) == 1


def test_an_arm_may_be_told_in_other_words(manifest, tmp_path):
    masses = read_manifest(manifest)
    claim_study(tiny(manifest), masses, tmp_path / "s", joins=False)
    claim_study(tiny(manifest, arms=[replace(ARMS[0], what="as before")]), masses, tmp_path / "s", joins=True)
    assert read_json(tmp_path / "s" / "study.json")["arms"][ARMS[0].name]["what"] == "as before"


def test_a_folder_of_another_study_is_refused(study, manifest, tmp_path):
    masses = read_manifest(manifest)
    with pytest.raises(RunFolderError, match="got a study in"):
        claim_study(tiny(manifest), masses, study, joins=False)
    with pytest.raises(RunFolderError, match="must keep the folds"):
        claim_study(tiny(manifest, folds=3), masses, study, joins=True)
    other = (Arm("plain", "plain", {"training": {"epochs": 2}}),)
    with pytest.raises(RunFolderError, match="`plain` must keep the settings"):
        claim_study(tiny(manifest, arms=other), masses, study, joins=True)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="with other files"):
        claim_study(tiny(manifest), masses, tmp_path, joins=False)


def test_a_row_that_is_not_one_is_told(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "fold0-repeat0.csv").write_text("part,index\ntest,0\n")
    with pytest.raises(DataError, match=r"must hold a job's rows.*Fix: delete it"):
        read_scores(folder, 60, 1)


def test_parts_share_no_patient_and_draws_are_nested(manifest):
    masses = read_manifest(manifest)
    patients = np.array(masses.patients)
    for fold in range(3):
        own, held_out, test = parts(masses, Job(Arm("a", "", holdout=True), fold, 1), 3)
        assert sorted([*own, *held_out, *test]) == list(range(60))
        assert not set(patients[own]) & set(patients[held_out])
        assert not set(patients[own]) & set(patients[test])
    small, large = (set(parts(masses, Job(Arm("a", "", n_train=n), 0, 0), 3)[0]) for n in (8, 20))
    assert small < large
    assert abs(len(small) - 8) <= 2
    assert {masses.labels[k] for k in small} == {0, 1}


def test_fewer_masses_are_seen_as_often_in_all(manifest, monkeypatch):
    seen = []

    def fit(cases, config, *_):
        seen.append((len(cases.labels), config.training.epochs))
        return lambda others: np.zeros(len(others.labels))

    monkeypatch.setitem(METHODS, "network", fit)
    base = Config.from_preset("diagnet", {"roi": {"size": 32}, "training": {"epochs": 7}})
    for n in (None, 10):
        run_job(Job(Arm("a", "", n_train=n, as_many_images=True), 0, 0), (manifest,), base, 3)
    assert seen[0] == (40, 7)
    assert seen[1][0] < 15
    assert seen[1][1] == round(7 * 40 / seen[1][0])


def test_tables_are_rebuilt_from_the_rows(study, manifest):
    figures, minus = write_tables(study, read_manifest(manifest))
    assert [row["arm"] for row in figures] == ["plain", "diagnet"]
    assert [(row["arm"], row["against"]) for row in minus] == [("diagnet", "plain")]
    header, *lines = (study / "arms.csv").read_text().splitlines()
    assert header.startswith("arm,jobs,of,auc,auc_low,auc_high")
    assert len(lines) == 2
    assert minus == compare_arms([study / "plain", study / "diagnet"], read_manifest(manifest))
    written = study.parent / "compared.csv"
    arms = [str(study / name) for name in ("plain", "diagnet")]
    done = CliRunner().invoke(app, ["study", "compare", *arms, "--data", str(manifest), "--out", str(written)])
    assert done.exit_code == 0, done.output
    assert written.read_text() == (study / "differences.csv").read_text()


def test_the_studies_of_the_issue_are_there():
    base = Config.from_preset("diagnet")
    assert set(STUDIES) == {
        *("neighbors", "lambda", "ablation", "comparators", "table1", "curve"),
        *("robustness", "calibration", "shortcuts"),
    }
    for arms in STUDIES.values():
        assert len({arm.name for arm in arms}) == len(arms)
        for arm in arms:
            arm.config(base)
    assert len(STUDIES["neighbors"]) == 35
    assert all(arm.holdout for name in ("neighbors", "lambda") for arm in STUDIES[name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a.training]\nno_such = 1", "`training.no_such` must be an existing setting"),
        ("['../a'.training]\nepochs = 1", "an arm's name must be"),
        ("[a]\nmethod = 'magic'", "`method` must be valid: .* arm `a`"),
        ("[a]\nmethod = 'warm-start'", "`unlabelled` must be given for a warm start"),
        ("[a]\nunlabelled = 'more.csv'", "and for nothing else"),
        ("[a]\nhide_labels = true\nn_train = 20", "`hide_labels` must go with `n_train`, `known_weight`"),
        ("a = 1", "`a` must be a table"),
        ("", "must hold at least one arm"),
        ("[a", "must be a readable TOML file"),
    ],
)
def test_arms_that_cannot_be_are_refused(tmp_path, text, message):
    (tmp_path / "arms.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_arms(tmp_path / "arms.toml", Config())


def test_bad_options():
    with pytest.raises(SettingsError, match="`--shard` must be i/n"):
        parse_shard("2/2")
    with pytest.raises(SettingsError, match="`--only` must name arms"):
        chosen_arms(ARMS, "plain,nobody")
    assert [duration(s) for s in (40.0, 720.0, 11_100.0)] == ["40 s", "12 min", "3 h 05 min"]
