import csv

import pytest
from tiny import TINY

from diagnet.config import Config
from diagnet.data.manifest import read_manifest
from diagnet.errors import SettingsError
from diagnet.study.results.tables import write_tables
from diagnet.study.running import Study, claim_study
from diagnet.study.search import SPACE, Range, read_space, search

pytest.importorskip("optuna", reason="the extra hpo is not installed")

NARROW = {"training.learning_rate": Range(low=1e-3, high=1e-2, log=True), "graph.n_attracting": Range(low=0, high=2)}


def test_each_fold_has_a_search_of_its_own_that_goes_on(manifest, tmp_path):
    masses, out = read_manifest(manifest), tmp_path / "s"
    study = Study("search", (), (manifest,), Config.from_preset("diagnet", TINY), folds=2, repeats=1)
    claim_study(study, masses, out, joins=False)
    search(study, masses, out, NARROW, 1, workers=1)
    search(study, masses, out, NARROW, 2, workers=1)
    assert {path.name for path in out.glob("fold*")} == {f"fold{f}-trial{t}" for f in (0, 1) for t in (0, 1)}
    assert all(path.parent.name.startswith(path.name[:5]) for path in out.glob("*/fold*-repeat0.csv"))
    before = sorted(out.glob("*/*.csv"))
    search(study, masses, out, NARROW, 2, workers=1)
    assert sorted(out.glob("*/*.csv")) == before
    write_tables(out, masses)
    with (out / "choice.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["chosen"][:5] for line in lines] == ["fold0", "fold1", ""]
    again = tmp_path / "t"
    claim_study(study, masses, again, joins=False)
    search(study, masses, again, NARROW, 2, workers=1)
    scores = [[line.rpartition(",")[0] for line in path.read_text().splitlines()] for path in before]
    assert [
        [line.rpartition(",")[0] for line in (again / p.relative_to(out)).read_text().splitlines()] for p in before
    ] == scores


def test_what_may_be_searched_exists():
    import optuna

    from diagnet.study.arms import Arm
    from diagnet.study.search import _nested

    trial = optuna.trial.FixedTrial({name: each.low for name, each in SPACE.items()})
    drawn = {name: each.draw(trial, name) for name, each in SPACE.items()}
    assert Arm("a", "", _nested(drawn)).config(Config()).training.margin == pytest.approx(0.1)
    assert isinstance(drawn["graph.n_attracting"], int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold at least one setting"),
        ('["training.margin"]\nlow = 1.0\n', "`training.margin` must be a range in"),
        ('["training.margin"]\nlow = 1.0\nhigh = 0.5\n', "`training.margin` must be a range in"),
        ('["training.margin"]\nwrong = 1.0\n', "`training.margin` must be a range in"),
    ],
)
def test_what_is_no_space_is_refused(text, message, tmp_path):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_space(tmp_path / "space.toml")


def test_a_space_is_read_and_unknown_settings_are_told(manifest, tmp_path):
    (tmp_path / "space.toml").write_text('["training.no_such"]\nchoices = [1, 2]\n')
    space = read_space(tmp_path / "space.toml")
    assert space == {"training.no_such": Range(choices=(1, 2))}
    study = Study("search", (), (manifest,), Config.from_preset("diagnet", TINY), folds=2, repeats=1)
    with pytest.raises(SettingsError, match=r"training.no_such"):
        search(study, read_manifest(manifest), tmp_path, space, 1, workers=1)
