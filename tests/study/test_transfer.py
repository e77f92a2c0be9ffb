import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_running import SETTINGS
from tiny import TINY, tiny
from typer.testing import CliRunner

from diagnet.cli import app
from diagnet.config import Config
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.data.sources import read_sources
from diagnet.errors import DataError, RunFolderError, SettingsError
from diagnet.run.folder import read_json, read_records, write_table
from diagnet.study.arms import PLAIN, STUDIES, Arm
from diagnet.study.jobs import Job, parts, run_job
from diagnet.study.methods import METHODS
from diagnet.study.results.transfer import MARGINS, pairs_on_sources, parse_tests, transfer_arms
from diagnet.study.running import claim_study

BASE = Config.from_preset("diagnet")


def table(folder, name, patients, seed, box=(10, 10, 38, 38)):
    """A manifest of a mass for each patient, on images of its own."""
    images, labels = make_masses(len(patients), rng=np.random.default_rng(seed), settings=PhantomSettings(size=48))
    rows = ["image,patient_id,label,x0,y0,x1,y1"]
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray((image * 255).astype(np.uint8)).save(folder / f"{name}-{k}.png")
        x0, y0, x1, y1 = box
        rows.append(f"{name}-{k}.png,{patients[k]},{('benign', 'malignant')[label]},{x0},{y0},{x1},{y1}")
    path = folder / f"{name}.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Crops and mammograms that share ten patients, and masses of others."""
    folder = tmp_path_factory.mktemp("sources")
    crops = table(folder, "crops", [f"P{k}" for k in range(24)], 1)
    mammograms = table(folder, "mammograms", [f"P{k}" for k in range(14, 38)], 2)
    return crops, mammograms, table(folder, "films", [f"F{k}" for k in range(12)], 3)


def on(tables):
    return read_sources(tables[:2], ("benign", "malignant"), Config.from_preset("diagnet", TINY).roi)


@pytest.fixture(scope="module")
def done(tables, tmp_path_factory):
    """A finished study: two sources, a further table, four arms, two folds."""
    out = tmp_path_factory.mktemp("transfer") / "study"
    arms = "crops-plain-region,crops-plain-image,both-plain-region,both-diagnet-region"
    command = ["study", "transfer", *map(str, tables[:2]), "--out", str(out), "--test", f"films={tables[2]}"]
    command += ["--only", arms, "--folds", "2", "--workers", "1", "--json", "--quiet", *SETTINGS]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout.splitlines()[-1])


def test_a_study_begins_from_the_preset_diagnet(done):
    assert read_json(done[0] / "study.json")["settings"]["preset"] == "diagnet"


def test_arms_are_compared_on_one_source_and_with_one_margin(done, tables):
    out, found = done
    arms = [str(out / name) for name in ("crops-plain-region", "crops-plain-image")]
    command = ["study", "compare", *arms, "--data", str(tables[0]), "--data", str(tables[1]), "--json"]

    def compared(*more):
        result = CliRunner().invoke(app, [*command, *more])
        return json.loads(result.stdout)["differences"] if result.exit_code == 0 else str(result.exception)

    for source in ("crops", "mammograms"):
        for margin in (1.1, 2.2):
            (row,) = compared("--tested-on", source, "--margin", str(margin))
            (same,) = [
                each
                for each in found["transfer_differences"]
                if (each["tested_on"], each["margin"], each["arm"]) == (source, margin, "crops-plain-region")
            ]
            assert row["auc"]["value"] == pytest.approx(-same["auc"]["value"], abs=1e-9)
    assert compared("--margin", "1.6") == compared()
    assert "`--tested-on` must be one of crops, mammograms, got 'films'" in compared("--tested-on", "films")
    assert "must have been scored with boxes x 3, got no such rows" in compared("--margin", "3")


def fit_nothing(seen):
    def fit(cases, *_):
        seen.append(cases)
        return lambda others: others.images.mean(axis=(1, 2)).astype(np.float64)

    return fit


