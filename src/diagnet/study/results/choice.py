"""Which arm inner folds would choose, and what outer folds then say of it (Fig. 3)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.study.results.row_files import Row
from diagnet.study.results.scores import Scores, Truth, part_of, percentiles, resampled
from diagnet.study.results.seed_luck import SeedLuck

Jobs = Mapping[tuple[int, int], list[Row]]


class Choice(NamedTuple):
    """What the inner folds of an outer fold choose.

    Attributes:
        arm: its name.
        merit: mean AUC of the masses that its jobs held out of training.
        repeats: those that all arms have done.
    """

    arm: str
    merit: float
    repeats: list[int]


def choose(arms: Mapping[str, Jobs], truth: Truth, repeats: int) -> dict[int, Choice]:
    """Choose the arm with the greatest merit for each outer fold; see `choice`."""
    found: dict[int, Choice] = {}
    if len(arms) < 2:
        return found
    for fold in range(int(truth.folds.max()) + 1):
        begun = {name: jobs for name, jobs in arms.items() if any(at == fold for at, _ in jobs)}
        shared = [r for r in range(repeats) if all((fold, r) in jobs for jobs in begun.values())]
        if not begun or not shared:
            continue
        merits = {
            name: float(np.mean([_auc(jobs[fold, r], "validation", truth) for r in shared]))
            for name, jobs in begun.items()
        }
        best = max(merits, key=lambda name: merits[name])
        found[fold] = Choice(best, merits[best], shared)
    return found


def choice(arms: Mapping[str, Jobs], truth: Truth, repeats: int, luck: SeedLuck | None = None) -> list[dict[str, Any]]:
    """Choose an arm for each outer fold by its inner folds, and score the fold with it.

    An arm's merit in an outer fold is the mean AUC of the masses its jobs held out of training, which are of that
    fold's training patients: the test masses have no part in the choice. The last line is the AUC of the whole
    procedure; its interval takes the choices as given.

    Args:
        arms: rows of arms that hold out an inner fold, by (fold, repeat).
        truth: of the masses.
        repeats: of the study.
        luck: of the seeds, for arms with one repeat.

    Returns:
        A line for each outer fold that all arms begun in it have done in at least one repeat; nothing for fewer than
        two arms.
    """
    lines: list[dict[str, Any]] = []
    values = np.full((repeats, len(truth.targets)), np.nan)
    for fold, (best, merit, shared) in choose(arms, truth, repeats).items():
        for r in shared:
            index, scores = part_of(arms[best][fold, r], "test")
            values[r, index] = scores
        tested = float(np.mean([_auc(arms[best][fold, r], "test", truth) for r in shared]))
        lines.append(
            {
                "fold": str(fold),
                "chosen": best,
                "inner_auc": merit,
                "auc": {"value": tested, "low": None, "high": None},
            }
        )
    if not lines:
        return []
    chosen = Scores("chosen", values, np.zeros(0))
    luck = luck or SeedLuck.of([chosen], truth)
    whole = percentiles(resampled(chosen, truth, seed_variance=luck.of_arm(chosen).seed))
    return [*lines, {"fold": "all", "chosen": "", "inner_auc": None, "auc": whole}]


def _auc(rows: list[Row], part: str, truth: Truth) -> float:
    index, scores = part_of(rows, part)
    return float(weighted_auc(scores, truth.targets[index], np.ones((1, len(index))))[0])
