"""A click inside a mass -> its box: a small network looks at what lies around the click, near and far."""

from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from diagnet.arrays import Image
from diagnet.data.box import Box
from diagnet.data.mammogram import Mammogram
from diagnet.errors import RefusedInputError

WEIGHTS = Path(__file__).parents[1] / "weights" / "one_click.safetensors"
REACHES = (40.0, 110.0)  # of what is looked at around the click, in units a side
SIDE = 64  # of each picture the network gets
UNITS_PER_IMAGE = 800.0  # of a whole mammogram's longer side
UNIT_MM = 0.3  # the same, where the file knows its spacing: 24 cm of film
TYPICAL = 23.0  # units from the click to an edge
_SMALLEST_PX = 4.0  # as the page's smallest box


class BoxNetwork(nn.Module):
    """Two pictures around a click -> how far left, up, right, down the mass reaches, in units."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(2, 16, 5, 2), (16, 32, 3, 2), (32, 32, 3, 1), (32, 48, 3, 2), (48, 48, 3, 1), (48, 64, 3, 2)]
        layers: list[nn.Module] = []
        for n_in, n_out, kernel, stride in sizes:
            layers += [
                nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False),
                nn.BatchNorm2d(n_out),
                nn.ReLU(),
            ]
        head = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 4)]
        self.layers = nn.Sequential(*layers, *head)

    def forward(self, pictures: Float[Tensor, "b 2 64 64"]) -> Float[Tensor, "b 4"]:
        """Distances from the click, all positive."""
        return TYPICAL * torch.exp(self.layers(pictures).clamp(-3, 3))


def box_at(mammogram: Mammogram, x: float, y: float, original_size: tuple[float, float] | None = None) -> Box:
    """Return the box of the mass that a click lies in; whether there is a mass, it does not say.

    Args:
        mammogram: as displayed.
        x: of the click, in pixels of the file.
        y: of the click, in pixels of the file.
        original_size: (width, height) before somebody stretched the image.

    Raises:
        RefusedInputError: the click is not in the image.
    """
    height, width = mammogram.pixels.shape
    if not (0 <= x < width and 0 <= y < height):
        raise RefusedInputError(f"`x`, `y` must lie in the image of {width} x {height} pixels, got {x:g}, {y:g}.")
    unit_x, unit_y = units(mammogram, original_size)
    pictures = torch.from_numpy(surroundings(mammogram.pixels, x, y, unit_x, unit_y))
    turned = torch.stack([_turned(pictures, k) for k in range(8)])
    with torch.inference_mode():
        distances = _network()(turned).log()
    mean = torch.stack([_turned_back(each, k) for k, each in enumerate(distances)]).mean(dim=0).exp().tolist()
    least = _SMALLEST_PX / 2
    left, up, right, down = (max(a * b, least) for a, b in zip(mean, (unit_x, unit_y) * 2, strict=True))
    return Box(x - left, y - up, x + right, y + down).clipped(width, height)


def units(mammogram: Mammogram, original_size: tuple[float, float] | None = None) -> tuple[float, float]:
    """Pixels of the file in a unit, across and down."""
    if mammogram.spacing_mm is not None:
        return UNIT_MM / mammogram.spacing_mm[1], UNIT_MM / mammogram.spacing_mm[0]
    height, width = mammogram.pixels.shape
    across, down = original_size or (width, height)
    unit = max(across, down) / UNITS_PER_IMAGE
    return unit * width / across, unit * height / down


def surroundings(pixels: Image, x: float, y: float, unit_x: float, unit_y: float) -> Float[np.ndarray, "2 64 64"]:
    """Cut what lies around a click, near and far, with grey values of mean 0 and deviation 1; outside is black."""
    height, width = pixels.shape
    found = np.empty((len(REACHES), SIDE, SIDE), np.float32)
    for picture, reach in zip(found, REACHES, strict=True):
        left, top, right, bottom = x - reach * unit_x, y - reach * unit_y, x + reach * unit_x, y + reach * unit_y
        x0, y0, x1, y1 = int(np.floor(left)), int(np.floor(top)), int(np.ceil(right)), int(np.ceil(bottom))
        inner = pixels[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
        around = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)))
        cut = PIL.Image.fromarray(np.pad(inner, around))
        size, box = (SIDE, SIDE), (left - x0, top - y0, right - x0, bottom - y0)
        picture[:] = np.asarray(cut.resize(size, PIL.Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))
        picture -= picture.mean()
        picture /= picture.std() + 0.02
    return found


def _turned(pictures: Float[Tensor, "2 h w"], way: int) -> Float[Tensor, "2 h w"]:
    """One of the eight ways to turn and mirror a picture."""
    sides = [dim for dim, bit in ((2, 1), (1, 2)) if way & bit]
    turned = pictures.flip(sides)
    return turned.transpose(1, 2) if way & 4 else turned


def _turned_back(distances: Float[Tensor, "4"], way: int) -> Float[Tensor, "4"]:
    """Left, up, right, down in the picture as it was before `_turned`."""
    left, up, right, down = distances
    if way & 4:
        left, up, right, down = up, left, down, right
    if way & 1:
        left, right = right, left
    if way & 2:
        up, down = down, up
    return torch.stack([left, up, right, down])


@cache
def _network() -> BoxNetwork:
    network = BoxNetwork()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.eval()
