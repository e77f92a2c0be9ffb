"""Mutated image files through the whole of `predict`: no crash, no hang, bounded memory, always a one-line reason.

    python benchmarks/fuzz.py --n 10000 --json

Seeds: phantoms in every transfer syntax, photometric interpretation and VOI variant, and as PNG, TIFF and JPEG;
pydicom's own test files; the real files of ../shared where they are. Each input is a seed with one to three mutations
of bytes, or of a DICOM element, and depends on --seed and its number alone. A worker with a limit on its address space
scores them one after the other, and is killed by the system where one takes more than --seconds of the processor (or
six times as long by the clock, should it wait for something); the next worker goes on behind it. Inputs that broke a
rule are kept in --keep.
"""

import argparse
import contextlib
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
from pydicom import uid

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data" / "cbis-ddsm" / "dicom"
sys.path.insert(0, str(ROOT / "tests"))
CANARY = "CANARY^JANE"
MEMORY = 2 * 2**30  # bytes that a worker may ask for beyond what it has when it begins
LARGE = 2**20  # seeds above are taken once in so many inputs
ONCE_IN = 40
_BUSY = 6  # times the limit may pass on the clock, beside the limit of the processor's time
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_WEIGHTS = (0.2, 0.1, 0.03, 0.04, 0.04, 0.2, 0.05, 0.04, 0.3)  # of the mutations, in the order of `mutated`
_LIBJPEG = (
    "Corrupt JPEG data",
    "Unsupported JPEG",
    "Unsupported marker",
    "Invalid",
    "Warning",
    "Inconsistent",
    "Bogus",
)
TEXTS = ("", " ", "nan", "inf", "-1", "1e400", "9" * 64, "\\" * 9, "\0", "é" * 20, CANARY, "1\\2\\3", "\x1b[2J", "\n")


