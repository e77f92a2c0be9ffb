from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from diagnet.config import Config, merged
from diagnet.data.mass import Mass
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.data.roi import RoiSettings
from diagnet.errors import DataError
from diagnet.network import NetworkSettings
from diagnet.study.arms import PLAIN, STUDIES
from diagnet.study.methods import METHODS
from diagnet.study.network_fit import Cases
from diagnet.study.results.published import PUBLISHED
from diagnet.study.rivals.common_networks import ConvNext, ResNet
from diagnet.study.rivals.dhungel import FeatureForest, train_described
from diagnet.study.rivals.li import TwoPathNetwork, mask_loss, masks_of, train_two_paths, wide_masks_of
from diagnet.study.rivals.multi_instance import SparseInstanceNetwork
from diagnet.study.rivals.shams import AdversarialNetwork, Generator, train_adversarially
from diagnet.study.rivals.steps import RivalTraining
from diagnet.training.points import Points, Surroundings

SHAPE = NetworkSettings(stem_widths=(4, 8), widths=(8, 16), n_middle=0, n_hidden=8)
TINY = {
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 0, "n_hidden": 8},
    "training": {"epochs": 2, "batch_size": 16, "precision": "float32"},
}


def config(**training):
    return Config.from_preset("diagnet", merged(merged(PLAIN, TINY), {"training": training}))


@pytest.fixture(scope="module")
def points():
    images, labels = make_masses(32, rng=np.random.default_rng(0), settings=PhantomSettings(size=32))
    return Points(images, labels, np.zeros(32, np.int8), np.arange(32))


FIXED = {"padding": (1.6, 1.6), "shift": 0.0, "gamma": 0.0, "contrast": 0.0, "sharpness": 0.0, "noise": 0.0}


@pytest.mark.parametrize("drawn", [{}, {"padding": (1.0, 2.0), "shift": 0.1, "noise": 1e-6, "gamma": 1e-6}])
def test_masks_are_moved_as_their_images_are_and_keep_their_values(points, drawn):
    settings = config(**FIXED | drawn)
    if drawn:
        wide = points.images.repeat(2, axis=1).repeat(2, axis=2)
        boxes = np.tile(np.float32([0.3, 0.3, 0.7, 0.7]), (32, 1))
        points = replace(points, surroundings=Surroundings(wide, boxes, own_range=False))
    training = RivalTraining(AdversarialNetwork(SHAPE), points, settings, seed=1)
    steps = list(training.steps(2, others=replace(points)))
    assert sorted(torch.cat([step.rows for step in steps[:2]]).tolist()) == list(range(32))
    for step in steps:
        torch.testing.assert_close(step.images, step.others)
        assert torch.equal(step.images, step.others) == (not drawn)  # grey values are drawn for images alone
    assert not torch.equal(steps[0].images, steps[2].images)


def test_a_mask_is_cut_as_its_region_is(tmp_path):
    (tmp_path / "rois").mkdir()
    (tmp_path / "masks").mkdir()
    drawn = np.zeros((80, 60), np.uint8)
    drawn[20:40, 10:30] = 255
    for name in ("rois/a.png", "masks/a.png"):
        Image.fromarray(drawn).save(tmp_path / name)
    mass = Mass(tmp_path / "rois" / "a.png", (10.0, 20.0, 30.0, 40.0), "benign", "P", extra={"mask": "masks/a.png"})
    roi = RoiSettings(size=32)
    assert masks_of([mass], roi).mean() == pytest.approx(1 / 1.6**2, abs=0.01)
    assert wide_masks_of([mass], roi).shape == (1, 64, 64)
    with pytest.raises(DataError, match="`mask` must name a file relative to the table's folder"):
        masks_of([replace(mass, extra={"mask": "masks/b.png"})], roi)
    Image.fromarray(drawn[:70]).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match="`mask` must have its image's 60 x 80 pixels, got 60 x 70"):
        masks_of([mass], roi)


def test_without_a_mask_it_is_the_ellipse_inside_the_box():
    image = np.zeros((100, 200), np.float32)
    (found,) = masks_of([Mass(image, (80.0, 30.0, 140.0, 60.0), "benign", "P")], RoiSettings(size=64))
    assert found.mean() == pytest.approx(np.pi / 4 / 1.6**2, abs=0.01)
    assert found[32, 32] == 1
    # At the image's border the region moves inwards, and the ellipse does not stay in its middle.
    (found,) = masks_of([Mass(image, (0.0, 0.0, 60.0, 30.0), "benign", "P")], RoiSettings(size=64))
    assert found[20, 20] == 1
    assert found[45, 45] == 0


