"""Load on `diagnet listen`, on loopback: images with marks in by C-STORE, reports, pictures and states out.

    python benchmarks/listen.py --json               # 200 mammograms of 2294 x 1914 pixels at 4 associations
    python benchmarks/listen.py --json --quick       # 24 of 600 x 500 pixels: for a look only

The listener is a process of its own with a run of the preset `small`, trained for one epoch; senders and the archive
that takes the results are threads of this script, on the same processors. Memory is the listener's resident set,
sampled twice a second. It is flat if what the last quarter of the images needs is what the second quarter needed;
before that, libraries are still being loaded.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts

from diagnet.clinic.report import write_structured_report
from diagnet.config import Config
from diagnet.data.box import Box
from diagnet.data.mass import Mass, MassSet
from diagnet.data.phantom import PhantomSettings, make_masses
from diagnet.experiment import run_experiment
from diagnet.inference.assessment import Assessment

SR = "1.2.840.10008.5.1.4.1.1.88.33"
RESULTS = 3  # of each image


def train(folder):
    """A run of the preset `small`, trained for one epoch."""
    settings = {"training": {"epochs": 1}, "neighbors": {"budget": 20}, "evaluation": {"n_resamples": 100}}
    images, labels = make_masses(60, rng=np.random.default_rng(0), settings=PhantomSettings(size=64))
    names = ("benign", "malignant")
    masses = [
        Mass(image, None, names[label], f"P{k // 2}")
        for k, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    config = Config.from_preset("small", settings)
    return run_experiment(config, MassSet(tuple(masses)), folder, with_report=False).folder


def mammogram(number, rows, columns):
    """A mammogram as a dataset: half a disk of noise, with a mass."""
    rng = np.random.default_rng(number)
    row, column = np.mgrid[:rows, :columns].astype(np.float32)
    breast = np.hypot(row - rows / 2, column) < 0.6 * rows
    mass = np.exp(-(((row - rows * 0.4) / (rows / 25)) ** 2) - ((column - columns * 0.35) / (rows / 25)) ** 2)
    noise = rng.standard_normal((rows, columns), dtype=np.float32)
    pixels = np.where(breast, 900 + 1500 * mass + 60 * noise, 0).clip(0, 4095).astype("<u2")
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    elements = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientName": f"Load^{number}",
        "PatientID": f"LOAD-{number}",
        "Modality": "MG",
        "PresentationIntentType": "FOR PRESENTATION",
        "ImageLaterality": "L",
        "ViewPosition": "CC",
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "PixelData": pixels.tobytes(),
    }
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def marks(dataset, folder, number):
    """A reader's report with the mass's outline, as a file."""
    rows, columns = dataset.Rows, dataset.Columns
    reach = rows / 16
    x, y = columns * 0.35, rows * 0.4
    found = Assessment(
        image=Path("image"), box=Box(x - reach, y - reach, x + reach, y + reach), malignancy=None, raw_malignancy=None,
        threshold=0.5, decision="refused", reason="", flags=(), steps=(), laterality="L", view="CC", spacing_mm=None,
        input_sha256="", model_sha256=f"reader {number}", latency_ms=0.0,
    )  # fmt: skip
    header, path = folder / f"{number}-header.dcm", folder / f"{number}-marks.dcm"
    pixels = dataset.PixelData
    del dataset.PixelData
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(header, enforce_file_format=True)
    write_structured_report((found,), header, path)
    dataset.PixelData = pixels
    header.unlink()
    return path


class Archive:
    """Counts what comes."""

    def __init__(self):
        self.taken, self.lock = {}, threading.Lock()
        self.entity = AE("ARCHIVE")
        self.entity.supported_contexts = AllStoragePresentationContexts
        self.entity.maximum_pdu_size = 131_072
        handlers = [(evt.EVT_C_STORE, self.store)]
        self.port = self.entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers).server_address[1]

    def store(self, event):
        """Count one object."""
        with self.lock:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.taken[uid] = self.taken.get(uid, 0) + 1
        return 0


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def send(port, numbers, rows, columns, folder, sent):
    """One association: images with their marks, in turn."""
    entity = AE("SENDER")
    entity.add_requested_context(DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    entity.add_requested_context(SR, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="DIAGNET")
    assert association.is_established
    for number in numbers:
        dataset = mammogram(number, rows, columns)
        path = marks(dataset, folder, number)
        statuses = [association.send_c_store(each).Status for each in (dataset, path)]
        assert statuses == [0, 0], statuses
        path.unlink()
        sent.append(number)
    association.release()


def resident_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(n_images, n_associations, rows, columns, folder):
    run = train(folder / "run")
    archive, port = Archive(), free_port()
    command = [
        sys.executable,
        "-m",
        "diagnet.cli",
        "listen",
        str(run),
        "--forward",
        f"127.0.0.1:{archive.port}:ARCHIVE",
    ]
    command += ["--port", str(port), "--queue", str(folder / "queue"), "--json", "--max-queue-gb", "50"]
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    while "listening on" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    began, sent, memory = time.monotonic(), [], []
    senders = [
        threading.Thread(
            target=send, args=(port, range(k, n_images, n_associations), rows, columns, folder, sent), daemon=True
        )
        for k in range(n_associations)
    ]
    for sender in senders:
        sender.start()
    done, received_s = folder / "queue" / "done", None
    while (n_done := len(list(done.glob("[!.]*.json")))) < n_images:
        memory.append((n_done, resident_mb(process.pid)))
        if received_s is None and len(sent) == n_images:
            received_s = time.monotonic() - began
        assert process.poll() is None, log.read_text()
        assert len(sent) == n_images or any(sender.is_alive() for sender in senders), "a sender was refused"
        assert time.monotonic() - began < 3600, "the load test takes too long"
        time.sleep(0.5)
    seconds = time.monotonic() - began
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    archive.entity.shutdown()
    records = [json.loads(path.read_text()) for path in done.glob("[!.]*.json")]
    second = max(mb for n, mb in memory if n_images / 4 <= n < n_images / 2)
    last = max(mb for n, mb in memory if n >= 3 * n_images / 4)
    return {
        "images": n_images,
        "associations": n_associations,
        "rows": rows,
        "columns": columns,
        "scored": sum(mass["malignancy"] is not None for record in records for mass in record["masses"]),
        "lost": n_images - len(records),
        "results_sent": len(archive.taken),
        "results_expected": RESULTS * n_images,
        "sent_twice": sum(count > 1 for count in archive.taken.values()),
        "seconds": round(seconds, 1),
        "images_per_second": round(n_images / seconds, 2),
        "received_per_second": None if received_s is None else round(n_images / received_s, 2),
        "memory_mb_second_quarter": round(second, 1),
        "memory_mb_last_quarter": round(last, 1),
        "memory_growth": round(last / second - 1, 4),
        "processors": os.cpu_count(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="24 small images")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2294)
    parser.add_argument("--columns", type=int, default=1914)
    options = parser.parse_args()
    if options.quick:
        options.images, options.rows, options.columns = 24, 600, 500
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.images, options.associations, options.rows, options.columns, Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<26} {value}")


if __name__ == "__main__":
    main()
