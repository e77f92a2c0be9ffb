"""What runs the networks of a finished run: PyTorch, ONNX Runtime or OpenVINO; in float32 or bfloat16."""

import copy
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from diagnet.errors import MissingExtraError
from diagnet.network import Network, SeparableConv

if TYPE_CHECKING:
    import onnx

EngineName = Literal["torch", "onnxruntime", "openvino", "torch-bfloat16", "openvino-bfloat16"]
EngineChoice = Literal["auto", "torch", "onnxruntime", "openvino", "torch-bfloat16", "openvino-bfloat16"]
Engine = Callable[[Float32[np.ndarray, "b 1 h w"]], Float32[np.ndarray, "b ..."]]

_EXTRAS: dict[str, str] = {"onnxruntime": "onnx", "openvino": "openvino", "openvino-bfloat16": "openvino"}
# Parameters from which OpenVINO is preferred: it is the faster on `paper` (15 million). On `small` (0.2 million) ONNX
# Runtime is the faster for single images; for batches of 32 that was so in some measurements and not in others
# (benchmarks/inference.py).
_LARGE = 1_000_000
_BFLOAT16 = "-bfloat16"


class Ensemble(nn.Module):
    """Several networks as one module; it returns the logits of each."""

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b network class"]:
        """Return the logits of each network, stacked along the second axis."""
        return torch.stack([network(images) for network in self.networks], dim=1)


def resolve_engine(wanted: EngineChoice, networks: Sequence[Network]) -> EngineName:
    """Turn `auto` into the fastest float32 engine that is installed; the choice depends on nothing else.

    Raises:
        MissingExtraError: the engine asked for is not installed.
    """
    if wanted in ("torch", "torch-bfloat16"):
        return wanted
    if wanted != "auto":
        _require(wanted.removesuffix(_BFLOAT16), "onnx", "onnxscript", extra=_EXTRAS[wanted])
        return wanted
    is_large = sum(parameter.numel() for parameter in networks[0].parameters()) >= _LARGE
    order: tuple[EngineName, ...] = ("openvino", "onnxruntime") if is_large else ("onnxruntime", "openvino")
    for name in order:
        if not _missing(name, "onnx", "onnxscript"):
            return name
    return "torch"


def make_engine(name: EngineName, networks: Sequence[Network], size: int) -> Engine:
    """Prepare networks for scoring; takes seconds for all engines but `torch`.

    Args:
        name: from `resolve_engine`.
        networks: in evaluation mode.
        size: height and width of the images, pixels.

    Returns:
        A function from images to the logits of each network. Same images, same machine: same logits.
    """
    precision = torch.bfloat16 if name.endswith(_BFLOAT16) else torch.float32
    if name in ("torch", "torch-bfloat16"):
        return _torch_engine(networks, precision)
    graph = onnx_model(Ensemble(networks), size, "logits").SerializeToString()
    return onnxruntime_engine(graph) if name == "onnxruntime" else openvino_engine(graph, precision)


def folded(network: Network) -> Network:
    """Copy a network for scoring, each batch norm folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    for layers in [module for module in network.modules() if type(module) is nn.Sequential]:
        for index, (before, norm) in enumerate(itertools.pairwise(list(layers))):
            if isinstance(norm, nn.BatchNorm2d):
                holder, place = (before, 1) if isinstance(before, SeparableConv) else (layers, index)
                holder[place] = fuse_conv_bn_eval(holder[place], norm)  # type: ignore[type-var]  # a convolution
                layers[index + 1] = nn.Identity()
    return network


def require_onnx() -> None:
    """Ask for what writes and runs ONNX graphs, before long work begins.

    Raises:
        MissingExtraError: a package of the extra `onnx` is not installed.
    """
    _require("onnxruntime", "onnx", "onnxscript", extra="onnx")


def onnx_model(module: nn.Module, size: int, output: str) -> "onnx.ModelProto":
    """Write a module as an ONNX graph of any batch size; the source's paths and lines are left out.

    Args:
        module: from (batch, 1, size, size) images to one output.
        size: height and width of the images, pixels.
        output: name of the output; the input is `images`.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 1, size, size),),
            input_names=["images"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto  # type: ignore[union-attr]  # None only without `dynamo`
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
    return model


def onnxruntime_engine(graph: bytes) -> Engine:
    """Run a graph's first output in ONNX Runtime, with as many threads as PyTorch has."""
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(images: Float32[np.ndarray, "b 1 h w"]) -> Float32[np.ndarray, "b ..."]:
        return np.asarray(session.run(None, {"images": images})[0])

    return run


def openvino_engine(graph: bytes, precision: torch.dtype = torch.float32) -> Engine:
    """Run a graph's first output in OpenVINO, with as many threads as PyTorch has."""
    import openvino  # an extra

    # Left to itself, OpenVINO computes in bfloat16 where the processor can.
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if precision == torch.float32 else "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # a thread pinned to a busy processor waits for it
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()

    def run(images: Float32[np.ndarray, "b 1 h w"]) -> Float32[np.ndarray, "b ..."]:
        return np.array(request.infer([images], share_inputs=True, share_outputs=True)[0])

    return run


def _torch_engine(networks: Sequence[Network], precision: torch.dtype) -> Engine:
    """Run networks in PyTorch: batch norms folded, channels last."""
    ensemble = Ensemble([folded(network) for network in networks])
    ensemble.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs

    def run(images: Float32[np.ndarray, "b 1 h w"]) -> Float32[np.ndarray, "b ..."]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            return np.asarray(ensemble(torch.from_numpy(images)).float().numpy())

    return run


def _missing(*packages: str) -> list[str]:
    return [package for package in packages if find_spec(package) is None]


def _require(*packages: str, extra: str) -> None:
    for package in _missing(*packages):
        raise MissingExtraError(package, extra)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings and its log, which speak of packages this network does not need."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
