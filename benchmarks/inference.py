"""Milliseconds for each region of interest scored by a finished model, against what a user would otherwise have.

    python benchmarks/inference.py --json                    # on an idle machine: other work changes the ratios
    python benchmarks/inference.py --json --quick            # seven minutes on two busy cores: for a look only
    python benchmarks/inference.py --json --only shipped     # the model that comes with diagnet, four flips

`default` is `load_model`'s own choice, from images in memory to calibrated probabilities. Its peers: the networks as
they are in PyTorch (`eager`), and the file of `diagnet export` in ONNX Runtime and in OpenVINO, in float32. OpenVINO
left to itself computes in bfloat16 where the processor can; it is `openvino_own_precision`, and counted apart, beside
our own engines that do so, which are optional.
All take turns in one process with two threads; figures are medians and ratios of medians. `shipped_one_core_ms` is the
shipped model as `predict` runs it (PyTorch), with one thread and one region.
"""

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import onnxruntime
import openvino
import torch
from torch import nn

from diagnet.config import Config
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.data.preprocessing import Preprocessing
from diagnet.inference.engines import make_engine, onnx_model, resolve_engine
from diagnet.inference.export import CalibratedScores
from diagnet.inference.model import Model, load_model
from diagnet.inference.predictor import shipped_run
from diagnet.network import create_network

N_THREADS = 2
PEERS = ("eager", "onnxruntime", "openvino")
OWN_PRECISION = "openvino_own_precision"
BFLOAT16 = ("torch-bfloat16", "openvino-bfloat16")
ROUNDS = {
    ("small", 1): 200,
    ("small", 32): 40,
    ("paper", 1): 12,
    ("paper", 32): 3,
    ("shipped", 1): 100,
    ("shipped", 32): 15,
}


def make_model(preset):
    """A model of one network as after training, norms with statistics of their own; or the shipped one."""
    if preset == "shipped":
        return load_model(shipped_run())
    config = Config.from_preset(preset)
    torch.manual_seed(0)
    network = create_network(config.network).eval()
    network.intensity = torch.tensor([0.4, 0.2])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    networks = (network,)
    return Model(networks, (1.5,), 0.5, config.classes, Preprocessing(roi=config.roi), resolve_engine("auto", networks))


def in_openvino(graph, **settings):
    """Run an exported model in OpenVINO, with its settings for short answers."""
    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": N_THREADS, **settings}
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda images: request.infer([images[:, None]])[0]


def make_engines(model):
    """What is compared: from (n, size, size) images to probabilities."""
    eager = CalibratedScores(model)
    graph = onnx_model(CalibratedScores(model), model.roi.size, "probabilities").SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = N_THREADS
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    folded = make_engine("torch", model.networks, model.roi.size)

    def in_eager(images):
        with torch.inference_mode():
            return eager(torch.from_numpy(images)[:, None]).numpy()

    return {
        "default": model.probabilities,
        "eager": in_eager,
        "onnxruntime": lambda images: session.run(None, {"images": images[:, None]})[0],
        "openvino": in_openvino(graph, INFERENCE_PRECISION_HINT="f32"),
        OWN_PRECISION: in_openvino(graph),
        "torch": lambda images: folded(images[:, None]),
        **{name: replace(model, engine=name).probabilities for name in BFLOAT16},
    }


def rounds_of(engines, images, n_rounds):
    """Milliseconds for each image, (round, engine), after one round to warm up; every round has its own order.

    A single image is scored twice and timed the second time: otherwise what the engine before it left of the
    processor's caches is timed too.
    """
    rng = np.random.default_rng(0)
    times = np.empty((n_rounds + 1, len(engines)))
    runs = list(engines.values())
    for row in times:
        for k in rng.permutation(len(runs)):
            for _ in range(2 if len(images) == 1 else 1):
                began = time.perf_counter()
                runs[k](images)
                row[k] = time.perf_counter() - began
    return times[1:] / len(images) * 1e3


def one_core_ms(n_rounds):
    """Milliseconds for one region of the shipped model, as `predict` scores it, on one thread."""
    torch.set_num_threads(1)
    model = load_model(shipped_run(), engine="torch")
    image = make_masses(1, rng=np.random.default_rng(1), settings=PhantomSettings(size=model.roi.size))[0]
    median = float(np.median(rounds_of({"torch": model.probabilities}, image, n_rounds)))
    torch.set_num_threads(N_THREADS)
    return median


def figures(quick: bool, presets) -> dict:
    """Every figure by preset and batch: inference_ms by engine, and `default` over the best of its peers."""
    torch.set_num_threads(N_THREADS)
    result = {"inference_engine": {}, "inference_bfloat16_difference": {}}
    for name in ("ms", "of_best", "of_best_quiet", "of_best_own_precision"):
        result[f"inference_{name}"] = {preset: {} for preset in presets}
    if "shipped" in presets:
        result["shipped_one_core_ms"] = one_core_ms(10 if quick else 100)
    for (preset, batch), n_rounds in ROUNDS.items():
        if preset not in presets:
            continue
        model = make_model(preset)
        engines = make_engines(model)
        size = model.roi.size
        images = make_masses(batch, rng=np.random.default_rng(1), settings=PhantomSettings(size=size))[0]
        times = rounds_of(engines, images, max(2, n_rounds // 5) if quick else n_rounds)
        medians = dict(zip(engines, np.median(times, axis=0).tolist(), strict=True))
        # The rounds least disturbed by other work on the machine.
        quiet = dict(zip(engines, np.quantile(times, 0.1, axis=0).tolist(), strict=True))
        found = {
            "ms": medians,
            "of_best": medians["default"] / min(medians[peer] for peer in PEERS),
            "of_best_quiet": quiet["default"] / min(quiet[peer] for peer in PEERS),
            "of_best_own_precision": medians["default"] / min(medians[peer] for peer in (*PEERS, OWN_PRECISION)),
        }
        for name, value in found.items():
            result[f"inference_{name}"][preset][str(batch)] = value
        result["inference_engine"][preset] = model.engine
        result["inference_bfloat16_difference"][preset] = {
            name: float(np.abs(engines[name](images) - engines["default"](images)).max()) for name in BFLOAT16
        }
    result["inference_own_precision"] = openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--only", default="small,paper,shipped", help="what is measured, separated by commas")
    arguments = parser.parse_args()
    found = {"quick": arguments.quick, **figures(arguments.quick, arguments.only.split(","))}
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
