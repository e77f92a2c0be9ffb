"""The verb that tells what is installed: doctor."""

import os

from diagnet.cli.shared import Json, print_json


def doctor(as_json: Json = False) -> None:
    """Tell what is installed, what is missing and how to install it."""
    from importlib.metadata import PackageNotFoundError, version

    from diagnet.run_folder import versions

    extras = {
        "matplotlib": "report",
        "pylibjpeg": "dicom",
        "pyjpegls": "dicom",
        "python-gdcm": "dicom",
        "tensorboard": "tensorboard",
        "mlflow-skinny": "mlflow",
        "onnx": "onnx",
        "onnxscript": "onnx",
        "onnxruntime": "onnx",
        "openvino": "openvino",
    }
    found: dict[str, str | None] = dict(versions())
    for package in extras:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    from diagnet.device import resolve_compute

    compute = resolve_compute()
    facts = {
        "device": str(compute.device),
        "precision": compute.precision,
        "memory_format": compute.memory_format,
        "processors": os.cpu_count(),
    }
    if as_json:
        print_json({"versions": found, **facts})
        return
    for package, installed in found.items():
        missing = f"missing. Fix: pip install 'diagnet[{extras.get(package)}]'"
        print(f"{package:<14} {installed or missing}")
    for name, value in facts.items():
        print(f"{name:<14} {value}")
