"""Step 1 of Fig. 1a on a set of masses: originals and their adversarial neighbors, in memory and on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image as PillowImage

from diagnet.arrays import Images, Labels
from diagnet.atomic import atomic_path, write_text
from diagnet.config import Config
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared
from diagnet.data.roi import flipped, read_rois
from diagnet.neighbors import Neighbors, find_neighbors
from diagnet.progress import Progress, silent
from diagnet.run_folder import claim, write_table
from diagnet.training import Points

_COLUMNS = 12  # pictures in a row of neighbors.png
_GAP = 2  # pixels between them


def augment(
    config: Config,
    images: Images,
    labels: Labels,
    patients: Int[np.ndarray, "image"],
    *,
    rng: np.random.Generator,
    workers: int | None = None,
    progress: Progress = silent,
) -> tuple[Points, Neighbors, Int[np.ndarray, "row"]]:
    """Step 1 of Fig. 1a: training masses and their adversarial neighbors as one set of points.

    Args:
        config: settings.
        images: training masses only.
        labels: their classes.
        patients: their patients, as numbers.
        rng: of the search.
        workers: processes of the search.
        progress: told about it.

    Returns:
        The points (originals, or their four flips where flips are stored; then neighbors), the neighbors, and for
        each point the index of the training mass it comes from.
    """
    source = np.arange(len(images))
    if config.training.flips == "stored":  # reading 13, the letter
        images = np.concatenate([flipped(images, across, down) for across in (False, True) for down in (False, True)])
        labels, source = np.tile(labels, 4), np.tile(source, 4)
    found = find_neighbors(images, labels, config.neighbors, rng=rng, workers=workers, progress=progress)
    origin = np.concatenate([source, source[found.parents]])
    points = Points(
        np.concatenate([images, found.images]),
        np.concatenate([labels, found.labels]),
        np.concatenate([np.zeros(len(labels), np.int8), found.kinds]),
        patients[origin],
    )
    return points, found, origin


def write_neighbors(
    folder: Path, neighbors: Neighbors, parents: Int[np.ndarray, "neighbor"], classes: Sequence[str]
) -> None:
    """Write synthetic images and their provenance: neighbors.npz and neighbors.csv.

    Args:
        folder: where to.
        neighbors: what the search found.
        parents: row of the mass each came from, in the table the user knows.
        classes: class names.
    """
    with atomic_path(folder / "neighbors.npz") as temporary:
        np.savez_compressed(
            temporary,
            images=neighbors.images,
            labels=neighbors.labels,
            kinds=neighbors.kinds,
            parents=parents,
            probability=neighbors.probability,
            distance=neighbors.nearest_original,
            closest_pair=np.array([neighbors.closest_pair.get(label, np.nan) for label in range(len(classes))]),
        )
    rows = zip(
        (classes[label] for label in neighbors.labels),
        ("positive" if kind > 0 else "negative" for kind in neighbors.kinds),
        parents.tolist(),
        (f"{value:.6f}" for value in neighbors.probability),
        (f"{value:.8f}" for value in neighbors.nearest_original),
        (f"{value:.8f}" for value in neighbors.nearest_of_sign),
        (f"{neighbors.closest_pair[int(label)]:.8f}" for label in neighbors.labels),
        neighbors.keeps_rules.tolist(),
        strict=True,
    )
    columns = ("label", "kind", "parent", "probability", "nearest_original", "nearest_of_sign", "closest_pair")
    write_table(folder / "neighbors.csv", (*columns, "keeps_rules"), rows)


def write_augmentation(
    config: Config,
    masses: MassSet | Prepared,
    out: Path,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, int]:
    """Make neighbors of all masses given and write neighbors.npz, neighbors.csv and a picture, neighbors.png.

    Args:
        config: settings; `seed`, `roi`, `neighbors` and `training.flips` are read.
        masses: labeled masses, or a prepared folder.
        out: folder to write: absent or empty.
        workers: processes of the search.
        progress: told about it.

    Returns:
        How many neighbors there are of each class and sign.

    Raises:
        RunFolderError: `out` holds files.
        DataError: a class has too few masses.
    """
    claim(out, {}, resume=False)
    if isinstance(masses, Prepared):
        mass_set, images = masses.mass_set, np.array(masses.images)
    else:
        mass_set, images = masses, read_rois(masses.masses, config.roi, workers=workers, progress=progress)
    patients = np.unique(mass_set.patients, return_inverse=True)[1].astype(np.int64)
    _, found, origin = augment(
        config,
        images,
        mass_set.labels,
        patients,
        rng=np.random.default_rng(config.seed),
        workers=workers,
        progress=progress,
    )
    parents = origin[len(origin) - len(found.kinds) :]
    write_neighbors(out, found, parents, mass_set.classes)
    with atomic_path(out / "neighbors.png") as temporary:
        _picture(images, found, parents, mass_set.classes).save(temporary)
    write_text(out / "config.toml", config.to_toml())
    return {
        f"{kind} {name}": int(((found.labels == label) & (found.kinds == sign)).sum())
        for label, name in enumerate(mass_set.classes)
        for kind, sign in (("positive", 1), ("negative", -1))
    }


def _picture(
    images: Images, found: Neighbors, parents: Int[np.ndarray, "neighbor"], classes: Sequence[str]
) -> PillowImage.Image:
    """Fig. 2: for each class and sign, a row of originals above a row of their neighbors."""
    rows = []
    for label in range(len(classes)):
        own = found.labels == label
        for sign in (1, -1):
            chosen = np.flatnonzero(own & (found.kinds == sign))[:_COLUMNS]
            rows += [images[parents[chosen]], found.images[chosen]]
    size = images.shape[1]
    sheet = np.ones((len(rows) * (size + _GAP), _COLUMNS * (size + _GAP)), np.float32)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            top, left = row * (size + _GAP), column * (size + _GAP)
            sheet[top : top + size, left : left + size] = picture
    return PillowImage.fromarray((sheet * 255).round().astype(np.uint8))
