import numpy as np
import pytest
import torch
from tiny import TINY

from diagnet.config import Config, merged
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.errors import DataError, SettingsError
from diagnet.network import create_network
from diagnet.study import warm_start
from diagnet.study.arms import PLAIN, Arm
from diagnet.study.jobs import Job, run_job
from diagnet.study.methods import METHODS
from diagnet.study.network_fit import Cases
from diagnet.study.warm_start import _contrast, read_patches, warm_network, warm_weights

CONFIG = Config.from_preset("diagnet", merged(merged(TINY, PLAIN), {"roi": {"grey_range": "image"}}))


@pytest.fixture
def mammograms(tmp_path, monkeypatch):
    """Twelve mammograms of six patients, each of a grey of its own; the last is black."""
    grey = {f"{k}.png": np.float32((60 + 15 * k if k < 11 else 0) / 255) for k in range(12)}
    monkeypatch.setattr(warm_start, "read_image", lambda path: np.full((120, 100), grey[path.name], np.float32))
    lines = ["image,patient_id", *(f"{name},P{k // 2}" for k, name in enumerate(grey))]
    (tmp_path / "mammograms.csv").write_text("\n".join(lines))
    return tmp_path / "mammograms.csv"


def greys(patches):
    return set(np.unique(np.round(patches * 255)).astype(int).tolist())


def test_patches_are_of_patients_who_are_not_tested_and_of_tissue(mammograms):
    patches = read_patches(mammograms, ["P0", "P3"], ["P0", "P1"], CONFIG, rng=np.random.default_rng(0))
    assert patches.shape[1:] == (16, 16)
    assert greys(patches) == {60 + 15 * k for k in (2, 3, 4, 5, 8, 9, 10)}
    again = read_patches(mammograms, ["P0", "P3"], ["P0", "P1"], CONFIG, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(patches, again)


def test_patches_have_their_own_range_where_regions_have(mammograms):
    config = Config.from_preset("diagnet", merged(TINY, PLAIN))
    patches = read_patches(mammograms, ["P0", "P3"], ["P0", "P1"], config, rng=np.random.default_rng(0))
    assert {(float(each.min()), float(each.max())) for each in patches} <= {(0.0, 1.0), (0.0, 0.0)}


def test_patients_named_otherwise_are_refused_for_they_could_not_be_kept_out(mammograms):
    with pytest.raises(DataError, match="must name its patients as the study's data does"):
        read_patches(mammograms, ["1"], ["1", "2"], CONFIG, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="at least one image with tissue"):
        read_patches(mammograms, [f"P{k}" for k in range(6)], ["P0"], CONFIG, rng=np.random.default_rng(0))


def test_what_was_learned_goes_into_the_blocks_and_depends_on_the_seed_alone():
    patches = np.random.default_rng(0).random((48, 4, 4), dtype=np.float32).repeat(4, axis=1).repeat(4, axis=2)
    weights = warm_weights(patches, CONFIG, seed=0)
    assert all(name.startswith(("stem.", "blocks.")) for name in weights)
    again = warm_weights(patches, CONFIG, seed=0)
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    network = warm_network(create_network(CONFIG.network), weights)
    assert all(torch.equal(network.state_dict()[name], weights[name]) for name in weights)


def test_contrast_is_cross_entropy_of_the_other_view():
    embeddings = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    units = embeddings / embeddings.norm(dim=1, keepdim=True)
    slow = 0.0
    for k in range(6):
        odds = {j: torch.exp(units[k] @ units[j] / 0.1) for j in range(6) if j != k}
        slow -= torch.log(odds[(k + 3) % 6] / sum(odds.values())) / 6
    assert torch.allclose(_contrast(embeddings), slow, atol=1e-5)


def test_a_warm_start_is_an_arm(manifest, mammograms):
    """Patches come from the manifest beside the data, of the same patients."""
    beside = manifest.parent / "whole.csv"
    beside.write_bytes(mammograms.read_bytes())
    arm = Arm("warm", "warm", PLAIN, "warm-start", unlabelled=beside.name)
    base = Config.from_preset("diagnet", TINY)
    warm, again, cold = (
        run_job(Job(each, 0, 0), (manifest,), base, 2).scores for each in (arm, arm, Arm("plain", "plain", PLAIN))
    )
    np.testing.assert_array_equal(warm, again)
    assert warm.shape == cold.shape
    assert not np.allclose(warm, cold)


def test_a_warm_start_needs_mammograms():
    images, labels = make_masses(20, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))
    with pytest.raises(SettingsError, match="`unlabelled` must be given"):
        METHODS["warm-start"](Cases(images, (), labels, np.arange(20)), CONFIG, 0, 0)
