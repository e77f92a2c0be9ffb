import numpy as np
import pytest

from diagnet.data.prepared import Prepared
from diagnet.data.regions import read_rois
from diagnet.data.roi import RoiSettings
from diagnet.distance import cosine_distance
from diagnet.errors import DataError, RunFolderError
from diagnet.graph import dense_signs, signed_graph
from diagnet.inference.model import load_model
from diagnet.inference.similar_cases import read_case_base
from diagnet.training.scoring import embeddings_and_logits
from served import write_served


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return write_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def model(served):
    return load_model(served.run, engine="torch")


@pytest.fixture(scope="module")
def cases(served, model):
    return read_case_base(served.run, model, served.masses)


@pytest.fixture
def region():
    return np.random.default_rng(5).random((16, 16), dtype=np.float32)


def test_cases_are_the_training_masses_and_the_neighbors(cases, served):
    originals = [case for case in cases.cases if case.kind == "original"]
    assert len(originals) == 20
    assert [case.kind for case in cases.cases[20:]] == ["positive"] * 4 + ["negative"] * 4
    for case in originals:
        mass = served.masses.masses[int(case.name)]
        assert (case.label, case.label_source) == (mass.label, "biopsy")
        assert case.malignancy is None  # none of them was held out


def test_the_nearest_are_the_nearest_of_all_of_a_class(cases, model, region):
    found = cases.surroundings(region, 0.9, 3)
    own = embeddings_and_logits(model.networks[0], region[None])[0]
    distance = cosine_distance(own, cases.embeddings)[0]
    for label, name in enumerate(model.classes):
        expected = np.sort(distance[(cases.labels == label) & (cases.kinds == 0)])[:3]
        np.testing.assert_allclose([each.distance for each in found.by_class[name]], expected)
    nearest = np.argsort(np.where(cases.kinds == 0, distance, np.inf))[:5]
    votes = np.bincount(cases.labels[nearest], minlength=2)
    assert found.nearest_label == model.classes[votes.argmax()]
    assert found.n_of_nearest_label == votes.max()


@pytest.mark.parametrize("label", [0, 1])
def test_edges_are_those_of_the_signed_graph(cases, label):
    vectors = np.random.default_rng(label).normal(size=(len(cases.cases) + 1, 8)).astype(np.float32)
    graph = signed_graph(
        vectors,
        np.append(cases.labels, label),
        np.append(cases.kinds, np.int8(0)),
        cases.graph,
        relatives=np.arange(len(vectors)),
    )
    signs = dense_signs(graph)[-1, :-1]
    nearest = np.argsort(cosine_distance(vectors[-1:], vectors[:-1])[0], kind="stable")
    attracting, repelling = cases.edges(nearest, label)
    assert set(attracting) == set(np.flatnonzero(signs > 0))
    assert set(repelling) == set(np.flatnonzero(signs < 0))


def test_the_class_of_the_edges_is_the_models_call(cases, region):
    for malignancy, name in ((0.9, "malignant"), (0.1, "benign")):
        found = cases.surroundings(region, malignancy, 1)
        assert [case.label for case in found.attracting] == [name]
        assert all(case.label != name or case.kind == "negative" for case in found.repelling)


def test_a_training_mass_finds_itself_and_stands_at_its_own_place(cases, served):
    regions = read_rois(served.masses.masses, RoiSettings(size=16))
    for place, case in enumerate(cases.cases[:20]):
        found = cases.surroundings(regions[int(case.name)], 0.9, 1)
        assert found.by_class[case.label][0].case == case
        assert found.by_class[case.label][0].distance == pytest.approx(0, abs=1e-6)
        assert found.place == pytest.approx(tuple(cases.map[place]), abs=1e-5)


def test_disagreement(cases, region):
    found = cases.surroundings(region, 0.9, 1)
    other = {"benign": "malignant", "malignant": "benign"}[found.nearest_label]
    assert cases.disagreement(found, 0.9, found.nearest_label) is None
    assert cases.disagreement(found, 0.9, "abstained") is None
    text = cases.disagreement(found, 0.9, other)
    assert f"calls this mass {other} (0.90), but {found.n_of_nearest_label} of the 5" in text


def test_pictures(cases, served, model):
    regions = read_rois(served.masses.masses, RoiSettings(size=16))
    name = cases.cases[3].name
    np.testing.assert_array_equal(cases.picture(name), regions[int(name)])
    assert cases.picture("n7").shape == (16, 16)
    for nothing in ("n8", "", "-1", "1.0", "x", "59999"):
        assert cases.picture(nothing) is None
    prepared = Prepared(regions, served.masses, model.roi, "")
    same = read_case_base(served.run, model, prepared)
    np.testing.assert_array_equal(same.picture(name), regions[int(name)])
    assert read_case_base(served.run, model).picture(name) is None


def test_other_data_is_refused(served, model):
    from dataclasses import replace

    fewer = replace(served.masses, masses=served.masses.masses[:-1])
    with pytest.raises(DataError, match="`--data` must be what the run was trained on"):
        read_case_base(served.run, model, fewer)
    turned = replace(served.masses, masses=served.masses.masses[::-1])
    with pytest.raises(DataError, match="`--data` must be what the run was trained on"):
        read_case_base(served.run, model, turned)
    prepared = Prepared(np.zeros((60, 8, 8), np.float32), served.masses, RoiSettings(size=8), "")
    with pytest.raises(DataError, match="cut as the run's regions were"):
        read_case_base(served.run, model, prepared)


@pytest.mark.parametrize("name", ["embeddings.npz", "neighbors.npz", "predictions.csv"])
def test_broken_files_are_told(tmp_path, name):
    served = write_served(tmp_path)
    (served.run / name).write_bytes(b"nothing")
    with pytest.raises(RunFolderError, match=name):
        read_case_base(served.run, load_model(served.run, engine="torch"))


def test_a_run_without_neighbors_has_none(tmp_path):
    served = write_served(tmp_path)
    (served.run / "neighbors.npz").unlink()
    found = read_case_base(served.run, load_model(served.run, engine="torch"))
    assert len(found.cases) == 20