def seeds(folder: Path) -> list[Path]:
    """Write the phantoms; name all seeds."""
    from diagnet.data.phantom import PhantomSettings, make_masses
    from dicom_files import lut, make_jpeg_lossless, write_dicom

    image = make_masses(1, rng=np.random.default_rng(0), settings=PhantomSettings(size=96))[0][0]
    deep = np.zeros((128, 128), np.uint16)
    deep[16:112, :96] = np.rint(image * 4000).astype(np.uint16) + 50
    names = {"PatientName": CANARY, "PatientID": CANARY, "StudyDescription": CANARY, "ImageLaterality": "L"}
    voi = {
        "none": {},
        "window": {"WindowCenter": [2000, 1000], "WindowWidth": [4000, 500]},
        "sigmoid": {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"},
        "exact": {"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"},
        "lut": {"VOILUTSequence": lut(list(range(0, 65536, 16)), 0, 16)},
        "modality": {"ModalityLUTSequence": lut(list(range(4096)), 0, 16), "PixelPaddingValue": 0},
        "rescale": {"RescaleSlope": "0.5", "RescaleIntercept": "-100", "PixelSpacing": [0.07, 0.07]},
    }
    syntaxes = [
        uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    ]  # fmt: skip
    found = []
    for syntax in syntaxes:
        for photometric in ("MONOCHROME1", "MONOCHROME2"):
            for name, elements in voi.items():
                path = folder / f"{len(found):03d}-{name}.dcm"
                with contextlib.suppress(Exception):  # an encoder that is not installed
                    write_dicom(path, deep, syntax, PhotometricInterpretation=photometric, **names, **elements)
                    found.append(path)
    for name, elements in voi.items():
        path = folder / f"{len(found):03d}-{name}-jpeg.dcm"
        with contextlib.suppress(ImportError):
            found.append(make_jpeg_lossless(write_dicom(path, deep, **names, **elements)))
    shallow = PIL.Image.fromarray((deep >> 4).astype(np.uint8))
    for name in ("a.png", "b.jpg", "c.tif"):
        shallow.save(folder / name)
        found.append(folder / name)
    for name in ("d.png", "e.tif"):
        PIL.Image.fromarray(deep).save(folder / name)
        found.append(folder / name)
    own = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    found += [path for path in own if path.stat().st_size < LARGE and b"\xe0\x7f\x10\x00" in path.read_bytes()]
    return found + sorted(SHARED.glob("*.dcm"))


def mutated(content: bytes, others: list[Path], rng: np.random.Generator) -> bytes:
    """Change one to three things."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        # Most of what decides lies in the first kilobytes.
        end = len(data) if rng.random() < 0.4 else min(len(data), 2048)
        place, length = int(rng.integers(end)), int(rng.integers(1, 64))
        kind = rng.choice(9, p=_WEIGHTS)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + length] = rng.bytes(length)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = rng.bytes(length)
        elif kind == 5:
            size = int(rng.choice([1, 2, 4]))
            number = int(rng.choice(NUMBERS)) % 2 ** (8 * size)
            data[place : place + size] = number.to_bytes(size, "little" if rng.random() < 0.7 else "big")
        elif kind == 6:
            data[place : place + length] = bytes(length)
        elif kind == 7:
            other = others[int(rng.integers(len(others)))].read_bytes()
            start = int(rng.integers(max(len(other), 1)))
            data[place : place + length] = other[start : start + length]
        else:
            data = bytearray(_with_element(bytes(data), rng))
    return bytes(data)


def _with_element(content: bytes, rng: np.random.Generator) -> bytes:
    """Give one element of a DICOM file a strange value, or none; other files stay as they are."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(content), force=True)
            elements = [element for element in dataset if element.keyword != "PixelData"]
            element = elements[int(rng.integers(len(elements)))]
            kind = rng.integers(3)
            if kind == 0:
                del dataset[element.tag]
            elif element.VR in ("US", "SS", "UL", "SL"):
                limit = 2**16 if element.VR in ("US", "SS") else 2**32
                element.value = int(rng.choice(NUMBERS)) % limit // (1 + (element.VR[0] == "S"))
            else:
                element.value = str(rng.choice(TEXTS))
            buffer = io.BytesIO()
            dataset.save_as(buffer)
            return buffer.getvalue()
    except Exception:  # whatever the mutations before this one made of the file
        return content


def work(first: int, last: int, seed: int, seconds: float, folder: Path) -> None:
    """Score inputs and print a line for each; the parent reads how far this came."""
    from diagnet.data.preprocessing import Preprocessing
    from diagnet.data.roi import RoiSettings
    from diagnet.evaluation.abstention import Abstention
    from diagnet.inference.assessment import assess
    from diagnet.inference.model import Model
    from diagnet.network import NetworkSettings, create_network

    network = create_network(NetworkSettings(stem_widths=(4, 8), widths=(8,), n_middle=1, n_hidden=8)).eval()
    preprocessing = Preprocessing(roi=RoiSettings(size=16))
    model = Model(
        (network,), (1.0,), 0.5, ("benign", "malignant"), preprocessing, abstention=Abstention(half_width=0.0)
    )
    model.prepare()
    paths = json.loads((folder / "seeds.json").read_text())
    all_seeds = [Path(path) for path in paths]
    small = [path for path in all_seeds if path.stat().st_size < LARGE]
    large = [path for path in all_seeds if path.stat().st_size >= LARGE]
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, virtual + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, last):
        rng = np.random.default_rng([seed, number])
        pool = large if large and number % ONCE_IN == 0 else small
        source = pool[int(rng.integers(len(pool)))]
        path = folder / f"input{source.suffix if rng.random() < 0.9 else '.bin'}"
        path.write_bytes(mutated(source.read_bytes(), small, rng))
        print(json.dumps({"began": number, "seed": source.name, "path": str(path)}), flush=True)
        # The action of both is the system's: the end, even inside a C library. A busy machine does not count.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, _BUSY * seconds)
        began, used = time.perf_counter(), time.process_time()
        try:
            boxes = [(20.0, 30.0, 80.0, 90.0), None, tuple(float(side) for side in rng.uniform(-50, 300, 4))]
            found = assess(model, path, boxes)
            reasons = [each.reason for each in found]
            faults = [repr(each) for each in found if not _is_sound(each)]
        except Exception as error:  # what the user would see as a traceback
            reasons, faults = [], [f"{type(error).__name__}: {error}"]
        took, used = time.perf_counter() - began, time.process_time() - used
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        decisions = [each.decision for each in found] if not faults else ["fault"]
        line = {
            "did": number,
            "seconds": used,
            "wall_seconds": took,
            "grown_mb": grown,
            "decisions": decisions,
            "faults": faults,
        }
        print(json.dumps(line | {"reason": reasons[:1]}), flush=True)


