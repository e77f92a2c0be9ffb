import shutil

import numpy as np
import pytest
from tiny import TINY, tiny

from diagnet.config import Config, merged
from diagnet.data.manifest import read_manifest
from diagnet.study.arms import NO_NEIGHBORS, PLAIN, STUDIES, Arm
from diagnet.study.jobs import Rows, parts
from diagnet.study.results.differences import differences
from diagnet.study.results.scores import Scores, truth_of
from diagnet.study.results.tables import write_tables
from diagnet.study.running import claim_study, write_rows


def test_a_perfect_arm_against_one_that_guesses(manifest):
    truth = truth_of(read_manifest(manifest), 3)
    rng = np.random.default_rng(0)
    good = Scores("good", np.tile(truth.targets.astype(float), (2, 1)) + 0.1 * rng.random((2, 60)), np.ones(6))
    bad = Scores("bad", rng.random((2, 60)), np.ones(6))
    better, same = differences([(good, bad), (bad, bad)], truth)
    assert better["auc"]["low"] > 0.2
    assert better["p_holm"] == 2 * better["p"] < 0.001  # finer than `N_RESAMPLES` can be
    assert better["delong_p"] < 1e-3
    assert better["of_mean_score"]["low"] > 0.2
    assert (same["auc"]["value"], same["p"], same["delong_p"]) == (0, pytest.approx(1, abs=0.1), None)


def test_an_arm_is_to_beat_plain_on_as_many_masses(manifest, tmp_path):
    arms = [
        Arm(name + more, name, changes, n_train=n)
        for more, n in (("", None), ("-20", 20))
        for name, changes in (("diagnet", {}), ("plain", PLAIN))
    ]
    arms.append(Arm("rival", "plain and another loss", PLAIN, "supcon"))
    found = against(tiny(manifest, arms=arms), tmp_path)
    assert found == {"diagnet": "plain", "rival": "plain", "diagnet-20": "plain-20"}


def test_a_cell_without_a_graph_is_plain_where_there_are_no_neighbors(manifest, tmp_path):
    cells = [arm for arm in STUDIES["neighbors"] if arm.name in ("n+0n-0", "n+0n-4", "n+1n-4")]
    base = Config.from_preset("diagnet", merged(TINY, NO_NEIGHBORS))
    found = against(tiny(manifest, arms=cells[::-1], base=base), tmp_path)
    assert found == {"n+1n-4": "n+0n-0", "n+0n-4": "n+0n-0"}


def test_where_no_arm_is_plain_one_of_other_epochs_is(manifest, tmp_path):
    longer = merged(PLAIN, {"training": {"epochs": 2}})
    arms = [Arm("diagnet", ""), Arm("plain-longer", "", longer), Arm("rival", "", longer, "supcon")]
    found = against(tiny(manifest, arms=arms), tmp_path)
    assert found == {"diagnet": "plain-longer", "rival": "plain-longer"}


def against(some, out, twins={}):  # noqa: B006 -- not changed
    """Whom each arm of a study is compared with; its rows are chance, or those of its twin."""
    mass_set = read_manifest(*some.data)
    claim_study(some, mass_set, out, joins=False)
    rng = np.random.default_rng(0)
    for job in some.jobs():
        _, held_out, test = parts(mass_set, job, some.folds)
        index = np.concatenate([test, held_out])
        names = ["test"] * len(test) + ["validation"] * len(held_out)
        write_rows(job.path(out), Rows(names, index, rng.random(len(index)), 1.0))
    for arm, twin in twins.items():
        for path in (out / twin).glob("*.csv"):
            shutil.copy(path, out / arm / path.name)
    return {row["arm"]: row["against"] for row in write_tables(out, mass_set)[1]}


def test_the_same_runs_under_two_names_are_one_difference(manifest, tmp_path):
    arms = [Arm("plain", "", PLAIN), Arm("diagnet", ""), Arm("again", "", {"training": {"graph_weight": 0.05}})]
    some = tiny(manifest, arms=arms)
    assert against(some, tmp_path / "apart") == {"diagnet": "plain", "again": "plain"}
    assert against(some, tmp_path / "same", twins={"again": "diagnet"}) == {"diagnet": "plain"}
