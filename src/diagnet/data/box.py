"""A box: what of an image a mass takes up, in pixels."""

import math
from typing import NamedTuple

MAX_OVERHANG_PX = 1  # a box that leaves its image by no more was only rounded


class Box(NamedTuple):
    """A box in pixels of its image file, x1 and y1 exclusive.

    Any four numbers make one. Code that reads one from outside checks `is_finite` and `has_area`, and raises an error
    of its own. It equals and unpacks as the tuple of its numbers, and its `repr` is that tuple's.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __repr__(self) -> str:  # names of jobs, UIDs and hashes of inputs are made of it
        return repr(tuple(self))

    @classmethod
    def whole(cls, width: int, height: int) -> "Box":
        """Return the box that covers an image of this width and height, in pixels."""
        return cls(0.0, 0.0, float(width), float(height))

    @classmethod
    def parsed(cls, text: str) -> "Box":
        """Read `10,20,110,140` as a box.

        Raises:
            ValueError: it is not four numbers.
        """
        numbers = [float(number) for number in text.split(",")]
        if len(numbers) != len(cls._fields):
            raise ValueError(f"`box` must be four numbers, got {len(numbers)}.")
        return cls(*numbers)

    def shown(self, between: str = ", ") -> str:
        """Write the numbers for people; with `,` between them, `parsed` reads them back."""
        return between.join(f"{number:g}" for number in self)

    @property
    def width(self) -> float:
        """Side along a row, in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Side along a column, in pixels."""
        return self.y1 - self.y0

    @property
    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return all(map(math.isfinite, self))

    @property
    def has_area(self) -> bool:
        """Whether x0 < x1 and y0 < y1."""
        return bool(self.x0 < self.x1 and self.y0 < self.y1)

    def overlaps(self, width: int, height: int) -> bool:
        """Whether a part of it lies in an image of this size."""
        return bool(self.has_area and self.x0 < width and self.y0 < height and self.x1 > 0 and self.y1 > 0)

    def clipped(self, width: int, height: int) -> "Box":
        """Cut off what is outside an image of this size; a box that is outside altogether has no area then."""
        return Box(max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, float(width)), min(self.y1, float(height)))

    def overhang(self, width: int, height: int) -> tuple[float, float, float, float]:
        """By how many pixels each of x0, y0, x1, y1 leaves an image of this size."""
        x0, y0, x1, y1 = self.clipped(width, height)
        return abs(self.x0 - x0), abs(self.y0 - y0), abs(self.x1 - x1), abs(self.y1 - y1)

    def inside(self, width: int, height: int) -> "Box | None":
        """Return the box clipped to an image, if it was only rounded: it leaves it by no more than a pixel."""
        clipped = self.clipped(width, height)
        is_rounded = max(self.overhang(width, height)) <= MAX_OVERHANG_PX
        return clipped if is_rounded and clipped.has_area else None

    def resized(self, across: float, down: float, width: int, height: int) -> "Box":
        """Give it other sides about the same center, inside an image (reading 14).

        Where it would leave the image it is moved inwards; sides that are longer than the image's are cut to them.

        Args:
            across: its new width in pixels.
            down: its new height in pixels.
            width: of the image in pixels.
            height: of the image in pixels.
        """
        left, right = _span((self.x0 + self.x1) / 2, across, float(width))
        top, bottom = _span((self.y0 + self.y1) / 2, down, float(height))
        return Box(left, top, right, bottom)

    def scaled(self, across: float, down: float) -> "Box":
        """Say where it lies in an image that is so many times as wide and as high."""
        return Box(self.x0 * across, self.y0 * down, self.x1 * across, self.y1 * down)


_Side = float | int
BoxLike = Box | tuple[_Side, _Side, _Side, _Side]  # what callers may give where a box is asked for


def _span(center: float, side: float, limit: float) -> tuple[float, float]:
    """Place a side about `center`, inside [0, limit]."""
    side = min(side, limit)
    start = min(max(center - side / 2, 0.0), limit - side)
    return start, min(start + side, limit)