def test_no_patient_is_on_both_sides(tables):
    masses = on(tables)
    patients = np.array(masses.patients)
    assert len(set(patients)) == 38
    for fold in range(3):
        for sources in (None, ("crops",), ("mammograms",)):
            own, held_out, test = parts(masses, Job(Arm("a", "", sources=sources, holdout=True), fold, 0), 3)
            assert not set(patients[own]) & set(patients[test])
            assert not set(patients[held_out]) & set(patients[test])
            assert {masses.masses[k].source for k in test} == {"crops", "mammograms"}


def test_an_arm_of_one_source_never_sees_the_others(tables, monkeypatch):
    seen = []
    monkeypatch.setitem(METHODS, "network", fit_nothing(seen))
    for fold in range(2):
        run_job(Job(Arm("a", "", sources=("crops",), margins=(1.0,)), fold, 0), tables[:2], tiny_base(), 2)
    assert {mass.source for cases in seen for mass in cases.masses} == {"crops"}
    assert all(len(cases.images) == len(cases.masses) for cases in seen)
    with pytest.raises(SettingsError, match="`sources` must name sources of the study, crops, mammograms, got none"):
        run_job(Job(Arm("a", "", sources=("none",)), 0, 0), tables[:2], tiny_base(), 2)


def test_hidden_labels_are_of_training_patients_and_stay_hidden(tables, monkeypatch):
    seen, masses = [], on(tables)
    monkeypatch.setitem(METHODS, "network", fit_nothing(seen))
    arms = [Arm("a", "", n_train=12), Arm("b", "", n_train=12, hide_labels=True)]
    for arm in arms:
        run_job(Job(arm, 0, 1), tables[:2], tiny_base(), 2)
    few, hidden = seen
    assert few.unlabelled is None
    assert few.masses == hidden.masses  # the same ones have labels
    assert {mass.label for mass in hidden.unlabelled.masses} == {None}
    assert set(hidden.unlabelled.labels) == {-1}
    test = parts(masses, Job(arms[0], 0, 1), 2)[2]
    others = {mass.patient_id for mass in hidden.unlabelled.masses}
    assert not others & {masses.masses[k].patient_id for k in test}
    assert len(hidden.masses) + len(hidden.unlabelled.masses) + len(test) == len(masses.masses)


def tiny_base():
    return Config.from_preset("diagnet", TINY)


def test_margins_cut_other_regions_of_the_test_masses_alone(tables, monkeypatch):
    seen = []
    monkeypatch.setitem(METHODS, "network", fit_nothing(seen))
    tests = (("films", tables[2]),)
    rows = run_job(Job(Arm("a", "", margins=MARGINS), 0, 0), tables[:2], tiny_base(), 2, tests=tests)
    assert len(seen) == 1  # training is as it was
    names = np.array(rows.parts)
    expected = ["test", *(f"{name}@x{margin:g}" for margin in MARGINS for name in ("test", "films"))]
    assert list(dict.fromkeys(rows.parts)) == expected
    by_margin = [rows.scores[names == f"test@x{margin:g}"] for margin in MARGINS]
    assert by_margin[2] == pytest.approx(rows.scores[names == "test"])  # 1.6 is what all are cut with
    for one, other in ((0, 1), (1, 2), (2, 3)):
        assert np.abs(by_margin[one] - by_margin[other]).max() > 1e-3
    assert rows.index[names == "films@x1"].tolist() == list(range(12))


