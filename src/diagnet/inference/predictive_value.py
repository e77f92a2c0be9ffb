"""What a score means: how many of the held-out masses that were scored alike were malignant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from diagnet.data.mass import MALIGNANT
from diagnet.evaluation.bootstrap import Interval, draw_patients, proportion
from diagnet.inference.assessment import Assessment
from diagnet.run.tables import PREDICTIONS, read_predictions

_MOST, _LEAST = 100, 20  # masses that count as scored alike
_PART = 4  # else the nearest quarter: all of them would say how frequent cancer is, whatever the score
_N_RESAMPLES, _CONFIDENCE = 2000, 0.95


@dataclass(frozen=True, slots=True)
class Meaning:
    """What became of held-out masses scored like one.

    Attributes:
        n_like: how many there are.
        n_malignant: how many of them were malignant.
        share: fraction that was malignant, with its 95 % interval by patient bootstrap.
        low_score: the lowest of their scores.
        high_score: the highest.
        source: that all of them come from; "" where the run had one.
    """

    n_like: int
    n_malignant: int
    share: Interval
    low_score: float
    high_score: float
    source: str = ""

    @property
    def text(self) -> str:
        """The same in one sentence for people: how many masses of like scores were malignant, in percent."""
        low, high = self.share["low"], self.share["high"]
        of_source = f" of the source {self.source}" if self.source else ""
        doubt = "" if low is None or high is None else f", 95 % interval {100 * low:.0f} to {100 * high:.0f} %"
        return (
            f"Of {self.n_like} masses{of_source} with scores like this one ({100 * self.low_score:.0f} to"
            f" {100 * self.high_score:.0f} %), {self.n_malignant} were malignant:"
            f" {100 * self.n_malignant / self.n_like:.0f} %{doubt}."
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Masses that a run's networks had not seen when they scored them.

    Attributes:
        malignancy: calibrated scores.
        is_malignant: their labels.
        patients: numbers from 0 up.
        index: of the mass in the run's data.
        sources: name of each mass's source, "" where the run had one.
    """

    malignancy: Float[np.ndarray, "mass"]
    is_malignant: Bool[np.ndarray, "mass"]
    patients: Int[np.ndarray, "mass"]
    index: Int[np.ndarray, "mass"]
    sources: tuple[str, ...]

    def meaning(self, malignancy: float, source: str = "") -> Meaning | None:
        """Look at the masses whose scores are nearest: a quarter, from 20 to 100 of them.

        The patients among them are drawn again for the interval; which masses are alike stays as it is.

        Args:
            malignancy: the score.
            source: whose masses are looked at; "": all.

        Returns:
            What became of them; None where there are none.
        """
        of_source = np.flatnonzero([not source or each == source for each in self.sources])
        if not len(of_source):
            return None
        n_like = min(len(of_source), max(_LEAST, min(_MOST, len(of_source) // _PART)))
        nearest = np.argsort(np.abs(self.malignancy[of_source] - malignancy), kind="stable")
        like = np.sort(of_source[nearest[:n_like]])
        patients = np.unique(self.patients[like], return_inverse=True)[1].astype(np.int64)
        counts = draw_patients(int(patients.max()) + 1, _N_RESAMPLES, rng=np.random.default_rng(0))
        malignant = self.is_malignant[like]
        found = proportion(malignant, np.ones(n_like, dtype=bool), patients, counts, _CONFIDENCE)
        scores = self.malignancy[like]
        return Meaning(n_like, int(malignant.sum()), found, float(scores.min()), float(scores.max()), source)

    def meaning_of(self, found: Assessment) -> Meaning | None:
        """`meaning` of an assessment; None where there is no score, or none of the masses looked like this one."""
        if found.malignancy is None or found.is_unlike:
            return None
        return self.meaning(found.malignancy, found.training_source)


def find_held_out(run: Path) -> HeldOut | None:
    """Read the held-out masses of a run; None where it has none.

    Raises:
        RunFolderError: its predictions.csv cannot be read.
    """
    return read_held_out(run) if (run / PREDICTIONS).exists() else None


def meaning_texts(held_out: HeldOut | None, found: Sequence[Assessment]) -> list[str]:
    """Say of each assessment what its score means, in a sentence; "" where that is not known."""
    meanings = [held_out.meaning_of(each) if held_out else None for each in found]
    return [meaning.text if meaning else "" for meaning in meanings]


def read_held_out(run: Path) -> HeldOut:
    """Read the held-out masses of a run.

    Raises:
        RunFolderError: its predictions.csv cannot be read.
    """
    masses = read_predictions(run)
    return HeldOut(
        malignancy=np.array([mass.malignancy for mass in masses], dtype=np.float64),
        is_malignant=np.array([mass.label == MALIGNANT for mass in masses], dtype=np.bool_),
        patients=np.unique([mass.patient_id for mass in masses], return_inverse=True)[1].astype(np.int64),
        index=np.array([mass.index for mass in masses], dtype=np.int64),
        sources=tuple(mass.source for mass in masses),
    )
