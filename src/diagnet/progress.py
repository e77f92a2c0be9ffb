"""How long work tells where it is: one callable, given by whoever wants to show it."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[str, int, int], None]  # (stage, steps done, steps in all)

Item = TypeVar("Item")


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing: the default everywhere in the library."""


def tracked(items: Iterable[Item], progress: Progress, stage: str, total: int) -> Iterator[Item]:
    """Yield `items`, telling `progress` after each."""
    progress(stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(stage, done, total)
