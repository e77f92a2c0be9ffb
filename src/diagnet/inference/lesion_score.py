"""What a model says of a lesion that is marked in two views: the mean log-odds of its masses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diagnet.evaluation.lesions import Sighting, lesion_groups, lesion_scores
from diagnet.inference.assessment import Assessment


def with_lesion_scores(assessments: Sequence[Assessment], sightings: Sequence[Sighting]) -> list[Assessment]:
    """Give masses that are one lesion its score, where two or more of them have one.

    Args:
        assessments: of marked masses.
        sightings: where each was seen, and whose it is.
    """
    if not assessments:
        return []
    groups = lesion_groups(sightings)
    malignancy = np.array([np.nan if each.malignancy is None else each.malignancy for each in assessments])
    n_scored = np.bincount(groups[~np.isnan(malignancy)], minlength=int(groups.max()) + 1)
    scores = lesion_scores(malignancy, groups)
    return [
        replace(each, lesion_malignancy=float(scores[group]), lesion_masses=int(n_scored[group]))
        if n_scored[group] > 1 and each.malignancy is not None
        else each
        for each, group in zip(assessments, groups, strict=True)
    ]
