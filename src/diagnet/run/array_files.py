"""A run's arrays: neighbors.npz with neighbors.csv, graph.npz and embeddings.npz. Nothing is unpickled."""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Int, Int8, Shaped
from scipy.sparse import csr_array, load_npz, save_npz

from diagnet.arrays import Images
from diagnet.atomic import atomic_path
from diagnet.data.mass import MassSet
from diagnet.data.regular_file import require_readable
from diagnet.errors import RunFolderError
from diagnet.neighbors import Neighbors, NeighborSettings
from diagnet.run.folder import write_table
from diagnet.run.tables import PARTS

NEIGHBORS, GRAPH, EMBEDDINGS = "neighbors.npz", "graph.npz", "embeddings.npz"
SYNTHETIC = "Synthetic images made by diagnet from real masses; not acquired from a patient. Research use only."
_PROVENANCE = "neighbors.csv"
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
_MOST_PACKED = 16 << 30
_MOST_BYTES, _MOST_RATIO = 1 << 30, 100  # that an .npz file may unpack to; times its size where that is more


@dataclass(frozen=True, slots=True)
class SyntheticImages:
    """What neighbors.npz holds; the fields are its arrays.

    Attributes:
        images: grey values in [0, 1]; without pixels where neighbors are feature vectors.
        labels: the class each was made from.
        kinds: +1 positive, -1 negative.
        parents: index of the mass each came from, in the run's data.
        parent_patients: that mass' patient.
        probability: P of belonging to the originals.
        distance: from the nearest original of the class.
        closest_pair: rho of each class.
        settings_sha256: hash of the settings of the search.
        about: that they are synthetic.
    """

    images: Images
    labels: Int[np.ndarray, "image"]
    kinds: Int8[np.ndarray, "image"]
    parents: Int[np.ndarray, "image"]
    parent_patients: Shaped[np.ndarray, "image"]
    probability: Float[np.ndarray, "image"]
    distance: Float[np.ndarray, "image"]
    closest_pair: Float[np.ndarray, "classes"]
    settings_sha256: str
    about: str = SYNTHETIC


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What embeddings.npz holds; the fields are its arrays.

    Attributes:
        embeddings: of each mass by the first fold's network.
        index: of the mass in the run's data.
        part: what it does in the first fold, an index into `PARTS`.
        labels: its class.
    """

    embeddings: Float32[np.ndarray, "mass feature"]
    index: Int[np.ndarray, "mass"]
    part: Int8[np.ndarray, "mass"]
    labels: Int[np.ndarray, "mass"]

    @property
    def is_training(self) -> np.ndarray:
        """Whether each mass trained the network."""
        return np.asarray(self.part == PARTS.index("train"))


def write_neighbors(
    folder: Path,
    neighbors: Neighbors,
    parents: Int[np.ndarray, "neighbor"],
    mass_set: MassSet,
    settings: NeighborSettings,
    moves: Float32[np.ndarray, "neighbor feature"] | None = None,
) -> None:
    """Write synthetic images and their provenance: neighbors.npz and, for people, neighbors.csv.

    Both say that the images are synthetic, and whose: a neighbor is a variation of one real mass, belongs to that
    mass's patient in every split, and is to be handled as that patient's data.

    Args:
        folder: where to.
        neighbors: what the search found.
        parents: the mass each came from.
        mass_set: the masses.
        settings: of the search; their hash is written.
        moves: what each adds to its original's features, where neighbors are no images.
    """
    classes, patients = mass_set.classes, [mass.patient_id for mass in mass_set.masses]
    made = SyntheticImages(
        images=neighbors.images,
        labels=neighbors.labels,
        kinds=neighbors.kinds,
        parents=parents,
        parent_patients=np.array([patients[parent] for parent in parents], dtype=np.str_),
        probability=neighbors.probability,
        distance=neighbors.nearest_original,
        closest_pair=np.array([neighbors.closest_pair.get(label, np.nan) for label in range(len(classes))]),
        settings_sha256=hashlib.sha256(settings.model_dump_json().encode()).hexdigest(),
    )
    _write(folder / NEIGHBORS, made, **({} if moves is None else {"moves": moves}))
    columns = {
        "label": [classes[label] for label in made.labels],
        "kind": ["positive" if kind > 0 else "negative" for kind in made.kinds],
        "parent": parents.tolist(),
        "parent_patient": [patients[parent] for parent in parents],  # numpy strips NULs
        "probability": [f"{value:.6f}" for value in made.probability],
        "nearest_original": [f"{value:.8f}" for value in made.distance],
        "nearest_of_sign": [f"{value:.8f}" for value in neighbors.nearest_of_sign],
        "closest_pair": [f"{made.closest_pair[label]:.8f}" for label in made.labels],
        "keeps_rules": neighbors.keeps_rules.tolist(),
        "synthetic": ["yes"] * len(parents),
        "settings": [made.settings_sha256[:16]] * len(parents),
    }
    write_table(folder / _PROVENANCE, [*columns], zip(*columns.values(), strict=True))


def read_neighbors(folder: Path) -> SyntheticImages:
    """Read neighbors.npz as `write_neighbors` wrote it.

    Raises:
        RunFolderError: it is missing or broken.
    """
    return _read(folder / NEIGHBORS, SyntheticImages)


def write_signs(folder: Path, signs: csr_array) -> None:
    """Write graph.npz: the signed graph (Eq. 3)."""
    with atomic_path(folder / GRAPH) as temporary:
        save_npz(temporary, signs)


def read_signs(folder: Path) -> csr_array:
    """Read what `write_signs` wrote.

    Raises:
        RunFolderError: it is missing or broken.
    """
    try:
        require_readable(folder / GRAPH, _MOST_PACKED)
        with (folder / GRAPH).open("rb") as opened:
            return csr_array(load_npz(opened))
    except _UNREADABLE as error:
        raise _unreadable(folder / GRAPH, error) from error


def write_embeddings(folder: Path, embeddings: Embeddings) -> None:
    """Write embeddings.npz; values that half precision holds exactly are kept in it."""
    halves = embeddings.embeddings.astype(np.float16)
    is_exact = bool((halves == embeddings.embeddings).all())
    _write(folder / EMBEDDINGS, embeddings, embeddings=halves if is_exact else embeddings.embeddings)


def read_embeddings(folder: Path) -> Embeddings:
    """Read what `write_embeddings` wrote.

    Raises:
        RunFolderError: it is missing or broken.
    """
    return _read(folder / EMBEDDINGS, Embeddings)


# Of the arrays with a row for each image or mass.
_DIMENSIONS: dict[type, dict[str, int]] = {
    SyntheticImages: {
        "images": 3, "labels": 1, "kinds": 1, "parents": 1, "parent_patients": 1, "probability": 1, "distance": 1,
    },
    Embeddings: {"embeddings": 2, "index": 1, "part": 1, "labels": 1},
}  # fmt: skip
_Arrays = TypeVar("_Arrays", SyntheticImages, Embeddings)


def _write(path: Path, arrays: SyntheticImages | Embeddings, **instead: np.ndarray) -> None:
    values = {each.name: getattr(arrays, each.name) for each in fields(arrays)}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **values | instead)


def _read(path: Path, kind: type[_Arrays]) -> _Arrays:
    try:
        require_readable(path, _MOST_PACKED)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            _require_size(file)
            found = {each.name: file[each.name] for each in fields(kind)}
            if "embeddings" in found:
                found["embeddings"] = found["embeddings"].astype(np.float32)
            _require_rows(found, kind)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return kind(**{name: array if array.ndim else array.item() for name, array in found.items()})


def _require_size(file: Any) -> None:
    """Check what the arrays of an .npz file unpack to before they are unpacked."""
    members = file.zip.infolist()
    packed, unpacked = sum(each.compress_size for each in members), sum(each.file_size for each in members)
    if unpacked > max(_MOST_BYTES, _MOST_RATIO * packed):
        raise ValueError(f"arrays of {unpacked} bytes in {packed}")


def _require_rows(found: Mapping[str, np.ndarray], kind: type[SyntheticImages] | type[Embeddings]) -> None:
    """Check that arrays have the dimensions, the kind of number and the length that belong together."""
    lengths = set()
    for name, n_dimensions in _DIMENSIONS[kind].items():
        array = found[name]
        is_number = name == "parent_patients" or (array.dtype.kind in "iufb" and np.isfinite(array).all())
        if array.ndim != n_dimensions or not is_number:
            raise ValueError(f"another array than {name} of {n_dimensions} dimensions and finite numbers")
        lengths.add(len(array))
    if len(lengths) > 1 or any((found[name] < 0).any() for name in ("index", "part", "labels") if name in found):
        raise ValueError("arrays that do not belong together")


def _unreadable(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(f"`{path}` must be a readable array file of a run, got: {error}")