def test_the_table_has_the_figures_of_the_rows(tables, done):
    out, told = done
    records = {(row["arm"], row["tested_on"], row["margin"]): row for row in read_records(out / "transfer.csv")}
    assert len(records) == 4 * 3 * 4 == len(told["transfer"])
    masses = on(tables)
    jobs = [read_records(out / "both-plain-region" / f"fold{fold}-repeat0.csv") for fold in range(2)]
    for source in ("crops", "mammograms"):
        areas = []
        for rows in jobs:
            own = [(int(row["index"]), float(row["score"])) for row in rows if row["part"] == "test@x1.1"]
            own = [(k, score) for k, score in own if masses.masses[k].source == source]
            areas.append(roc_auc_score(masses.labels[[k for k, _ in own]], [score for _, score in own]))
        assert float(records["both-plain-region", source, "1.1"]["auc"]) == pytest.approx(np.mean(areas), abs=1e-4)
    films = read_sources(tables[2:], masses.classes, tiny_base().roi)
    areas = [
        roc_auc_score(films.labels, [float(row["score"]) for row in rows if row["part"] == "films@x2.2"])
        for rows in jobs
    ]
    row = records["both-plain-region", "films", "2.2"]
    assert float(row["auc"]) == pytest.approx(np.mean(areas), abs=1e-4)
    assert (row["jobs"], row["of"], row["masses"]) == ("2", "2", "12")
    assert float(row["auc_low"]) <= float(row["auc"]) <= float(row["auc_high"])
    minus = {(row["arm"], row["against"]) for row in told["transfer_differences"]}
    assert minus == {("crops-plain-region", "crops-plain-image"), ("both-diagnet-region", "both-plain-region")}
    assert len(told["transfer_differences"]) == 2 * 3 * 4
    assert (out / "transfer.svg").exists()


def test_tables_are_rebuilt_from_rows_alone(tables, done, tmp_path):
    out, _ = done
    copy = tmp_path / "copy"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("*.svg", "transfer*.csv", "arms.csv", ".locks"))
    command = ["study", "tables", str(copy), "--data", str(tables[0]), "--data", str(tables[1])]
    again = CliRunner().invoke(app, [*command, "--test", f"films={tables[2]}"])
    assert again.exit_code == 0, again.output
    for name in ("transfer.csv", "transfer_differences.csv", "transfer.svg", "arms.csv"):
        assert (copy / name).read_bytes() == (out / name).read_bytes()
    swapped = ["study", "tables", str(copy), "--data", str(tables[1]), "--data", str(tables[0])]
    for wrong, message in ((command, "`--test` must give the study's further tables, films"), (swapped, "`--data`")):
        refused = CliRunner().invoke(app, wrong)
        assert isinstance(refused.exception, DataError)
        assert str(refused.exception).startswith(message)


def test_a_study_goes_on_with_the_same_sources_and_tests_only(tables, done):
    out, _ = done
    masses, films = on(tables), read_sources(tables[2:], ("benign", "malignant"), tiny_base().roi)
    base = Config.stored(read_json(out / "study.json")["settings"])
    study = tiny(tables[0], data=tables[:2], base=base, arms=transfer_arms(["crops", "mammograms"], base)[:1])
    before = (out / "study.json").read_bytes()
    with pytest.raises(RunFolderError, match="must keep the tests"):
        claim_study(study, masses, out, joins=True)
    assert (out / "study.json").read_bytes() == before
    claim_study(study, masses, out, joins=True, tests={"films": films})


def test_an_old_study_folder_goes_on_as_it_was(manifest, tmp_path):
    """One source without tests: its record has no new keys, and arms from before `sources` and `margins` are known."""
    masses = read_sources([manifest], ("benign", "malignant"), tiny_base().roi)
    claim_study(tiny(manifest), masses, tmp_path / "old", joins=False)
    record = json.loads((tmp_path / "old" / "study.json").read_text())
    assert not {"sources", "tests", "distinct_patients"} & set(record)
    for arm in record["arms"].values():
        del arm["sources"], arm["margins"]
    (tmp_path / "old" / "study.json").write_text(json.dumps(record))
    claim_study(tiny(manifest), masses, tmp_path / "old", joins=True)


