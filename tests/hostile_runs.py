"""Hostile edits of a finished run, for tests/attack and benchmarks/attack.py: each must be one line, and no score."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Edit = Callable[[Path], None]
DEEP = 100_000


def edits(*, sealed: bool) -> Mapping[str, Edit]:
    """Edits of a run by name; those that only a seal can notice are left out without one."""
    return dict(_edits()) | (dict(_sealed_edits()) if sealed else {})


def _edits() -> Iterator[tuple[str, Edit]]:
    for value in ("NaN", "Infinity", "-1", "0", "1", "1e999", "2", '"0.5"', "true", "null", "[0.5]", "1" + "0" * 400):
        yield f"threshold {value[:9]}", _number("threshold", value)
    for value in ("NaN", "0", "-1", "1e999", "{}", "null"):
        yield f"temperature {value}", _number("temperature", value)
    for classes in (["malignant", "benign"], ["benign"], ["benign", "benign"], ["a", "b", "c"], 5, None, "benign", []):
        yield f"classes {classes}", _facts(classes=classes)
    for name, value in (
        ("abstention", {"half_width": float("nan")}), ("abstention", []), ("abstention", {"half_width": 5}),
        ("abstention", {"other": 1}), ("domain", []), ("domain", {"low": [1]}), ("domain", 5), ("history", 5),
        ("synthetic", "maybe"), ("network", 5), ("network", {"preset": "x"}), ("roi", 5), ("preprocessing", "x"),
        ("preprocessing_sha256", "x"),
    ):  # fmt: skip
        yield f"{name} {value}", _facts(**{name: value})
    for name, value in (
        ("n_hidden", 10**12), ("n_hidden", 16), ("n_middle", 10**9), ("n_middle", 2), ("widths", [10**9]),
        ("widths", []), ("widths", [8] * 10**5), ("n_classes", 3), ("dropout", float("nan")), ("preset", "lite0"),
    ):  # fmt: skip
        yield f"network.{name} {str(value)[:12]}", _network(name, value)
    for name in ("run.json", "model/fold-0.json", "config.toml"):
        if name != "config.toml":  # an empty one is all defaults
            yield f"{name} empty", _written(name, b"")
        yield f"{name} no UTF-8", _written(name, b"\xff\xfe\x00")
        yield f"{name} a folder", _folder(name)
        yield f"{name} a pipe", _pipe(name)
    for name in ("run.json", "model/fold-0.json"):
        yield f"{name} deep", _written(name, b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}")
        yield f"{name} a list", _written(name, b"[1]")
        yield f"{name} a long number", _written(name, b'{"a": ' + b"9" * 10_000 + b"}")
    yield "run.json of other classes", _written("run.json", b'{"status":"finished","data":{"classes":["b","a"]}}')
    yield "run.json status 5", _written("run.json", b'{"status": 5}')
    yield "run.json not finished", _written("run.json", b'{"status": "running"}')
    yield "config.toml deep", _written("config.toml", b"a = " + b"[" * DEEP + b"]" * DEEP)
    yield "config.toml deep names", _written("config.toml", b"a" + b".a" * 5000 + b" = 1")
    yield "config.toml classes swapped", _written("config.toml", b'classes = ["malignant", "benign"]')
    yield "config.toml classes 5", _written("config.toml", b"classes = 5")
    yield "config.toml network 5", _written("config.toml", b"network = 5")
    yield "config.toml roi.size -5", _written("config.toml", b"[roi]\nsize = -5")
    for value in (float("nan"), float("inf")):
        yield f"weights {value}", _weights(value)
    yield "weights of other shapes", _weights(None)
    yield "weights cut off", _cut
    yield "no weights", lambda run: (run / "model" / "fold-0.safetensors").unlink()
    yield "no facts", lambda run: (run / "model" / "fold-0.json").unlink()


def _sealed_edits() -> Iterator[tuple[str, Edit]]:
    yield "threshold 0.9", _number("threshold", "0.9")
    yield "classes swapped in all files", _swapped
    yield "another network", _another
    yield "a further network", lambda run: _copied(run, "fold-1")
    yield "a further file", _written("model/fold-9.txt", b"")
    yield "predictions.csv changed", _written("predictions.csv", b"image\n")
    yield "no manifest", lambda run: (run / "model" / "manifest.json").unlink()
    yield "manifest empty", _written("model/manifest.json", b"{}")
    yield "manifest deep", _written("model/manifest.json", b'{"files":' + b"[" * DEEP + b"]" * DEEP + b"}")
    yield "manifest of another place", _manifest(lambda file: file | {"name": "../" + file["name"]})
    yield "manifest of other bytes", _manifest(lambda file: file | {"bytes": file["bytes"] + 1})
    yield "manifest of other hashes", _manifest(lambda file: file | {"sha256": "0" * 64})


def change(path: Path, **changes: Any) -> None:
    """Change values of a JSON object; NaN is written as Python writes it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _facts(**changes: Any) -> Edit:
    return lambda run: change(run / "model" / "fold-0.json", **changes)


def _number(name: str, text: str) -> Edit:
    def edit(run: Path) -> None:
        path = run / "model" / "fold-0.json"
        change(path, **{name: "THE VALUE"})
        path.write_text(path.read_text().replace('"THE VALUE"', text))

    return edit


def _network(name: str, value: Any) -> Edit:
    def edit(run: Path) -> None:
        path = run / "model" / "fold-0.json"
        change(path, network=json.loads(path.read_text())["network"] | {name: value})

    return edit


def _written(name: str, content: bytes) -> Edit:
    return lambda run: (run / name).write_bytes(content) and None


def _folder(name: str) -> Edit:
    def edit(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return edit


def _pipe(name: str) -> Edit:
    def edit(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return edit


def _weights(value: float | None) -> Edit:
    """Put a value into all weights, or leave a row off each; the hash beside them is set right."""

    def edit(run: Path) -> None:
        path = run / "model" / "fold-0.safetensors"
        found = {
            name: tensor[:1].clone()
            if value is None and tensor.ndim
            else torch.full_like(tensor, value or 0)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(found, path)
        _rehash(run)

    return edit


def _rehash(run: Path) -> None:
    import hashlib

    content = (run / "model" / "fold-0.safetensors").read_bytes()
    change(run / "model" / "fold-0.json", sha256=hashlib.sha256(content).hexdigest())


def _cut(run: Path) -> None:
    path = run / "model" / "fold-0.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    _rehash(run)


def _swapped(run: Path) -> None:
    _facts(classes=["malignant", "benign"])(run)
    _written("config.toml", b'classes = ["malignant", "benign"]')(run)


def _another(run: Path) -> None:
    path = run / "model" / "fold-0.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)
    _rehash(run)


def _copied(run: Path, name: str) -> None:
    for suffix in (".json", ".safetensors"):
        (run / "model" / f"{name}{suffix}").write_bytes((run / "model" / f"fold-0{suffix}").read_bytes())


def _manifest(changed: Callable[[dict[str, Any]], dict[str, Any]]) -> Edit:
    def edit(run: Path) -> None:
        path = run / "model" / "manifest.json"
        change(path, files=[changed(each) for each in json.loads(path.read_text())["files"]])

    return edit
