import csv
from dataclasses import fields

import numpy as np
import pytest
from scipy.sparse import csr_array

from diagnet.data.mass import Mass, MassSet
from diagnet.errors import RunFolderError
from diagnet.neighbors import Neighbors, NeighborSettings
from diagnet.run.array_files import (
    Embeddings,
    read_embeddings,
    read_neighbors,
    read_signs,
    write_embeddings,
    write_neighbors,
    write_signs,
)

MASSES = MassSet(
    tuple(Mass(np.zeros((4, 4), np.float32), None, "Zyste", patient) for patient in ("Käthe, K", "李雷", "x")),
    classes=("Zyste", "Ödem"),
)
PARENTS = np.array([1, 0])
FOUND = Neighbors(
    images=np.random.default_rng(0).random((2, 4, 4), dtype=np.float32),
    labels=np.array([0, 0]),
    kinds=np.array([1, -1], dtype=np.int8),
    parents=PARENTS,
    probability=np.array([0.75, 0.25]),
    nearest_original=np.array([0.01, 0.04]),
    nearest_of_sign=np.array([np.inf, np.inf]),
    positive_spacing=np.array([True, True]),
    negative_spacing=np.array([True, False]),
    negative_reach=np.array([True, True]),
    closest_pair={0: 0.008},
)
EMBEDDINGS = Embeddings(
    embeddings=np.random.default_rng(1).random((3, 2), dtype=np.float32),
    index=np.array([2, 0, 1]),
    part=np.array([0, 0, 2], dtype=np.int8),
    labels=np.array([0, 1, 1]),
)
SIGNS = csr_array(np.array([[0, 1, -1], [0, 0, 0], [-1, 1, 0]], dtype=np.int8))


def write_found(folder):
    write_neighbors(folder, FOUND, PARENTS, MASSES, NeighborSettings())


def test_neighbors_are_read_as_written(tmp_path):
    write_found(tmp_path)
    found = read_neighbors(tmp_path)
    for name in ("images", "labels", "kinds", "parents", "probability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(FOUND, name), strict=True)
    np.testing.assert_array_equal(found.distance, FOUND.nearest_original, strict=True)
    np.testing.assert_array_equal(found.closest_pair, [0.008, np.nan])
    assert found.parent_patients.tolist() == ["李雷", "Käthe, K"]
    assert found.about.startswith("Synthetic images")
    with (tmp_path / "neighbors.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        "label": "Zyste",
        "kind": "negative",
        "parent": "0",
        "parent_patient": "Käthe, K",
        "probability": "0.250000",
        "nearest_original": "0.04000000",
        "nearest_of_sign": "inf",
        "closest_pair": "0.00800000",
        "keeps_rules": "False",
        "synthetic": "yes",
        "settings": found.settings_sha256[:16],
    }


def test_embeddings_are_read_as_written(tmp_path):
    write_embeddings(tmp_path, EMBEDDINGS)
    found = read_embeddings(tmp_path)
    for each in fields(Embeddings):
        np.testing.assert_array_equal(getattr(found, each.name), getattr(EMBEDDINGS, each.name), strict=True)
    assert found.is_training.tolist() == [True, True, False]


def test_a_graph_is_read_as_written(tmp_path):
    write_signs(tmp_path, SIGNS)
    found = read_signs(tmp_path)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found.toarray(), SIGNS.toarray())


@pytest.mark.parametrize(
    ("name", "write", "read"),
    [
        ("neighbors.npz", write_found, read_neighbors),
        ("embeddings.npz", lambda folder: write_embeddings(folder, EMBEDDINGS), read_embeddings),
        ("graph.npz", lambda folder: write_signs(folder, SIGNS), read_signs),
    ],
)
def test_a_broken_array_file_is_told_in_one_line(tmp_path, name, write, read):
    write(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[60:160] = bytes(100)
    for content in (None, b"", b"nothing", whole[: len(whole) // 2], bytes(damaged)):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RunFolderError, match=rf"{name}` must be a readable array file of a run, got: ") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)
        path.touch()
    np.savez(path, other=np.zeros(1))
    with pytest.raises(RunFolderError, match="must be a readable array file of a run"):
        read(tmp_path)