def test_further_tests_are_refused_on_shared_patients(tables, tmp_path):
    near = table(tmp_path, "near", ["P3", *(f"N{k}" for k in range(11))], 4)
    command = ["study", "transfer", *map(str, tables[:2]), "--out", str(tmp_path / "s"), "--folds", "2", *SETTINGS]
    refused = CliRunner().invoke(app, [*command, "--test", f"near={near}"])
    assert isinstance(refused.exception, DataError)
    assert "must hold no patient of the study, got 1 of them in near." in str(refused.exception)
    assert "P3" not in str(refused.exception)
    assert not (tmp_path / "s").exists()
    other = [*command, "--test", f"near={near}", "--distinct-patients", "--only", "both-plain-image", "--quiet"]
    assert CliRunner().invoke(app, other).exit_code == 0
    same = shutil.copy(tables[0], tables[0].with_name("same.csv"))
    refused = CliRunner().invoke(app, [*command, "--test", f"same={same}", "--distinct-patients"])
    assert isinstance(refused.exception, DataError)


@pytest.mark.parametrize("text", ["films", "films=", "=films.csv", "fi/lms=a.csv", "crops=a.csv", "test=a.csv"])
def test_a_test_must_have_a_name_of_its_own(text):
    with pytest.raises(SettingsError, match="`--test` must"):
        parse_tests([text], ["crops", "mammograms"])


def test_arms_are_made_from_the_names_of_sources():
    arms = {arm.name: arm for arm in transfer_arms(["crops", "mam mograms"], BASE)}
    assert len(arms) == 3 * (3 * 2 + 1)
    assert arms["mam-mograms-plain-region"].sources == ("mam mograms",)
    assert arms["both-diagnet-image"].sources is None
    assert {arm.margins for arm in arms.values()} == {MARGINS}
    assert "all-plain-image" in {arm.name for arm in transfer_arms(["a", "b", "c"], BASE)}
    assert "together-plain-image" in {arm.name for arm in transfer_arms(["both", "b"], BASE)}
    assert len(transfer_arms(["alone"], BASE)) == 7
    with pytest.raises(SettingsError, match="must have names that differ"):
        transfer_arms(["a b", "a-b"], BASE)
    assert "transfer" not in STUDIES
    changed = Config.from_preset("diagnet", {"neighbors": {"negative_ratio": 0.5}, "training": {"epochs": 10}})
    plain = next(arm.config(changed) for arm in transfer_arms(["a"], changed) if arm.name == "a-plain-region")
    assert plain.training.epochs == 25  # as many steps as 10 epochs with 1.5 neighbors a mass


def test_each_arm_is_compared_with_plain_of_its_own_sources():
    arms = [*transfer_arms(["a", "b"], BASE), Arm("more", "", {"network": {"widths": [8, 16]}}, sources=("a",))]
    record = {
        "settings": json.loads(BASE.model_dump_json().replace("_ratio", "_share")),  # old names
        "arms": {
            arm.name: {"changes": arm.changes, "method": arm.method, "sources": arm.sources and [*arm.sources]}
            for arm in arms
        },
    }
    trained_on, both = ("a", "b", "both"), ("region", "image")
    assert sorted(pairs_on_sources([arm.name for arm in arms], record)) == sorted(
        [
            *((f"{name}-{method}-region", f"{name}-{method}-image") for name in trained_on
              for method in ("plain", "diagnet", "frozen")),
            *((f"{name}-{method}-{grey}", f"{name}-plain-{grey}") for name in trained_on
              for method in ("diagnet", "frozen") for grey in both),
            *((f"{name}-lite0-region", f"{name}-plain-region") for name in trained_on),
            ("more", "a-plain-region"),
        ]
    )  # fmt: skip
    assert arms[0].config(Config()).training.graph_weight == PLAIN["training"]["graph_weight"]


