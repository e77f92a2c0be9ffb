"""How many samples each class is to gain, asked for as imbalanced-learn asks its over-samplers."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

SamplingStrategy: TypeAlias = str | float | Mapping[Any, int] | Callable[[Any], Mapping[Any, int]]

_NAMES = ("auto", "not majority", "minority", "not minority", "all")


def samples_to_make(strategy: SamplingStrategy, y: Sequence[Hashable]) -> dict[Any, int]:
    """Return how many samples each class is to gain.

    Args:
        strategy: "minority", "not minority", "not majority" ("auto") or "all": such classes become as large as the
            largest. A number, for two classes: wanted size of the smaller over that of the larger. A mapping, or a
            function of `y` that returns one: wanted size of some classes.
        y: class of each sample.

    Raises:
        ValueError: it is none of these, or asks for fewer samples than there are.
    """
    counts = Counter(y)
    largest, smallest = max(counts, key=lambda each: counts[each]), min(counts, key=lambda each: counts[each])
    wanted: Mapping[Any, int]
    if callable(strategy):
        strategy = strategy(y)
    if isinstance(strategy, Mapping):
        wanted = strategy
    elif isinstance(strategy, str):
        if strategy not in _NAMES:
            raise ValueError(f"`sampling_strategy` must be one of {', '.join(_NAMES)}, got {strategy!r}")
        only = {"minority": {smallest}, "not minority": set(counts) - {smallest}}.get(strategy, set(counts))
        wanted = dict.fromkeys(only, counts[largest])
    else:
        if len(counts) != 2 or not 0 < strategy <= 1:
            raise ValueError(
                f"`sampling_strategy` must be a fraction in (0, 1] where there are two classes, got {strategy}"
                f" for {len(counts)} classes"
            )
        wanted = {smallest: int(strategy * counts[largest])}
    for label, size in wanted.items():
        if label not in counts or size < counts[label]:
            raise ValueError(
                f"`sampling_strategy` must name classes of `y` and at least their sizes, got {size} for {label!r}"
            )
    return {label: int(wanted.get(label, count)) - count for label, count in counts.items()}
