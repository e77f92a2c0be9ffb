import re
import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.atomic import write_text
from diagnet.config import Config, read_config, without_effect
from diagnet.errors import DataError, SettingsError


def test_presets():
    small, paper = Config.from_preset(), Config.from_preset("Paper")
    assert small.network.preset == "small"
    assert small.roi.size == 64
    assert paper.network.widths == (128, 256, 728)
    assert paper.roi.size == 224
    assert paper.training.graph_weight == 1.0
    assert paper.neighbors.search_space == "pixel"


def test_small_is_plain_and_diagnet_is_the_method_in_as_many_steps():
    small, method = Config(), Config.from_preset("diagnet")
    assert (small.neighbors.positive_ratio, small.neighbors.negative_ratio, small.training.graph_weight) == (0, 0, 0)
    assert method.neighbors.positive_ratio > 0
    assert method.training.graph_weight > 0
    assert small.training.epochs == method.training.epochs * (1 + method.neighbors.positive_ratio)
    changes = {"epochs": small.training.epochs, "graph_weight": 0.0}
    assert method.training.model_copy(update=changes) == small.training
    assert (method.network, method.roi, method.graph) == (small.network, small.roi, small.graph)


def test_toml_round_trip(tmp_path):
    config = Config.from_preset("paper", {"seed": 3, "training": {"epochs": 7}, "network": {"widths": [8, 16]}})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert read_config(path) == config


@settings(deadline=None)  # it writes files
@given(st.lists(st.text(), min_size=2, max_size=4, unique=True), st.text())
@example(["\x7f\x00\x1f", '"\\\\ud83d\\ude00\x85\u2028\r\n\U0001f600\U0010ffff\ufffe'], "sqlite:///Runs/ß.db")
def test_any_text_reads_back_equal(tmp_path_factory, classes, uri):
    config = Config.from_preset("small", {"classes": classes, "tracking": {"mlflow": uri}})
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    write_text(path, config.to_toml())
    assert read_config(path) == config
    assert tomllib.loads(config.to_toml())["classes"] == classes
    assert config.tracking.mlflow == uri
    assert config.to_toml().isascii()


def test_words_come_in_any_case_and_free_text_is_kept():
    config = read_config(None, None, ["tracking.mlflow=http://Host/A", "graph.space=IMAGE", "training.rotation=0"])
    assert (config.tracking.mlflow, config.graph.space) == ("http://Host/A", "image")


def test_infinity_is_written_as_toml_has_it():
    toml = Config.from_preset("small", {"training": {"learning_rate": float("inf")}}).to_toml()
    assert "learning_rate = inf\n" in toml


@pytest.mark.parametrize("changes", [{"classes": ["a", "\ud83d"]}, {"tracking": {"mlflow": "\udcff"}}])
def test_half_of_a_surrogate_pair_is_told(changes):
    with pytest.raises(DataError, match=r"`text` must be text that UTF-8 can hold, got .* U\+D[8C]..* Fix: ") as told:
        Config.from_preset("small", changes).to_toml()
    assert str(told.value).encode()


def test_what_changes_nothing_is_named():
    given = ["neighbors.budget=9", "neighbors.positive_share=0", "graph.n_repelling=2", "training.epochs=2"]
    small, method = Config(), Config.from_preset("diagnet", {"neighbors": {"positive_ratio": 0}})
    ratios = "`neighbors.budget` changes nothing where `neighbors.positive_ratio` and `neighbors.negative_ratio` are 0"
    assert without_effect(small, given) == [
        ratios,
        "`graph.n_repelling` changes nothing where `training.graph_weight` is 0",
    ]
    assert without_effect(method, given) == [ratios]
    assert without_effect(read_config(preset="diagnet"), given[:1]) == []


def test_assignments_win_over_the_file_and_the_seed_over_all(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('preset = "paper"\nseed = 1\n[training]\nepochs = 5\nbatch_size = 8\n')
    config = read_config(path, None, ["training.epochs=9", "neighbors.search_space=SUBSPACE", "seed=2"], seed=4)
    assert config.preset == "paper"
    assert (config.training.epochs, config.training.batch_size, config.seed) == (9, 8, 4)
    assert config.neighbors.search_space == "subspace"


def test_the_network_gets_as_many_outputs_as_there_are_classes():
    config = Config.from_preset("small", {"classes": ["benign", "malignant", "normal"]})
    assert config.network.n_classes == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("training.epochs=0", r"`training.epochs` must be valid: input should be greater .* 1, got 0"),
        ("training.lr=1", r"`training.lr` must be an existing setting"),
        ("training", r"`--set` must be section.key=value"),
        ("roi.size=big", r"`roi.size` must be valid"),
        ("seed.x=1", r"`seed` must be valid"),
        ("classes=['a','a']", r"class names must differ"),
    ],
)
def test_a_bad_setting_is_told_in_one_line(assignment, message):
    with pytest.raises(SettingsError, match=message) as raised:
        read_config(None, None, [assignment])
    assert "\n" not in str(raised.value)


def test_a_bad_file_is_told(tmp_path):
    with pytest.raises(SettingsError, match="must be a readable TOML file"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[")
    with pytest.raises(SettingsError, match="must be a readable TOML file"):
        read_config(tmp_path / "bad.toml")
    with pytest.raises(SettingsError, match="`preset` must be one of small, diagnet, lite0, best, paper, got 'large'"):
        read_config(None, "large")


@pytest.mark.parametrize(
    ("typed", "fix"),
    [
        ("training.epoch=1", "did you mean `training.epochs`?"),
        ("traning.epochs=1", "did you mean `training`?"),
        ("sede=1", "did you mean `seed`?"),
        ("nothing_like_it=1", "`diagnet settings` lists them"),
    ],
)
def test_a_setting_that_is_nearly_one_is_named(typed, fix):
    with pytest.raises(
        SettingsError, match=rf"must be an existing setting, got an unknown name\. Fix: {re.escape(fix)}"
    ):
        read_config(None, None, [typed])


def test_a_setting_that_is_none_any_more_is_read_with_the_value_it_always_had():
    old = ["neighbors.reach_factor=3", "training.head_penalty=1000.0", "evaluation.confidence=0.95"]
    assert read_config(None, None, old) == Config()
    for other in ("neighbors.reach_factor=2", "evaluation.confidence=0.9"):
        with pytest.raises(SettingsError, match="must be an existing setting, got an unknown name"):
            read_config(None, None, [other])


@pytest.mark.parametrize("preset", ["small", "lite0", "best", "paper"])
def test_a_config_is_the_preset_it_names(preset):
    assert Config(preset=preset) == Config.from_preset(preset)
    assert Config(preset=preset, training={"epochs": 3}) == Config.from_preset(preset, {"training": {"epochs": 3}})
    assert Config() == Config.from_preset()
