import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone

from diagnet.config import Config, merged, read_config, read_run_config
from diagnet.data.manifest import read_manifest
from diagnet.errors import RunFolderError, SettingsError
from diagnet.estimators import AdversarialAugmenter, DiagNetClassifier
from diagnet.graph import GraphSettings
from diagnet.inference.predictor import shipped_run
from diagnet.neighbors import NeighborSettings
from diagnet.renamed import NEW_NAMES
from diagnet.run.folder import claim, write_record
from diagnet.study.arms import read_arms
from diagnet.study.running import Study, claim_study
from diagnet.study.search import read_space

NOW = r"`{}` is now `{}`; the old name works until the next version"


def one_warning(read, old, new):
    """What `read` returns, after it has warned once and of this."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        value = read()
    assert [(str(each.message), each.category) for each in found] == [(NOW.format(old, new), FutureWarning)]
    return value


def with_old_names(text):
    for old, new in NEW_NAMES.items():
        if len(new) == 1:
            text = text.replace(new[0], old)
    return text


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_an_old_name_works_and_warns_once(tmp_path, sign):
    old, new = f"{sign}_share", f"{sign}_ratio"
    expected = Config.from_preset("small", {"neighbors": {new: 0.5}})
    path = tmp_path / "c.toml"
    path.write_text(f"[neighbors]\n{old} = 0.5\n")
    doors = [
        lambda: read_config(path),
        lambda: read_config(path, None, ["seed=0"]),
        lambda: read_config(None, None, [f"neighbors.{old}=0.3", f"neighbors.{old}=0.5"]),
        lambda: Config.from_preset("small", {"neighbors": {old: 0.5}}),
        lambda: Config(neighbors={old: 0.5}),
    ]
    assert [one_warning(door, old, new) for door in doors] == [expected] * 5
    assert getattr(one_warning(lambda: NeighborSettings(**{old: 0.5}), old, new), new) == 0.5


def test_one_name_of_two_settings_works_and_warns_once():
    news = "skip_same_patient` and `skip_own_neighbors"
    for text, expected in (("true", True), ("false", False)):
        door = [f"graph.skip_relatives={text}"]
        graph = one_warning(lambda door=door: read_config(None, None, door), "skip_relatives", news).graph
        assert (graph.skip_same_patient, graph.skip_own_neighbors) == (expected, expected)


@pytest.mark.parametrize(
    "give",
    [
        lambda: read_config(None, None, ["neighbors.positive_share=1", "neighbors.positive_ratio=1"]),
        lambda: Config.from_preset("small", {"neighbors": {"positive_ratio": 1, "positive_share": 1}}),
        lambda: NeighborSettings(positive_share=1, positive_ratio=1),
    ],
)
def test_both_names_at_once_are_one_error(give):
    with pytest.raises(SettingsError, match=r"^`positive_ratio` must be given by one name, got its old name `positive"):
        give()
    with pytest.raises(SettingsError, match="`skip_own_neighbors` must be given by one name"):
        GraphSettings(skip_relatives=True, skip_own_neighbors=True)


def test_a_new_name_is_laid_over_an_old_one_of_another_place(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[neighbors]\npositive_share = 0.5\n")
    with pytest.warns(FutureWarning, match="positive_ratio"):
        config = read_config(path, None, ["neighbors.positive_ratio=0.7"])
    assert config.neighbors.positive_ratio == 0.7
    assert merged({"graph": {"skip_relatives": True}}, {"graph": {"skip_own_neighbors": False}})["graph"] == {
        "skip_same_patient": True,
        "skip_own_neighbors": False,
    }


def test_what_an_earlier_version_wrote_is_read_without_a_warning(tmp_path):
    config = Config.from_preset("small", {"neighbors": {"positive_ratio": 0.5}})
    old = with_old_names(config.to_toml())
    assert "positive_share = 0.5" in old
    (tmp_path / "config.toml").write_text(old)
    assert read_run_config(tmp_path) == config
    assert Config.stored(json.loads(with_old_names(json.dumps(config.model_dump(mode="json"))))) == config
    stored = Config.from_preset("small").model_dump(mode="json")
    stored["graph"] = {"space": "embedding", "skip_relatives": True}
    assert Config.stored(stored) == Config.from_preset("small")


def test_a_run_with_old_names_is_read_without_a_warning(tmp_path):
    old = with_old_names((shipped_run() / "config.toml").read_text())
    assert "positive_share" in old
    (tmp_path / "config.toml").write_text(old)
    assert read_run_config(tmp_path).neighbors.positive_ratio == 0


def test_an_unfinished_run_with_old_names_goes_on(tmp_path):
    config = Config.from_preset("small")
    write_record(tmp_path, {"status": "running", "binding": {"settings": with_old_names(config.to_toml())}})
    claim(tmp_path, {"settings": config.to_toml()}, resume=True)
    other = Config.from_preset("small", {"neighbors": {"positive_ratio": 0.5}})
    with pytest.raises(RunFolderError, match=r"got other settings: neighbors.positive_ratio 0.0, now 0.5$"):
        claim(tmp_path, {"settings": other.to_toml()}, resume=True)


def test_a_study_with_old_names_is_joined_and_its_own_arms_warn_once(manifest, tmp_path):
    base = Config.from_preset("small")
    path = tmp_path / "arms.toml"
    path.write_text("[few.neighbors]\npositive_share = 0.2\n")
    arms = one_warning(lambda: read_arms(path, base), "positive_share", "positive_ratio")
    assert arms[0].config(base).neighbors.positive_ratio == 0.2
    path.write_text('["neighbors.positive_share"]\nlow = 0.0\nhigh = 1.0\n')
    space = one_warning(lambda: read_space(path), "neighbors.positive_share", "neighbors.positive_ratio")
    assert list(space) == ["neighbors.positive_ratio"]

    study, masses, out = Study("s", arms, (manifest,), base, 2, 1), read_manifest(manifest), tmp_path / "study"
    claim_study(study, masses, out, joins=False)
    record = out / "study.json"
    record.write_text(with_old_names(record.read_text()))
    claim_study(study, masses, out, joins=True)
    with pytest.raises(RunFolderError, match="`few` must keep the settings it has"):
        claim_study(
            replace(study, arms=(replace(arms[0], changes={"neighbors": {"positive_ratio": 0.3}}),)),
            masses,
            out,
            joins=True,
        )


@pytest.mark.parametrize("kind", [AdversarialAugmenter, DiagNetClassifier])
def test_arguments_of_estimators_have_old_names_too(kind):
    X, y = np.random.default_rng(0).random((12, 16, 16)), np.repeat([0, 1], 6)
    small = {"budget": 2, "random_state": 0} | ({"epochs": 1} if kind is DiagNetClassifier else {})

    def fitted(**given):
        made = clone(kind(**small, **given))
        return made.fit_resample(X, y)[0] if kind is AdversarialAugmenter else made.fit(X, y).predict_proba(X)

    by_old = one_warning(lambda: fitted(positive_share=0.4), "positive_share", "positive_ratio")
    assert np.array_equal(by_old, fitted(positive_ratio=0.4))
    with pytest.raises(ValueError, match=r"^`positive_ratio` must be given by one name, got its old name `positive_s"):
        fitted(positive_share=0.4, positive_ratio=0.4)
