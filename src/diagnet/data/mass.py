"""A mass: the unit of everything here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from diagnet.arrays import Image, Labels
from diagnet.data.box import BoxLike

MALIGNANT = "malignant"  # the class that scores speak for
CLASSES = ("benign", MALIGNANT)  # the index is the label
SYNTHETIC = "synthetic"  # the `label_source` of phantoms' masses, by which tables, runs and models know them


def malignant_class(classes: Sequence[str]) -> int:
    """Index of the class "malignant"; of the last class where none has that name."""
    return classes.index(MALIGNANT) if MALIGNANT in classes else len(classes) - 1


@dataclass(frozen=True, slots=True)
class Mass:
    """One outlined mass on one image.

    Attributes:
        image: path of the image file (absolute), or its pixels in [0, 1].
        box: (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive; None for the whole image.
        label: a class name, or None where it is not known.
        patient_id: the unit of every split.
        laterality: "L", "R" or "".
        view: "CC", "MLO", "ML", ... or "".
        label_source: where the label came from, such as "birads" or "biopsy".
        spacing_mm: (row, column) size of a pixel in millimetres, None where it is not known.
        original_size: (width, height) of the image before somebody stretched it, None where it was not.
        extra: further columns of the manifest, as they came.
        source: name of its source where several are one data set (`diagnet.data.sources`), else "".
    """

    image: Path | Image
    box: BoxLike | None
    label: str | None
    patient_id: str
    laterality: str = ""
    view: str = ""
    label_source: str = ""
    spacing_mm: tuple[float, float] | None = None
    original_size: tuple[float, float] | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class MassSet:
    """What a reader found: labelled masses, and what it left out.

    Attributes:
        masses: the labelled masses, in the order of the source.
        classes: class names; a label's index is its position here.
        source: what was read, for people (a path).
        left_out: reason -> how many masses (or table rows) are not in `masses`.
        notes: observation -> how often; nothing was left out for these.
        sources: where there are several, the name of each (`Mass.source`) -> what was read.
        distinct_patients: whether patients of the same name in different sources are different patients.
        unlabelled: masses of the source without a label, counted in `left_out` too.
    """

    masses: Sequence[Mass]
    classes: tuple[str, ...] = CLASSES
    source: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    distinct_patients: bool = False
    unlabelled: Sequence[Mass] = ()

    @property
    def labels(self) -> Labels:
        """Class of each mass, as its index in `classes`."""
        return np.array([self.classes.index(str(mass.label)) for mass in self.masses], dtype=np.int64)

    @property
    def is_synthetic(self) -> bool:
        """Whether some of the masses are phantoms': a model trained on them says nothing about patients."""
        return any(mass.label_source == SYNTHETIC for mass in self.masses)

    @property
    def patients(self) -> list[str]:
        """Patient of each mass, the same text for the same patient; with distinct patients it holds the source too."""
        if self.distinct_patients:
            return [repr((mass.source, mass.patient_id)) for mass in self.masses]
        return [mass.patient_id for mass in self.masses]

    @property
    def patient_numbers(self) -> Int64[np.ndarray, "mass"]:
        """Patient of each mass as a number from 0 up, the same for masses of one patient."""
        return np.unique(self.patients, return_inverse=True)[1].astype(np.int64)

    @property
    def image_names(self) -> list[str]:
        """Name of each mass's image file, relative to the folder of its source where it lies inside.

        Where there are several sources, such a name begins with the source's, and a file has the first of its names.
        """
        folders = {name: _folder(source) for name, source in (self.sources or {"": self.source}).items()}
        names: list[str] = []
        first: dict[Path, str] = {}
        for index, mass in enumerate(self.masses):
            if not isinstance(mass.image, Path):
                names.append(f"image-{index}")
                continue
            folder = folders[mass.source if self.sources else ""]
            inside = mass.image.is_relative_to(folder)
            name = str(mass.image.relative_to(folder) if inside else mass.image)
            if self.sources:
                name = first.setdefault(mass.image.resolve(), f"{mass.source}/{name}" if inside else name)
            names.append(name)
        return names


def _folder(source: str) -> Path:
    """The folder that the names of a source's images are relative to."""
    path = Path(source or ".").absolute()
    return path if path.is_dir() else path.parent