def _is_sound(found: object) -> bool:
    text = repr(found)
    score, reason, decision = found.malignancy, found.reason, found.decision
    if CANARY in text or "\n" in reason:
        return False
    if decision == "refused":
        return score is None and bool(reason)
    return score is not None and math.isfinite(score) and 0 <= score <= 1 and (decision == "abstained") == bool(reason)


def run(n: int, seed: int, seconds: float, keep: Path | None, show: Callable[[str], None]) -> dict[str, object]:
    """Score `n` inputs in workers; return the figures."""
    decisions: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    findings: list[dict[str, object]] = []
    slowest, grown, done = {"seconds": 0.0}, 0.0, 0
    n_lines, n_libjpeg = 0, 0
    strange: list[str] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "phantoms").mkdir()
        (folder / "seeds.json").write_text(json.dumps([str(path) for path in seeds(folder / "phantoms")]))
        first = 0
        while first < n:
            under_way: dict[str, object] = {}
            with (folder / "noise").open("w+b") as noise:
                for line in _lines(first, n, seed, seconds, folder, noise):
                    if "began" in line:
                        under_way, first = line, int(str(line["began"])) + 1
                        continue
                    done += 1
                    decisions.update(line["decisions"])
                    reasons.update(reason.partition(", got")[0][:60] for reason in line["reason"])
                    grown = max(grown, line["grown_mb"])
                    if line["seconds"] > slowest["seconds"]:
                        slowest = {
                            "seconds": line["seconds"],
                            "wall_seconds": line["wall_seconds"],
                            "input": line["did"],
                            "seed": under_way["seed"],
                        }
                    if line["faults"]:
                        findings.append({"input": line["did"], "seed": under_way["seed"], "fault": line["faults"][0]})
                        _keep(keep, under_way)
                    under_way = {}
                    if done % 500 == 0:
                        show(f"{done}/{n}, {len(findings)} findings, slowest {slowest['seconds']:.2f} s")
                noise.seek(0)
                told = noise.read()
            if CANARY.encode() in told:
                findings.append({"input": first - 1, "fault": "a patient's name on the terminal"})
            if b"Traceback" in told and not under_way:
                raise SystemExit(told.decode(errors="replace"))
            if under_way:  # the worker was ended while at it
                fault = f"the worker ended: {told[-200:].decode(errors='replace')}"
                findings.append({"input": under_way["began"], "seed": under_way["seed"], "fault": fault})
                _keep(keep, under_way)
            lines = told.decode(errors="replace").splitlines()
            n_lines += len(lines)
            n_libjpeg += sum(line.startswith(_LIBJPEG) for line in lines)
            strange += [line[:200] for line in lines if not line.startswith(_LIBJPEG)][:5]
    return {
        "inputs": done + sum("worker ended" in str(finding["fault"]) for finding in findings),
        "findings": findings,
        "decisions": dict(decisions),
        "reasons_of_the_first_box": dict(reasons.most_common()),
        "slowest": slowest,
        "limit_seconds": seconds,
        "lines_on_the_terminal": n_lines,
        "lines_of_libjpeg": n_libjpeg,
        "other_lines": strange,
        "largest_growth_mb": round(grown, 1),
        "total_seconds": round(time.perf_counter() - began, 1),
    }


def _lines(first: int, n: int, seed: int, seconds: float, folder: Path, noise: io.BufferedRandom) -> Iterator[dict]:
    command = [sys.executable, __file__, "--work", str(first), "--n", str(n), "--seed", str(seed)]
    command += ["--seconds", str(seconds), "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True, env=environment) as worker:
        for line in worker.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def _keep(keep: Path | None, under_way: dict[str, object]) -> None:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        path = Path(str(under_way["path"]))
        (keep / f"{under_way['began']}{path.suffix}").write_bytes(path.read_bytes())


def main() -> None:
    """Read the command line, fuzz, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=int(os.environ.get("DIAGNET_FUZZ", "500")), help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="of the processor that an input may take")
    parser.add_argument("--keep", type=Path, help="folder for inputs that broke a rule")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.n, given.seed, given.seconds, given.folder)
        return
    figures = run(given.n, given.seed, given.seconds, given.keep, lambda line: print(line, file=sys.stderr))
    print(json.dumps(figures) if given.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    sys.exit(bool(figures["findings"]))


if __name__ == "__main__":
    main()
