"""Scored masses, and how their scores become those of images and patients."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from diagnet.arrays import Labels
from diagnet.data.mass import malignant_class
from diagnet.evaluation.calibration import PointScores, Probabilities

Groups = Int[np.ndarray, "point"]  # which group (a patient) each point belongs to


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of labeled masses (or of images, or of patients).

    Attributes:
        images: image each mass lies on.
        patients: patient of each mass.
        labels: class index of each mass.
        probabilities: of each class, in [0, 1].
        classes: class names; the index is the label.

    Raises:
        ValueError: there is nothing, lengths differ, a label is no class, or a probability is not in [0, 1].
    """

    images: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Labels
    probabilities: Probabilities
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.labels)
        if n == 0 or not len(self.images) == len(self.patients) == len(self.probabilities) == n:
            raise ValueError(
                "`images`, `patients`, `labels` and `probabilities` must have one entry a mass, got"
                f" {len(self.images)}, {len(self.patients)}, {n} and {len(self.probabilities)}"
            )
        if len(self.classes) < 2 or self.probabilities.shape[1] != len(self.classes):
            raise ValueError(
                f"`probabilities` must have a column for each of at least 2 classes, got"
                f" {self.probabilities.shape[1]} for {len(self.classes)}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.classes):
            raise ValueError(
                f"`labels` must be less than {len(self.classes)} and not negative, got {self.labels.min()} to"
                f" {self.labels.max()}"
            )
        if not ((self.probabilities >= 0) & (self.probabilities <= 1)).all():  # NaN fails too
            raise ValueError("`probabilities` must be in [0, 1], got another value or NaN")

    @property
    def malignant_class(self) -> int:
        """Index of the class "malignant"; of the last class where none has that name."""
        return malignant_class(self.classes)

    @property
    def malignancy(self) -> PointScores:
        """Probability of the malignant class, in [0, 1]."""
        return np.asarray(self.probabilities[:, self.malignant_class])

    @property
    def malignant(self) -> Labels:
        """1 where the label is the malignant class, else 0."""
        return np.asarray(self.labels == self.malignant_class, dtype=np.int64)

    @property
    def image_groups(self) -> Groups:
        """Which image each mass lies on, numbered in order of appearance."""
        return numbered([*zip(self.patients, self.images, strict=True)])

    @property
    def patient_groups(self) -> Groups:
        """Which patient each mass belongs to, numbered in order of appearance."""
        return numbered(self.patients)

    def part(self, points: Int[np.ndarray, "part"]) -> "Predictions":
        """Return the predictions of the given points, in their order; there must be at least one."""
        return Predictions(
            images=tuple(self.images[i] for i in points),
            patients=tuple(self.patients[i] for i in points),
            labels=self.labels[points],
            probabilities=self.probabilities[points],
            classes=self.classes,
        )

    def per_image(self) -> "Predictions":
        """One entry an image: the probabilities of its most suspicious mass, the most severe label (reading 15)."""
        return self._merged(self.image_groups)

    def per_patient(self) -> "Predictions":
        """One entry a patient: probabilities of the most suspicious mass, the most severe label (reading 15)."""
        return self._merged(self.patient_groups)

    def _merged(self, groups: Groups) -> "Predictions":
        # Malignant is the most severe label; beyond that, the order of the classes counts.
        severe = np.where(self.malignant == 1, len(self.classes), self.labels)
        most_suspicious = deciding(self.malignancy, groups)
        return replace(self.part(most_suspicious), labels=self.labels[deciding(severe, groups)])


def numbered(keys: Sequence[Hashable]) -> Groups:
    """Number the keys in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def deciding(values: PointScores | Labels, groups: Groups) -> Int[np.ndarray, "group"]:
    """Index of the highest value of each group, in the order of the groups; of equal ones, the first."""
    order = np.lexsort((-values, groups))
    return order[np.unique(groups[order], return_index=True)[1]]
