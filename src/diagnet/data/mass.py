"""A mass: the unit of everything here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from diagnet.arrays import Image, Labels
from diagnet.data.box import BoxLike

CLASSES = ("benign", "malignant")  # the index is the label


def malignant_class(classes: Sequence[str]) -> int:
    """Index of the class "malignant"; of the last class where none has that name."""
    return classes.index("malignant") if "malignant" in classes else len(classes) - 1


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


@dataclass(frozen=True, slots=True)
class MassSet:
    """What a reader found: labelled masses, and what it left out.

    Attributes:
        masses: the labelled masses, in the order of the source.
        classes: class names; a label's index is its position here.
        source: what was read, for people (a path).
        left_out: reason -> how many masses (or table rows) are not in `masses`.
        notes: observation -> how often; nothing was left out for these.
    """

    masses: Sequence[Mass]
    classes: tuple[str, ...] = CLASSES
    source: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """Class index of each mass."""
        return np.array([self.classes.index(str(mass.label)) for mass in self.masses], dtype=np.int64)

    @property
    def patients(self) -> list[str]:
        """Patient of each mass."""
        return [mass.patient_id for mass in self.masses]

    @property
    def patient_numbers(self) -> Int64[np.ndarray, "mass"]:
        """Patient of each mass as a number from 0 up."""
        return np.unique(self.patients, return_inverse=True)[1].astype(np.int64)

    @property
    def image_names(self) -> list[str]:
        """Name of each mass's image file, relative to the folder of its source where it lies inside."""
        source = Path(self.source or ".").absolute()
        folder = source if source.is_dir() else source.parent
        names = []
        for index, mass in enumerate(self.masses):
            if isinstance(mass.image, Path):
                inside = mass.image.is_relative_to(folder)
                names.append(str(mass.image.relative_to(folder) if inside else mass.image))
            else:
                names.append(f"image-{index}")
        return names
