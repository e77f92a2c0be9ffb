"""The training masses that a mass looks like to a network, and its place among them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int, Int8

from diagnet.arrays import Image, Images
from diagnet.config import read_run_config
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import Prepared, mass_set_of
from diagnet.data.regions import read_rois
from diagnet.distance import cosine_distance
from diagnet.errors import DataError, RunFolderError
from diagnet.graph import GraphSettings
from diagnet.inference.model import Model
from diagnet.inference.predictive_value import HeldOut, read_held_out
from diagnet.run.array_files import EMBEDDINGS, NEIGHBORS, read_embeddings, read_neighbors
from diagnet.run.folder import first_fold_with
from diagnet.training.scoring import embeddings_and_logits

N_NEAREST = 5  # training masses that are asked what they say of a case
_KINDS = {0: "original", 1: "positive", -1: "negative"}


@dataclass(frozen=True, slots=True)
class Case:
    """A training mass, or a synthetic neighbor made from one.

    Attributes:
        name: the mass' index in the run's data, or "n" and the neighbor's place in neighbors.npz.
        kind: "original", "positive" or "negative": a training mass, or a synthetic neighbor of either sign.
        label: its class; of a neighbor, the class it was made from.
        label_source: where the label came from, "" where that is not known.
        malignancy: by a network that had not seen it, None where there is none.
    """

    name: str
    kind: str
    label: str
    label_source: str
    malignancy: float | None


@dataclass(frozen=True, slots=True)
class Similar:
    """A case and how far it is: 1 - the cosine of the two embeddings, in [0, 2]."""

    case: Case
    distance: float


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a mass lies among the cases.

    Attributes:
        by_class: the nearest training masses of each class, nearest first.
        nearest_label: what most of the `N_NEAREST` training masses nearest to it are.
        n_of_nearest_label: how many of them.
        place: on the map.
        attracting: cases the signed graph would draw it to, were it of the class the model gives it (Eq. 3).
        repelling: cases it would be pushed from.
    """

    by_class: dict[str, list[Similar]]
    nearest_label: str
    n_of_nearest_label: int
    place: tuple[float, float]
    attracting: list[Case]
    repelling: list[Case]


@dataclass(frozen=True)
class CaseBase:
    """The training masses and synthetic neighbors of a run as its first network sees them.

    With k folds there are k networks and k spaces, which cannot be compared; the first fold's network and its own
    training part are taken throughout.

    Attributes:
        cases: training masses, then synthetic neighbors.
        embeddings: of each, H (Eq. 4).
        kinds: 0 training mass, +1 positive, -1 negative neighbor.
        labels: class index of each.
        map: place of each on the two principal components of the masses' unit embeddings.
        graph: n+ and n- (Eq. 3).
        held_out: what a score means.
    """

    model: Model
    cases: tuple[Case, ...]
    embeddings: Float32[np.ndarray, "case feature"]
    kinds: Int8[np.ndarray, "case"]
    labels: Int[np.ndarray, "case"]
    map: Float[np.ndarray, "case 2"]
    graph: GraphSettings
    held_out: HeldOut
    neighbor_images: Images
    data: MassSet | Prepared | None
    _center: Float[np.ndarray, "feature"]
    _axes: Float[np.ndarray, "2 feature"]

    def surroundings(self, region: Image, malignancy: float, n_similar: int) -> Surroundings:
        """Find what a mass looks like.

        Args:
            region: cut with the model's settings.
            malignancy: the model's score, from which follows the class that the graph takes it for.
            n_similar: cases of each class.
        """
        embedding = embeddings_and_logits(self.model.networks[0], region[None].astype(np.float32))[0]
        distance = cosine_distance(embedding.astype(np.float64), self.embeddings.astype(np.float64))[0]
        nearest = np.argsort(distance, kind="stable")
        originals = nearest[self.kinds[nearest] == 0]
        by_class = {
            name: [
                Similar(self.cases[i], float(distance[i]))
                for i in originals[self.labels[originals] == label][:n_similar]
            ]
            for label, name in enumerate(self.model.classes)
        }
        counts = np.bincount(self.labels[originals[:N_NEAREST]], minlength=len(self.model.classes))
        attracting, repelling = self.edges(nearest, self.called(malignancy))
        (x, y), *_ = (_units(embedding) - self._center) @ self._axes.T
        return Surroundings(
            by_class=by_class,
            nearest_label=self.model.classes[int(counts.argmax())],
            n_of_nearest_label=int(counts.max()),
            place=(float(x), float(y)),
            attracting=[self.cases[i] for i in attracting],
            repelling=[self.cases[i] for i in repelling],
        )

    def edges(
        self, nearest: Int[np.ndarray, "case"], label: int
    ) -> tuple[Int[np.ndarray, "attracting"], Int[np.ndarray, "repelling"]]:
        """Edges of a new anchor of class c: to the n+ nearest of {X_c, X_c+}, from the n- nearest of {X_-c, X_c-}.

        As in `diagnet.graph.signed_graph`, distances are those of embeddings, and all negative neighbors repel.

        Args:
            nearest: all cases, nearest first.
            label: c.
        """
        is_own = (self.labels[nearest] == label) & (self.kinds[nearest] >= 0)
        return nearest[is_own][: self.graph.n_attracting], nearest[~is_own][: self.graph.n_repelling]

    def called(self, malignancy: float) -> int:
        """Class index that a score stands for."""
        malignant = self.model.malignant_class
        others = [label for label in range(len(self.model.classes)) if label != malignant]
        return malignant if malignancy >= self.model.threshold else others[0]

    def disagreement(self, found: Surroundings, malignancy: float, decision: str) -> str | None:
        """Say where the model's call and the nearest training masses differ, None where they do not."""
        n_nearest = min(N_NEAREST, int((self.kinds == 0).sum()))
        if decision not in self.model.classes or found.nearest_label == decision:
            return None
        return (
            f"The model calls this mass {decision} ({malignancy:.2f}), but {found.n_of_nearest_label} of the"
            f" {n_nearest} training masses most like it are {found.nearest_label}."
        )

    def picture(self, name: str) -> Image | None:
        """Region of a case, None where there is no such case or its image is not at hand.

        Raises:
            DiagNetError: its image cannot be read.
        """
        place = next((i for i, case in enumerate(self.cases) if case.name == name), None)
        if place is None:
            return None
        if self.kinds[place]:
            return np.asarray(self.neighbor_images[int(name[1:])], dtype=np.float32)
        if isinstance(self.data, Prepared):
            return np.array(self.data.images[int(name)])
        if self.data is None:
            return None
        region: Image = read_rois([self.data.masses[int(name)]], self.model.roi, workers=1)[0]
        return region


