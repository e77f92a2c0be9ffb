"""Lesions: masses that are one, seen in two views; their common score, and how good it is."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logit

from diagnet.data.mass import Mass
from diagnet.evaluation.bootstrap import Interval
from diagnet.evaluation.calibration import PointScores
from diagnet.evaluation.figures import EvaluationSettings, auc_of
from diagnet.evaluation.predictions import Groups, Predictions, deciding, numbered

_CERTAIN = 1e-6  # a probability is no nearer to 0 or 1, so that its log-odds are finite


class Sighting(NamedTuple):
    """Where a mass was seen, and whose it is.

    Attributes:
        patient: and, where they are told, the study and the source; None where the patient is not known.
        laterality: "L", "R" or "".
        view: "CC", "MLO", ... or "".
        lesion_id: the table's name of the lesion, "" where it has none.
    """

    patient: Hashable | None
    laterality: str
    view: str
    lesion_id: str = ""


class LesionFigures(TypedDict):
    """Figures of the lesions that were seen more than once.

    Attributes:
        n: how many there are.
        n_masses: how often they were seen.
        n_patients: whose they are.
        auc: of their scores.
        auc_of_masses: of the same masses one by one.
    """

    n: int
    n_masses: int
    n_patients: int
    auc: Interval
    auc_of_masses: Interval


def sightings_of(masses: Sequence[Mass], patients: Sequence[Hashable]) -> list[Sighting]:
    """Say where masses of a table were seen; a lesion of two sources is two.

    Args:
        masses: the table's.
        patients: of each.
    """
    return [
        Sighting((patient, mass.source), mass.laterality, mass.view, mass.extra.get("lesion_id", ""))
        for mass, patient in zip(masses, patients, strict=True)
    ]


def lesion_groups(sightings: Sequence[Sighting]) -> Groups:
    """Number the lesions in order of appearance; masses that are one lesion have one number.

    Masses are one where a table gives them one `lesion_id`, for one patient and side. Without that, they are one where
    they are the only mass in the CC images of a side and the only one in its MLO images.
    """
    keys: list[Hashable] = list(range(len(sightings)))
    by_breast: dict[Hashable, list[int]] = {}
    for index, each in enumerate(sightings):
        if each.patient is None:
            continue
        if each.lesion_id:
            keys[index] = (each.patient, each.laterality, each.lesion_id)
        elif each.laterality:
            by_breast.setdefault((each.patient, each.laterality), []).append(index)
    named = {(each.patient, each.laterality) for each in sightings if each.lesion_id}
    for breast, found in by_breast.items():
        views = Counter(sightings[index].view for index in found)
        if breast not in named and views["CC"] == views["MLO"] == 1:
            cc, mlo = (next(index for index in found if sightings[index].view == view) for view in ("CC", "MLO"))
            keys[mlo] = keys[cc]
    return numbered(keys)


def known_lesions(masses: Sequence[Mass], patients: Sequence[Hashable]) -> Groups:
    """Number the lesions; the CC and MLO view are one, and so is a mass that several sources have.

    A mass of several sources is the only one of its patient, side and view in each; side and view must be known.

    Args:
        masses: with a label or without.
        patients: of each.
    """
    groups = lesion_groups(sightings_of(masses, patients))
    seen: dict[Hashable, dict[str, list[int]]] = {}
    for index, (mass, patient) in enumerate(zip(masses, patients, strict=True)):
        if mass.laterality and mass.view:
            seen.setdefault((patient, mass.laterality, mass.view), {}).setdefault(mass.source, []).append(index)
    once = [[found[0] for found in each.values()] for each in seen.values() if all(len(f) == 1 for f in each.values())]
    pairs = np.array([(groups[found[0]], groups[k]) for found in once for k in found], dtype=np.int64).reshape(-1, 2)
    n = int(groups.max(initial=-1)) + 1
    same = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return numbered(connected_components(same, directed=False)[1][groups].tolist())


def lesion_scores(malignancy: PointScores, groups: Groups) -> Float[np.ndarray, "lesion"]:
    """Score of each lesion: the mean log-odds of its masses, as a probability; NaN masses are left out.

    Args:
        malignancy: of each mass, in [0, 1]; NaN where there is no score.
        groups: lesion of each mass, from `lesion_groups`.

    Returns:
        One score a lesion; NaN where no mass has one.
    """
    is_scored = ~np.isnan(malignancy)
    certain = np.clip(malignancy[is_scored], _CERTAIN, 1 - _CERTAIN)
    n_lesions = int(groups.max()) + 1
    counts = np.bincount(groups[is_scored], minlength=n_lesions)
    sums = np.bincount(groups[is_scored], logit(certain), minlength=n_lesions)
    with np.errstate(invalid="ignore"):
        return np.asarray(expit(sums / counts))


def figures_by_lesion(
    predictions: Predictions, groups: Groups, settings: EvaluationSettings, *, seed: Sequence[int]
) -> LesionFigures | None:
    """Measure the scores of the lesions that were seen more than once; None where there is none, or a class lacks.

    Args:
        predictions: of test masses, of two classes.
        groups: lesion of each, from `lesion_groups`.
        settings: how many resamples.
        seed: of the draws of patients, whose intervals are as those of `evaluate`.
    """
    again = np.flatnonzero(np.bincount(groups)[groups] > 1)
    if len(predictions.classes) != 2 or not len(again):
        return None
    masses, whose = predictions.part(again), np.unique(groups[again], return_inverse=True)[1]
    scores, malignant = lesion_scores(masses.malignancy, whose), predictions.malignant_class
    chances = np.empty((len(scores), 2))
    chances[:, malignant], chances[:, 1 - malignant] = scores, 1 - scores
    first = masses.part(deciding(masses.malignant, whose))  # the most severe label, should two differ
    lesions = Predictions(first.images, first.patients, first.labels, chances, first.classes)
    if len(set(lesions.labels.tolist())) < 2:
        return None
    return {
        "n": len(scores),
        "n_masses": len(again),
        "n_patients": len(set(lesions.patients)),
        "auc": auc_of(lesions, settings, seed=seed),
        "auc_of_masses": auc_of(masses, settings, seed=seed),
    }
