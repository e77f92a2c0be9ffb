"""Coverage-guided fuzzing (atheris, libFuzzer) of everything that is read from strangers but pixels.

    python -m pip install atheris
    python benchmarks/fuzz_guided.py --minutes 30 --json

Targets: marks (structured reports and presentation states), tables, INbreast's plists, the files of a run, HTTP. An
input must give a result or one of our own errors, in less than --seconds; all else is a fault, and its input is kept in
--keep. Targets share the minutes equally, one after the other. `benchmarks/fuzz.py` does the same for pixels, without
looking at coverage.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
TARGETS = ("marks", "table", "plist", "run", "http")
MANIFEST = "model/manifest.json"
RUN_FILES = ("run.json", "config.toml", "predictions.csv", "model/fold-0.json", MANIFEST, "metrics.json")
MOST_BYTES = 8192
_FAULT = r"^[A-Za-z_.]*(Error|Exception)\b|^ALARM"


def reading(read, path):
    """Write an input to a file and read it."""

    def attempt(data):
        path.write_bytes(data)
        read(path)

    return attempt


def marks(folder):
    """SR and GSPS: the seeds are what we write ourselves."""
    from pydicom.uid import generate_uid

    import clinic_parts
    from diagnet.clinic.marks import read_marks
    from diagnet.clinic.presentation import write_presentation_state

    image = clinic_parts.mammogram(folder / "image.dcm")
    state = folder / "state.dcm"
    write_presentation_state([clinic_parts.assessed(model_sha256=generate_uid())], image, state)
    seeds = [clinic_parts.marks(folder / "marks.dcm", image).read_bytes(), state.read_bytes()]
    return reading(read_marks, folder / "input.dcm"), seeds


def table(folder):
    from diagnet.data.manifest import read_manifest

    head = "image,patient_id,label,x0,y0,x1,y1,row_spacing_mm,lesion_id\n"
    seeds = [(head + "a.png,P1,benign,1,2,30,40,0.1,L1\nb.png,P2,malignant,,,,,,\n").encode()]
    return reading(partial(read_manifest, check_images=False), folder / "table.csv"), seeds


def plist(folder):
    import plistlib

    from diagnet.data.inbreast import _mass_outlines

    roi = {"Name": "Mass", "Point_px": ["(10.5, 20.5)", "(30.0, 20.0)", "(30.0, 40.0)"]}
    seeds = [plistlib.dumps({"Images": [{"NumberOfROIs": 1, "ROIs": [roi]}]})]
    return reading(_mass_outlines, folder / "outlines.xml"), seeds


def run(folder):
    """The first byte chooses the file that is replaced."""
    from diagnet.inference.model import load_model
    from diagnet.inference.predictive_value import read_held_out
    from served import write_served

    made = write_served(folder).run
    present = [name for name in RUN_FILES if (made / name).is_file()]
    contents = {name: (made / name).read_bytes() for name in present}
    seeds = [bytes([number]) + contents[name] for number, name in enumerate(present)]

    def attempt(data):
        name = present[data[0] % len(present)] if data else present[0]
        (made / MANIFEST).unlink(missing_ok=True)  # which would refuse any edit
        (made / name).write_bytes(data[1:])
        try:
            load_model(made, engine="torch")
            read_held_out(made)
        finally:
            (made / name).write_bytes(contents[name])

    return attempt, seeds


def http(folder):
    """The first byte chooses method and route; the rest is the body. An answer of 500 is a fault."""
    from starlette.testclient import TestClient

    from diagnet.app.server import create_app
    from served import write_served

    served = write_served(folder)
    client = TestClient(create_app(served.run, folder / "state"), base_url="http://localhost")
    routes = [("POST", path) for path in ("/v1/predict", "/v1/similar", "/v1/saliency", "/v1/report", "/v1/reading")]
    routes += [("POST", "/v1/images"), ("GET", "/v1/images"), ("GET", "/v1/model")]
    body = json.dumps({"image": "0" * 16, "boxes": [[20, 30, 80, 90]], "box": [20, 30, 80, 90]}).encode()
    seeds = [bytes([number]) + body for number in range(len(routes))]

    def attempt(data):
        method, path = routes[data[0] % len(routes)] if data else routes[0]
        kind = "multipart/form-data; boundary=x" if path == "/v1/images" else "application/json"
        headers = {"X-DiagNet": "1", "Content-Type": kind}
        answer = client.request(method, path, content=data[1:] if method == "POST" else None, headers=headers)
        assert answer.status_code < 500, (path, answer.status_code, answer.text)

    return attempt, seeds


def fuzz(target, arguments):
    """Hand a target to libFuzzer, which ends this process."""
    import atheris

    with atheris.instrument_imports(include=["diagnet", "pydicom", "plistlib"], enable_loader_override=False):
        import diagnet.app.server
        import diagnet.clinic.marks
        import diagnet.data.inbreast
        import diagnet.data.manifest
        import diagnet.inference.model  # noqa: F401 -- what is covered must be instrumented first
    from diagnet.errors import DiagNetError

    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108 -- no disk
    attempt, seeds = globals()[target](folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)

    def one(data):
        with suppress(DiagNetError):
            attempt(data)

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one)
    atheris.Fuzz()


def report(target, seconds, most_seconds, keep):
    """Fuzz a target in a process of its own until its time is over, again after each fault."""
    until, faults, tried, covered, rss = time.monotonic() + seconds, [], 0, 0, 0
    while (left := int(until - time.monotonic())) > 0:
        limits = [f"-max_total_time={left}", f"-timeout={most_seconds}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=4096"]
        command = [sys.executable, __file__, "--target", target, "--", *limits, "-print_final_stats=1"]
        command.append(f"-artifact_prefix={keep}/{target}-")
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        tried += sum(map(int, re.findall(r"number_of_executed_units: (\d+)", done.stderr)))
        covered = max([covered, *map(int, re.findall(r"cov: (\d+)", done.stderr))])
        rss = max([rss, *map(int, re.findall(r"peak_rss_mb: (\d+)", done.stderr))])
        if done.returncode:
            trace = [
                line for line in done.stderr.splitlines() if re.match(r"^[A-Za-z_.]*(Error|Exception)\b|^ALARM", line)
            ]
            faults.append(trace[-1][:200] if trace else done.stderr[-200:])
            if len(faults) >= 20:
                break
    return {"target": target, "inputs": tried, "edges_covered": covered, "peak_rss_mb": rss, "faults": faults}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="of all targets together")
    parser.add_argument("--seconds", type=int, default=10, help="that an input may take")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder of inputs that broke a rule")
    parser.add_argument("--only", choices=TARGETS, action="append", help="targets; all by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.target:
        fuzz(asked.target, asked.arguments)
        return
    asked.keep.mkdir(parents=True, exist_ok=True)
    targets = asked.only or TARGETS
    found = [report(each, 60 * asked.minutes / len(targets), asked.seconds, asked.keep.absolute()) for each in targets]
    print(json.dumps(found, indent=1) if asked.json else "\n".join(map(str, found)))
    sys.exit(any(each["faults"] for each in found))


if __name__ == "__main__":
    main()