def read_case_base(run: Path, model: Model, data: MassSet | Prepared | None = None) -> CaseBase:
    """Read what a finished run keeps of its training masses and neighbors.

    Args:
        run: the run's folder.
        model: of the run.
        data: what it was trained on, for pictures and label sources.

    Raises:
        RunFolderError: a file of the run is missing or broken.
        DataError: `data` is not what the run was trained on.
    """
    config, held_out = read_run_config(run), read_held_out(run)
    with _as_training_wrote(run / EMBEDDINGS):
        known = read_embeddings(run)
    labels, is_training = known.labels, known.is_training
    if labels.max(initial=0) >= len(model.classes):
        raise RunFolderError(f"`labels` must be those of the run's {len(model.classes)} classes, got others in {run}")
    if data is not None:
        _check_data(data, model, known.index, labels)
    masses: Sequence[Mass] = () if data is None else mass_set_of(data).masses
    scores = dict(zip(held_out.index.tolist(), held_out.malignancy.tolist(), strict=True))
    units = _units(known.embeddings)
    center = units.mean(axis=0)
    axes = np.linalg.svd(units - center, full_matrices=False)[2][:2]
    axes = np.vstack([axes, np.zeros((2 - len(axes), axes.shape[1]))])
    images, made, made_labels, kinds = _neighbors(run, model)
    cases = [
        Case(str(i), _KINDS[0], model.classes[label], masses[i].label_source if masses else "", scores.get(i))
        for i, label in zip(known.index[is_training].tolist(), labels[is_training].tolist(), strict=True)
    ]
    cases += [
        Case(f"n{i}", _KINDS[kind], model.classes[label], "synthetic", None)
        for i, (kind, label) in enumerate(zip(kinds.tolist(), made_labels.tolist(), strict=True))
    ]
    every = np.concatenate([known.embeddings[is_training], made])
    return CaseBase(
        model=model,
        cases=tuple(cases),
        embeddings=every,
        kinds=np.concatenate([np.zeros(int(is_training.sum()), np.int8), kinds]),
        labels=np.concatenate([labels[is_training], made_labels]),
        map=(_units(every) - center) @ axes.T,
        graph=config.graph,
        held_out=held_out,
        neighbor_images=images,
        data=data,
        _center=center,
        _axes=axes,
    )


def _neighbors(
    run: Path, model: Model
) -> tuple[Images, Float32[np.ndarray, "neighbor feature"], Int[np.ndarray, "neighbor"], Int8[np.ndarray, "neighbor"]]:
    """Images, embeddings, labels and kinds of the synthetic neighbors, none where the run made no images."""
    folder = first_fold_with(run, NEIGHBORS)
    size = model.roi.size
    images, labels, kinds = np.zeros((0, size, size), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int8)
    if folder is not None:
        with _as_training_wrote(folder / NEIGHBORS):
            found = read_neighbors(folder)
        if found.images.shape[1:] != (0, 0):  # without pixels they are feature vectors, which nobody can look at
            images, labels, kinds = found.images, found.labels, found.kinds
        if images.shape[1:] != (size, size) or labels.max(initial=0) >= len(model.classes):
            raise RunFolderError(
                f"`images` must be {size} x {size} pixels of the run's classes, got others in {folder}"
            )
    return images, embeddings_and_logits(model.networks[0], images)[0], labels, kinds


@contextmanager
def _as_training_wrote(path: Path) -> Iterator[None]:
    """Say of a file that cannot be read that it must be as it was: nobody but training writes it."""
    try:
        yield
    except RunFolderError as error:
        raise RunFolderError(f"`{path}` must be as training wrote it, got a broken file") from error


def _check_data(
    data: MassSet | Prepared, model: Model, index: Int[np.ndarray, "mass"], labels: Int[np.ndarray, "mass"]
) -> None:
    masses = mass_set_of(data)
    is_same = len(masses.masses) == len(index) and tuple(masses.classes) == model.classes
    if not is_same or not (masses.labels[index] == labels).all():
        raise DataError(f"`--data` must be what the run was trained on, got other masses in {masses.source}")
    if isinstance(data, Prepared) and data.settings != model.roi:
        raise DataError(f"`--data` must be cut as the run's regions were, got other settings in {masses.source}")


def _units(embeddings: Float32[np.ndarray, "case feature"]) -> Float[np.ndarray, "case feature"]:
    rows = embeddings.astype(np.float64)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
