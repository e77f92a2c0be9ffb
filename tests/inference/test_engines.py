from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from diagnet.data.preprocessing import Preprocessing
from diagnet.data.roi import RoiSettings
from diagnet.errors import MissingExtraError
from diagnet.evaluation.calibration import probabilities
from diagnet.inference import engines
from diagnet.inference.engines import folded, make_engine, resolve_engine
from diagnet.inference.model import Model
from diagnet.network import NetworkSettings, create_network
from diagnet.training.scoring import embeddings_and_logits

TINY = NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=1, n_hidden=8)


def make_network(seed, settings=TINY):
    """A network whose scores differ from image to image, with norms that have statistics of their own."""
    torch.manual_seed(seed)
    network = create_network(settings).eval()
    network.intensity = torch.tensor([0.4, 0.2])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return network


@pytest.fixture(scope="module")
def networks():
    return make_network(0), make_network(1)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.random((37, 16, 16), dtype=np.float32) * rng.random((37, 1, 1), dtype=np.float32)


def installed(*names):
    """`find_spec` of a machine with these packages alone."""
    return lambda name: name if name in names else None


def test_folding_leaves_no_norm_and_the_same_logits(networks, images):
    for network in (networks[0], make_network(2, NetworkSettings())):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        fast = folded(network)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
        np.testing.assert_allclose(
            embeddings_and_logits(fast, images)[1], embeddings_and_logits(network, images)[1], rtol=1e-5, atol=1e-5
        )
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["torch-bfloat16", "openvino-bfloat16"])
def test_bfloat16_by_name_changes_scores_a_little(images, name):
    if name.startswith("openvino") and any(find_spec(each) is None for each in ("openvino", "onnx", "onnxscript")):
        pytest.skip("the extra is missing: OpenVINO was not tested. Fix: pip install 'diagnet-mammography[openvino]'")
    wide = (make_network(3, NetworkSettings(stem_widths=(16, 16), widths=(16, 32), n_middle=1, n_hidden=16)),)
    exact, rough = (
        Model(
            wide, (4.0,), 0.5, ("benign", "malignant"), Preprocessing(roi=RoiSettings(size=16)), engine
        ).probabilities(images[:8])
        for engine in ("torch", resolve_engine(name, wide))
    )
    assert 0 < np.abs(exact - rough).max() < 0.05


@pytest.mark.parametrize("average_flips", [False, True])
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_every_engine_scores_as_the_eager_networks_do(images, name, average_flips):
    if any(find_spec(package) is None for package in (name, "onnx", "onnxscript")):
        pytest.skip(
            f"the extra is missing: {name} was not tested. Fix: pip install 'diagnet-mammography[onnx,openvino]'"
        )
    settings = TINY.model_copy(update={"average_flips": average_flips})
    networks = make_network(0, settings), make_network(1, settings)
    model = Model(networks, (0.5, 2.0), 0.5, ("benign", "malignant"), Preprocessing(roi=RoiSettings(size=16)), name)
    for calibrated, temperatures in ((True, (0.5, 2.0)), (False, (1.0, 1.0))):
        expected = np.mean(
            [
                probabilities(embeddings_and_logits(network, images)[1].astype(np.float64), temperature)
                for network, temperature in zip(networks, temperatures, strict=True)
            ],
            axis=0,
        )
        found = model.probabilities(images, calibrated=calibrated)
        assert expected[:, 1].std() > 0.02
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_array_equal(model.probabilities(images, calibrated=calibrated), found)
        flipped = model.probabilities(np.ascontiguousarray(images[:, :, ::-1]), calibrated=calibrated)
        assert np.allclose(flipped, found, atol=1e-5) == average_flips
    assert model.probabilities(images[:0]).shape == (0, 2)
    with pytest.raises(ValueError, match="`images` must be 16 x 16 pixels, got 16 x 12"):
        model.probabilities(images[:, :, :12])
    for wrong, told in ((images * 255, r"\[0, 1\], got "), (images - 0.5, "got -0"), (images * np.nan, "got nan")):
        with pytest.raises(ValueError, match=rf"`images` must be grey values in .*{told}"):
            model.probabilities(wrong.astype(np.float32))


def test_auto_is_the_fastest_that_is_installed(networks, monkeypatch):
    large = (create_network(TINY.model_copy(update={"n_hidden": 800})),)
    every = ("onnx", "onnxscript", "onnxruntime", "openvino")
    for packages, for_small, for_large in (
        (every, "onnxruntime", "openvino"),
        (every[:3], "onnxruntime", "onnxruntime"),
        ((*every[:2], "openvino"), "openvino", "openvino"),
        (("onnxruntime", "openvino"), "torch", "torch"),
        ((), "torch", "torch"),
    ):
        monkeypatch.setattr(engines, "find_spec", installed(*packages))
        assert resolve_engine("auto", networks) == for_small
        assert resolve_engine("auto", large) == for_large
        assert resolve_engine("torch", networks) == "torch"


def test_an_engine_asked_for_and_missing_names_its_extra(networks, monkeypatch):
    monkeypatch.setattr(engines, "find_spec", installed())
    with pytest.raises(
        MissingExtraError, match=r"`onnxruntime` must be installed .*pip install 'diagnet-mammography\[onnx\]'"
    ):
        resolve_engine("onnxruntime", networks)
    with pytest.raises(
        MissingExtraError, match=r"`openvino` must be installed .*pip install 'diagnet-mammography\[openvino\]'"
    ):
        resolve_engine("openvino", networks)


def test_the_torch_engine_takes_any_batch(networks, images):
    run = make_engine("torch", networks, 16)
    whole = run(images[:, None])
    assert whole.shape == (37, 2, 2)
    np.testing.assert_allclose(run(images[:1, None]), whole[:1], atol=1e-5)