def test_the_masks_loss_is_least_for_the_mask_itself():
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 4:12, 4:12] = 1
    small = torch.nn.functional.avg_pool2d(mask, 2)
    right, none = mask_loss(40 * small - 20, mask), mask_loss(torch.full_like(small, -20), mask)
    assert right < 1e-3
    assert none > mask_loss(torch.zeros_like(small), mask) > right


def test_two_paths_find_the_mask(points):
    masks = (points.images > points.images.mean()).astype(np.float32)
    settings = config(epochs=8, learning_rate=0.01)
    one_pass = settings.network.model_copy(update={"average_flips": False})
    settings = settings.model_copy(update={"network": one_pass})
    network = train_two_paths(points, replace(points, images=masks), settings, seed=0)
    images, wanted = torch.from_numpy(points.images)[:, None], torch.from_numpy(masks)[:, None]
    with torch.inference_mode():
        logits, found = network.both(images)
        assert mask_loss(found, wanted) < mask_loss(torch.zeros_like(found), wanted)
        torch.testing.assert_close(network(images), logits)


def test_the_class_depends_on_the_mask_that_is_found():
    torch.manual_seed(0)
    network = TwoPathNetwork(SHAPE).eval()
    images = torch.rand(2, 1, 32, 32)
    before = network(images)
    torch.nn.init.constant_(network.mask.bias, 5.0)
    assert not torch.allclose(before, network(images))


def test_made_regions_leave_the_classifiers_batch_norm_alone():
    network = AdversarialNetwork(SHAPE).train()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    network.real_logits(torch.rand(4, 1, 32, 32))
    for norm, mean in zip(norms, before, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        assert norm.momentum == 0.1
    network.classify_and_judge(torch.rand(4, 1, 32, 32))
    assert not torch.equal(norms[0].running_mean, before[0])


@pytest.mark.parametrize("size", [32, 40])
def test_made_regions_have_the_size_and_range_of_real_ones(size):
    made = Generator(size)(torch.randn(3, 64))
    assert made.shape == (3, 1, size, size)
    assert 0 <= made.min() <= made.max() <= 1


def test_the_adversarial_task_shapes_the_shared_features(points, monkeypatch):
    own = train_adversarially(points, config(), seed=0)
    assert all(weight.requires_grad for weight in own.parameters())
    monkeypatch.setattr("diagnet.study.rivals.shams._against", lambda logits, _: 0 * logits.sum())
    alone = train_adversarially(points, config(), seed=0)
    assert not torch.equal(own.stem[0].weight, alone.stem[0].weight)


def test_the_forest_depends_on_standardized_features_alone(points, monkeypatch):
    monkeypatch.setattr("diagnet.study.rivals.dhungel._TREES", 30)
    described = np.random.default_rng(0).normal(size=(32, 5)).round(2)
    described[:, 4] = 3.0  # a feature that never changes
    scores = []
    for given in (described, 8 * described + 3, described[::-1].copy()):
        network = train_described(points, given, config(), seed=2**31)
        scores.append(FeatureForest(network, points, seed=2**31).log_odds(points.images, 1))
    np.testing.assert_allclose(scores[0], scores[1], atol=0.2)
    assert np.isfinite(scores[0]).all()
    assert not np.array_equal(scores[0], scores[2])  # what was regressed first matters


def test_instances_are_not_dropped_ahead_of_their_maximum():
    network = SparseInstanceNetwork(SHAPE).train()
    images = torch.rand(4, 1, 32, 32)
    torch.testing.assert_close(network(images), network(images))


@pytest.mark.parametrize("make", [ResNet, ConvNext])
def test_common_networks_take_regions_of_any_size(make):
    network = make(SHAPE).eval()
    for size in (32, 41):
        embeddings, logits = network.embed_and_classify(torch.rand(2, 1, size, size))
        assert embeddings.shape == (2, network.embedding_size)
        assert logits.shape == (2, 2)


@pytest.mark.parametrize("method", ["li", "shams", "dhungel"])
def test_rivals_learn_from_regions_that_are_drawn(points, method):
    if method == "dhungel":
        pytest.importorskip("skimage", reason="the extra study is not installed")
    masses = tuple(Mass(image, (8.0, 8.0, 24.0, 24.0), "benign", f"P{k}") for k, image in enumerate(points.images))
    wide = points.images.repeat(2, axis=1).repeat(2, axis=2)
    boxes = np.tile(np.float32([0.3, 0.3, 0.7, 0.7]), (32, 1))
    around = Surroundings(wide, boxes, own_range=True)
    cases = Cases(points.images, masses, points.labels, np.arange(32), surroundings=around)
    scores = METHODS[method](cases, config(epochs=1, padding=(1.0, 2.0), shift=0.1), 0, 0)(cases)
    assert np.isfinite(scores).all()


def test_each_system_of_table_1_has_an_arm():
    assert set(PUBLISHED) <= {arm.name for arm in STUDIES["table1"]}
