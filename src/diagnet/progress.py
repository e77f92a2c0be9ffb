"""Progress of long work: one callable, given by the caller who shows it."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Progress(Protocol):
    """Called after each step of long work."""

    def __call__(self, stage: str, done: int, total: int, note: str = "", /) -> None:
        """Take the stage, its steps done and in all, and a note (images per second, losses)."""


def silent(_stage: str, _done: int, _total: int, _note: str = "", /) -> None:
    """Show nothing: the default everywhere in the library."""


def tracked(items: Iterable[Item], progress: Progress, stage: str, total: int) -> Iterator[Item]:
    """Yield `items` and call `progress` after each."""
    progress(stage, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(stage, done, total)
