"""The paper's constants (Sec. 4), and that docs/paper.md leads to code and tests that exist."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import diagnet
from diagnet.config import Config
from diagnet.graph import GraphSettings
from diagnet.losses import SignedGraphLoss
from diagnet.neighbor_search import rules_for
from diagnet.neighbors import NeighborSettings
from diagnet.network import NetworkSettings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text()


def test_constants_of_the_search():
    settings = NeighborSettings()
    assert settings.budget == 200  # T
    assert settings.spacing_weight == 1e-2  # gamma
    assert rules_for(-1, 0.1, settings).reach == pytest.approx(0.3)  # r3 = 3 rho
    assert (settings.positive_ratio, settings.negative_ratio) == (0.2, 0.2)  # 20 % + 20 %


def test_constants_of_the_graph_and_its_loss():
    assert (GraphSettings().n_attracting, GraphSettings().n_repelling) == (1, 4)  # n+, n-
    assert SignedGraphLoss().margin == 1  # m
    assert Config.from_preset("paper").training.graph_weight == 1  # lambda


def test_constants_of_the_network():
    paper = NetworkSettings.model_validate({"preset": "paper"})
    assert paper.widths == (128, 256, 728)
    assert paper.n_middle == 7
    assert paper.n_hidden == 1024
    assert paper.dropout == 0.5
    assert Config().training.weight_decay == 1e-4


def test_constants_of_the_data():
    config = Config.from_preset("paper")
    assert config.roi.padding_factor == 1.6
    assert config.roi.size == 224
    assert config.split.test_share == 0.2
    assert len(config.classes) == 2  # C


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(diagnet\.[a-z_.]+\.[A-Za-z_]+)`", PAGE))))
def test_code_links_import(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(tests/[a-z_/.]+)`", PAGE))))
def test_test_links_exist(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize(("equation", "names"), re.findall(r"^\| (Eqs?\. [^|]*?) \| (.*?) \|", PAGE, re.MULTILINE))
def test_code_links_lead_to_the_line_that_computes_an_equation(equation, names):
    """Each number stands in a comment on the line."""
    numbers = [int(number) for number in re.findall(r"\d", equation.partition(",")[0])]
    modules = [name.rpartition(".")[0] for name in re.findall(r"`(diagnet\.[a-zA-Z_.]+)`", names)]
    sources = [inspect.getsource(importlib.import_module(module)) for module in modules]
    for number in numbers:
        assert any(re.search(rf"#.*Eq\. {number}\b", source) for source in sources), number


def test_settings_that_readings_name_exist():
    for section, key in re.findall(r"`([a-z]+)\.([a-z_]+)`", PAGE.split("## Readings")[1]):
        assert key in type(getattr(Config(), section)).model_fields, f"{section}.{key}"


def test_public_names():
    for name in diagnet.__all__:
        assert getattr(diagnet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = diagnet.nothing
