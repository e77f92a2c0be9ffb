import pytest

from diagnet.config import Config, read_config
from diagnet.errors import SettingsError


def test_presets():
    small, paper = Config.from_preset(), Config.from_preset("Paper")
    assert small.network.preset == "small"
    assert small.roi.size == 64
    assert paper.network.widths == (128, 256, 728)
    assert paper.roi.size == 224
    assert paper.training.graph_weight == 1.0
    assert paper.neighbors.search_space == "pixel"


def test_toml_round_trip(tmp_path):
    config = Config.from_preset("paper", {"seed": 3, "training": {"epochs": 7}, "network": {"widths": [8, 16]}})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert read_config(path) == config


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
    with pytest.raises(SettingsError, match="`preset` must be one of small, paper, got 'large'"):
        read_config(None, "large")
