"""Step 1 of Fig. 1a on a set of masses: originals and their adversarial neighbors, in memory and on disk."""

import shutil
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image as PillowImage
from PIL import ImageDraw
from PIL.PngImagePlugin import PngInfo

from diagnet.arrays import Images, Labels
from diagnet.atomic import atomic_path, write_text
from diagnet.config import Config
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import Prepared, mass_set_of
from diagnet.data.regions import read_regions
from diagnet.data.roi import RoiSettings, flipped
from diagnet.data.surroundings import Wide
from diagnet.distance import Distance, angular_distance, cosine_distance
from diagnet.errors import SettingsError
from diagnet.evaluation.lesions import known_lesions
from diagnet.neighbor_search import Found
from diagnet.neighbors import Neighbors, find_neighbors
from diagnet.progress import Progress, silent
from diagnet.run.array_files import SYNTHETIC, write_neighbors
from diagnet.run.checkpoint import array_hash
from diagnet.run.feature_search import find_moves
from diagnet.run.folder import claim, held, require_text, write_json, write_record
from diagnet.training.points import Points, Surroundings, read_rows

_COLUMNS = 12  # pictures in a row of neighbors.png
_GAP = 2  # pixels between them
_LINE, _MARGIN, _LEAST_TILE = 14, 90, 64  # pixels: for a line of text, for the names of rows, of a picture
_SIGNS = (("positive", 1), ("negative", -1))


@dataclass(frozen=True, slots=True)
class Augmented:
    """Training masses and their adversarial neighbors.

    Attributes:
        points: originals, or their four flips where flips are stored; then neighbors.
        neighbors: what the search found.
        origin: index of the training mass each point comes from.
    """

    points: Points
    neighbors: Neighbors
    origin: Int[np.ndarray, "point"]

    @property
    def parents(self) -> Int[np.ndarray, "neighbor"]:
        """Index of the training mass each neighbor comes from."""
        return self.origin[len(self.origin) - len(self.neighbors.kinds) :]


