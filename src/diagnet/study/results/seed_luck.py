"""How much of a figure is the luck of a training's seed: known from arms with repeats, lent to arms with one."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.study.results.scores import Measure, Scores, Truth, figures_by_fold, jobs_done

Source = Literal["own", "borrowed", "given", "none"]


class Spread(NamedTuple):
    """Why trainings of one fold differ in a figure.

    Attributes:
        seed: variance between seeds that would stay on any number of test masses; may be below 0 by chance.
        masses: variance because each training errs on masses of its own; the bootstrap over patients holds it already.
        freedom: degrees of freedom of both.
    """

    seed: float
    masses: float
    freedom: int


class Luck(NamedTuple):
    """Variance of one training's figure in one fold by its seed, as it is taken, and where it is from."""

    seed: float
    source: Source


def spread(
    scores: Scores,
    truth: Truth,
    *,
    against: Scores | None = None,
    measure: Measure = weighted_auc,
) -> Spread:
    """Split the variance between the repeats of a fold, s^2, into the seeds' part and the test masses' part.

    Two trainings scored on the same masses differ for two reasons. One is better than the other; and each errs on
    masses of its own, which other masses would even out. The bootstrap over patients measures the second part and
    holds it in every interval. To add all of s^2 would count it twice.

    Args:
        scores: of an arm.
        truth: of the same masses.
        against: an arm to subtract, repeat by repeat.
        measure: the figure.

    Returns:
        Means over the folds with two repeats or more; `freedom` is 0 where there are none.
    """
    done = jobs_done(scores, truth)
    if against is not None:
        done &= jobs_done(against, truth)
    done &= done.sum(axis=1, keepdims=True) > 1  # one repeat tells nothing, and resampling it takes time
    seed = masses = freedom = 0.0
    for per_repeat in figures_by_fold(scores, truth, against=against, jobs=done, measure=measure):
        n = per_repeat.shape[1]
        apart = per_repeat - per_repeat.mean(axis=1, keepdims=True)
        own = float(np.nansum(np.nanvar(apart[1:], axis=0, ddof=1)))
        seed += float((apart[0] ** 2).sum()) - own
        masses += own
        freedom += n - 1
    if not freedom:
        return Spread(0.0, 0.0, 0)
    return Spread(seed / freedom, masses / freedom, int(freedom))


@dataclass(frozen=True, slots=True)
class SeedLuck:
    """What is known of the luck of seeds in a study, for one figure.

    Attributes:
        truth: of the study's masses.
        measure: the figure.
        lent: variance lent to arms with one repeat; None: there is no arm to borrow from.
        given: standard deviation that the user gives, used where there is no arm to borrow from.
        measured: arms whose spread is known already.
        lenders: arms with repeats that lend.
        same_draws: groups of arms that learn from the same drawn masses in each repeat.
        between: mean luck of the differences of a group's pairs, of the groups that were asked for.
    """

    truth: Truth
    measure: Measure
    lent: float | None
    given: float | None
    measured: Sequence[tuple[Scores, Spread]]
    lenders: Sequence[Scores]
    same_draws: Sequence[Sequence[Scores]] = ()
    between: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        arms: Sequence[Scores],
        truth: Truth,
        *,
        lenders: Sequence[Scores] | None = None,
        given: float | None = None,
        same_draws: Sequence[Sequence[Scores]] = (),
        measure: Measure = weighted_auc,
    ) -> "SeedLuck":
        """Measure it.

        Args:
            arms: of a study.
            truth: of its masses.
            lenders: arms that may lend; all by default.
            given: standard deviation of a training's figure by its seed, where no arm can lend.
            same_draws: groups of arms that learn from the same drawn masses in each repeat.
            measure: the figure.
        """
        every = [*arms, *(arm for arm in lenders or () if not any(arm is other for other in arms))]
        measured = [(arm, spread(arm, truth, measure=measure)) for arm in every]
        lending = [
            (arm, found)
            for arm, found in measured
            if found.freedom and (lenders is None or any(arm is other for other in lenders))
        ]
        lent = None
        if lending:
            lent = float(np.average([each.seed for _, each in lending], weights=[each.freedom for _, each in lending]))
        return cls(truth, measure, lent, given, measured, [arm for arm, _ in lending], same_draws)

    def of_arm(self, arm: Scores) -> Luck:
        """Luck of a training of an arm: its own where it has repeats, else borrowed.

        A few repeats tell little of a variance. So an arm that lends has no less than the mean of all that lend.
        """
        known = [found for other, found in self.measured if other is arm]
        own = known[0] if known else spread(arm, self.truth, measure=self.measure)
        lent = 0.0 if self.lent is None else max(self.lent, 0.0)
        if own.freedom:
            return Luck(max(own.seed, lent if any(arm is each for each in self.lenders) else 0.0), "own")
        if self.lent is not None:
            return Luck(lent, "borrowed")
        return Luck(0.0, "none") if self.given is None else Luck(self.given**2, "given")

    def of_difference(self, arm: Scores, against: Scores) -> Luck:
        """Luck of a difference: the sum of the two arms', as seeds of two arms have nothing in common.

        Arms that learn from the same drawn masses share the luck of the draw, and it leaves their difference. What
        stays is seen between the repeats of differences. As one pair tells little, it has no less than the mean of all
        pairs of its group, up to that sum.
        """
        parts = [self.of_arm(each) for each in (arm, against)]
        apart = Luck(sum(part.seed for part in parts), max((p.source for p in parts), key=get_args(Source).index))
        for number, group in enumerate(self.same_draws):
            if all(any(each is other for other in group) for each in (arm, against)):
                own = spread(arm, self.truth, against=against, measure=self.measure)
                if own.freedom:
                    return Luck(min(max(own.seed, self._between(number), 0.0), apart.seed), apart.source)
        return apart

    def _between(self, number: int) -> float:
        """Mean luck of the differences of a group's pairs, measured once for all of them."""
        if number not in self.between:
            pairs = itertools.combinations(self.same_draws[number], 2)
            found = [spread(arm, self.truth, against=against, measure=self.measure) for arm, against in pairs]
            mean = np.average([each.seed for each in found], weights=[each.freedom for each in found])
            self.between[number] = float(mean)
        return self.between[number]


def lenders(arms: Sequence[Scores], record: Mapping[str, Any]) -> list[Scores]:
    """Arms of a study that may lend: networks trained on all masses.

    A classifier of hand-crafted features has next to no luck; a network of few masses has another.
    """
    described = record["arms"]
    return [arm for arm in arms if described[arm.name]["method"] == "network" and not described[arm.name]["n_train"]]


def on_same_draws(arms: Sequence[Scores], record: Mapping[str, Any]) -> list[list[Scores]]:
    """Arms of a study that learn from the same masses in each repeat, where it draws some (`n_train`)."""
    groups: dict[tuple[str, ...], list[Scores]] = {}
    for arm in arms:
        described = record["arms"][arm.name]
        if described["n_train"]:
            seen = tuple(str(described.get(key)) for key in ("n_train", "holdout", "sources"))
            groups.setdefault(seen, []).append(arm)
    return list(groups.values())