def test_arms_of_ones_own_name_their_sources_and_margins(tables, tmp_path):
    text = """
        [narrow]
        sources = ["crops"]
        margins = [1.0, 1.3]
        {plain}
        [narrow-wider-net]
        sources = ["crops"]
        margins = [1.3]
        network = {{ widths = [4, 12] }}
        {plain}
        [narrow-few]
        sources = ["crops"]
        margins = [1.3]
        n_train = 8
        {plain}
    """
    plain = "neighbors = { positive_ratio = 0.0 }\ntraining = { graph_weight = 0.0 }"
    (tmp_path / "arms.toml").write_text(text.format(plain=plain))
    command = ["study", "transfer", *map(str, tables[:2]), "--arms", str(tmp_path / "arms.toml")]
    command += ["--out", str(tmp_path / "study"), "--folds", "2", "--workers", "1", "--json", "--quiet", *SETTINGS]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert {(row["arm"], row["tested_on"], row["margin"]) for row in found["transfer"] if row["jobs"] == 2} == {
        *(("narrow", source, margin) for source in ("crops", "mammograms") for margin in (1.0, 1.3)),
        *((arm, source, 1.3) for source in ("crops", "mammograms") for arm in ("narrow-wider-net", "narrow-few")),
    }
    # An arm on fewer masses is another question: it is not compared with plain on all.
    assert {(row["arm"], row["against"]) for row in found["transfer_differences"]} == {("narrow-wider-net", "narrow")}


def test_what_inner_folds_choose_is_an_arm_of_its_own(tables, tmp_path):
    text = """
        [one]
        margins = [1.3]
        holdout = true
        neighbors = { positive_ratio = 0.0 }
        training = { graph_weight = 0.0 }
        [other]
        margins = [1.3]
        holdout = true
        neighbors = { positive_ratio = 0.0 }
        training = { graph_weight = 0.0, epochs = 3 }
    """
    (tmp_path / "arms.toml").write_text(text)
    out = tmp_path / "study"
    command = ["study", "transfer", *map(str, tables[:2]), "--arms", str(tmp_path / "arms.toml")]
    command += ["--out", str(out), "--folds", "2", "--workers", "1", "--json", "--quiet", *SETTINGS]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    # Each fold chooses another arm: the scores of what an arm held out, and nothing else, are made right or wrong.
    masses = on(tables)
    for fold, best in enumerate(("one", "other")):
        for arm in ("one", "other"):
            path = out / arm / f"fold{fold}-repeat0.csv"
            rows = read_records(path)
            for row in rows:
                if row["part"] == "validation":
                    row["score"] = float(masses.labels[int(row["index"])] == (arm == best))
            write_table(path, list(rows[0]), [list(row.values()) for row in rows])
    rebuilt = CliRunner().invoke(app, ["study", "tables", str(out), "--data", str(tables[0]), "--data", str(tables[1])])
    assert rebuilt.exit_code == 0, rebuilt.output
    found = {(row["arm"], row["tested_on"]): row for row in read_records(out / "transfer.csv")}
    for source in ("crops", "mammograms"):
        areas = []
        for fold, best in enumerate(("one", "other")):
            own = [row for row in read_records(out / best / f"fold{fold}-repeat0.csv") if row["part"] == "test@x1.3"]
            own = [row for row in own if masses.masses[int(row["index"])].source == source]
            truth = masses.labels[[int(row["index"]) for row in own]]
            areas.append(roc_auc_score(truth, [float(row["score"]) for row in own]))
        assert float(found["(chosen)", source]["auc"]) == pytest.approx(np.mean(areas), abs=1e-4)
    minus = {(row["arm"], row["against"]) for row in read_records(out / "transfer_differences.csv")}
    assert {("(chosen)", "one"), ("(chosen)", "other")} <= minus


def test_arms_of_lite0_are_the_preset_whatever_the_base_is():
    base, expected = Config.from_preset("diagnet"), Config.from_preset("lite0")
    found = {arm.name: arm.config(base) for arm in transfer_arms(["a", "b"], base)}
    assert found["both-lite0-region"].model_copy(update={"preset": "lite0"}) == expected
    frozen = {"network": expected.network.model_copy(update={"trainable": "none"})}
    assert found["a-frozen-region"].model_copy(update={"preset": "lite0"}) == expected.model_copy(update=frozen)