def to_draw_from(wide: Wide | None, settings: RoiSettings) -> Surroundings | None:
    """What lies around masses, as training draws regions cut with `settings` from it; None where it is not known."""
    return None if wide is None else Surroundings(*wide, own_range=settings.grey_range == "region")


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Masses without a label: what is known of them is which lesion they show.

    Attributes:
        images: their regions, in [0, 1].
        masses: what else is known of them.
        patients: of each, named as those of the training masses.
        surroundings: of the images, where regions are drawn while training.
    """

    images: Images
    masses: Sequence[Mass]
    patients: Sequence[Hashable]
    surroundings: Surroundings | None = None

    def without(self, patients: Container[Hashable]) -> "Unlabelled":
        """Return the masses of other patients, who are neither validated nor tested on, say."""
        rows = np.array([k for k, patient in enumerate(self.patients) if patient not in patients], dtype=np.int64)
        around = self.surroundings
        if around is not None:
            around = replace(around, images=around.images[rows], boxes=around.boxes[rows])
        masses, whose = [self.masses[k] for k in rows], [self.patients[k] for k in rows]
        return Unlabelled(self.images[rows], masses, whose, around)


def with_lesions(
    points: Points, masses: Sequence[Mass], patients: Sequence[Hashable], unlabelled: Unlabelled
) -> tuple[Points, Points]:
    """Return points and masses without a label, both with the lesion that each shows.

    Args:
        points: of `augment`.
        masses: the training masses that they were made of.
        patients: of each.
        unlabelled: beside them.
    """
    lesions = known_lesions([*masses, *unlabelled.masses], [*patients, *unlabelled.patients])
    n, origins = len(masses), np.arange(len(points)) if points.origins is None else points.origins
    others = Points(
        unlabelled.images,
        np.full(len(lesions) - n, -1),
        np.zeros(len(lesions) - n, np.int8),
        np.arange(n, len(lesions)),
        surroundings=unlabelled.surroundings,
        lesions=lesions[n:],
    )
    return replace(points, lesions=lesions[origins]), others


def augment(
    config: Config,
    images: Images,
    rows: Int[np.ndarray, "mass"],
    labels: Labels,
    patients: Int[np.ndarray, "mass"],
    *,
    rng: np.random.Generator,
    workers: int | None = None,
    progress: Progress = silent,
    surroundings: Surroundings | None = None,
    finished: Mapping[tuple[int, int], Sequence[Found]] | None = None,
    on_batch: Callable[[tuple[int, int], Sequence[Found]], None] | None = None,
) -> Augmented:
    """Step 1 of Fig. 1a: training masses and their adversarial neighbors as one set of points.

    Args:
        config: settings.
        images: in memory or mapped.
        rows: which of them are the training masses.
        labels: their classes.
        patients: their patients, as numbers.
        rng: of the search.
        workers: processes of the search.
        progress: called at each step.
        surroundings: of the images, where regions are drawn while training.
        finished: see `find_neighbors`.
        on_batch: see `find_neighbors`.
    """
    source = np.arange(len(rows))
    if config.training.flips == "stored":  # reading 13, as in the paper
        own = read_rows(images, rows)
        images = np.concatenate([flipped(own, across, down) for across in (False, True) for down in (False, True)])
        rows, labels, source = np.arange(len(images)), np.tile(labels, 4), np.tile(source, 4)
    wants_none = config.neighbors.makes_none
    originals, own = (images[:0], labels[:0]) if wants_none else (read_rows(images, rows), labels)
    moves = None
    if config.neighbors.search_space == "embedding" and not wants_none:
        found, moves = find_moves(config, originals, own, rng=rng, workers=workers, progress=progress)
    else:
        found = find_neighbors(
            originals,
            own,
            config.neighbors,
            rng=rng,
            workers=workers,
            progress=progress,
            finished=finished,
            on_batch=on_batch,
        )
    origin = np.concatenate([source, source[found.parents]])
    points = Points(
        images,
        np.concatenate([labels, found.labels]),
        np.concatenate([np.zeros(len(labels), np.int8), found.kinds]),
        patients[origin],
        rows=rows,
        neighbors=found.images if moves is None else None,
        moves=moves,
        surroundings=surroundings,
        origins=origin,
    )
    return Augmented(points, found, origin)


def write_augmentation(
    config: Config,
    masses: MassSet | Prepared,
    out: Path,
    *,
    resume: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make neighbors of all masses given; write neighbors.npz, neighbors.csv, neighbors.png and augmentation.json.

    Args:
        config: settings; `seed`, `roi`, `neighbors` and `training.flips` are read.
        masses: labeled masses, or a prepared folder.
        out: folder to write: absent, empty, or interrupted with `resume`.
        resume: go on with what an interrupted call had found.
        workers: processes of the search; the result does not depend on it.
        progress: called at each step.

    Returns:
        What augmentation.json holds: how many neighbors of each class and sign there are, how many break a distance
        rule, and how near they are to real masses.

    Raises:
        RunFolderError: `out` holds files, or was begun with other settings or data.
        RunInUseError: another process is writing it.
        DataError: a class has too few masses, or the name of one is no text.
        SettingsError: the neighbors asked for are no images, or there are none.
    """
    if config.neighbors.makes_none:
        raise SettingsError(
            "`neighbors.positive_ratio` or `neighbors.negative_ratio` must be above 0 to make neighbors, got 0 and 0. "
            "Fix: --preset diagnet"
        )
    if config.neighbors.search_space == "embedding":
        raise SettingsError("`neighbors.search_space` must be subspace or pixel to make images, got embedding")
    with held(out):
        return _write_augmentation(config, masses, out, resume, workers, progress)


def _write_augmentation(
    config: Config, masses: MassSet | Prepared, out: Path, resume: bool, workers: int | None, progress: Progress
) -> dict[str, Any]:
    """Search all neighbors and write them, in a folder that no other process writes."""
    mass_set = mass_set_of(masses)
    require_text(mass_set)
    if isinstance(masses, Prepared):
        images = masses.images
    else:
        regions = read_regions(masses, config.roi, workers=workers, progress=progress)
        mass_set, images = regions.mass_set, regions.images
    binding = {"settings": config.to_toml(), "data": array_hash(images)}
    claim(out, binding, resume=resume)
    write_record(out, {"status": "running", "binding": binding})
    finished = _read_batches(out / "search")
    patients = mass_set.patient_numbers

    def on_batch(key: tuple[int, int], batch: Sequence[Found]) -> None:
        finished.setdefault(key, []).extend(batch)
        _write_batches(out / "search", key, finished[key])

    augmented = augment(
        config,
        images,
        np.arange(len(images)),
        mass_set.labels,
        patients,
        rng=np.random.default_rng(config.seed),
        workers=workers,
        progress=progress,
        finished={key: tuple(batches) for key, batches in finished.items()},
        on_batch=on_batch,
    )
    found, parents = augmented.neighbors, augmented.parents
    write_neighbors(out, found, parents, mass_set, config.neighbors)
    with atomic_path(out / "neighbors.png") as temporary:
        _picture(images, found, parents, mass_set.classes).save(temporary, pnginfo=_png_text())
    write_text(out / "config.toml", config.to_toml())
    summary = {
        "neighbors": {
            f"{kind} {name}": int(((found.labels == label) & (found.kinds == sign)).sum())
            for label, name in enumerate(mass_set.classes)
            for kind, sign in _SIGNS
        },
        "breaking_a_rule": int((~found.keeps_rules).sum()),
        "privacy": _privacy(images, mass_set, found, config.neighbors.distance),
    }
    write_json(out / "augmentation.json", summary)
    shutil.rmtree(out / "search", ignore_errors=True)
    write_record(out, {"status": "finished", "binding": binding})
    return summary


def _privacy(images: Images, mass_set: MassSet, found: Neighbors, distance: Distance) -> dict[str, Any]:
    """How near neighbors are to their nearest real mass, beside how near real masses are to each other."""
    measure = cosine_distance if distance == "cosine" else angular_distance
    figures: dict[str, Any] = {}
    for label, name in enumerate(mass_set.classes):
        rows = images[mass_set.labels == label].reshape(int((mass_set.labels == label).sum()), -1)
        apart = measure(rows, rows)
        np.fill_diagonal(apart, np.inf)
        usual = float(np.median(apart.min(axis=1)))
        for kind, sign in _SIGNS:
            moved = found.nearest_original[(found.labels == label) & (found.kinds == sign)]
            if len(moved):
                low, median, high = np.quantile(moved, [0.05, 0.5, 0.95]) / usual
                figures[f"{kind} {name}"] = {
                    "nearest_original_over_originals_own": {"median": median, "5 %": low, "95 %": high},
                    "originals_own_median": usual,
                }
    return figures


def _write_batches(folder: Path, key: tuple[int, int], found: Sequence[Found]) -> None:
    """Write all that a search has found so far, for `--resume`."""
    with atomic_path(folder / f"{key[0]}_{key[1]}.npz") as temporary:
        np.savez(
            temporary,
            images=np.array([one.image for one in found], dtype=np.float32),
            parents=np.array([one.parent for one in found], dtype=np.int64),
            probabilities=np.array([one.probability for one in found], dtype=np.float64),
        )


def _read_batches(folder: Path) -> dict[tuple[int, int], list[Found]]:
    found: dict[tuple[int, int], list[Found]] = {}
    for path in sorted(folder.glob("*.npz")):
        label, _, sign = path.stem.partition("_")
        with np.load(path, allow_pickle=False) as file:
            parts = zip(file["images"], file["parents"].tolist(), file["probabilities"].tolist(), strict=True)
            found[int(label), int(sign)] = [Found(*part) for part in parts]
    return found


def _png_text() -> PngInfo:
    """The mark inside the picture's own file."""
    text = PngInfo()
    text.add_text("Comment", SYNTHETIC)
    return text


def _picture(
    images: Images, found: Neighbors, parents: Int[np.ndarray, "neighbor"], classes: Sequence[str]
) -> PillowImage.Image:
    """Fig. 2: for each class and sign, originals with the row of each in the data, and below each its neighbor."""
    per_pixel = -(-_LEAST_TILE // images.shape[1])  # small regions are shown larger, so that words fit above them
    tile = per_pixel * images.shape[1]
    kinds = [
        (label, kind, np.flatnonzero((found.labels == label) & (found.kinds == sign))[:_COLUMNS])
        for label in range(len(classes))
        for kind, sign in _SIGNS
    ]
    size = _MARGIN + max(len(chosen) for *_, chosen in kinds) * (tile + _GAP), 2 * len(kinds) * (tile + _LINE + _GAP)
    sheet = PillowImage.new("L", size, 255)
    draw = ImageDraw.Draw(sheet)
    for place, (label, kind, chosen) in enumerate(kinds):
        for below, (title, pictures) in enumerate(
            (
                (f"{classes[label]}\noriginals", images[parents[chosen]]),
                (f"{classes[label]}\n{kind}", found.images[chosen]),
            )
        ):
            top = (2 * place + below) * (tile + _LINE + _GAP)
            draw.multiline_text((_GAP, top + _LINE), title if len(chosen) else f"{title}\nnone", fill=0)
            for column, (picture, parent) in enumerate(zip(pictures, parents[chosen].tolist(), strict=True)):
                left = _MARGIN + column * (tile + _GAP)
                draw.text((left, top), "SYNTHETIC" if below else f"row {parent}", fill=0)
                levels = (picture * 255).round().astype(np.uint8).repeat(per_pixel, 0).repeat(per_pixel, 1)
                sheet.paste(PillowImage.fromarray(levels), (left, top + _LINE))
    return sheet
