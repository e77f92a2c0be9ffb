"""A finished run with everything the server reads, made without training; its data, and images to open."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from dicom_files import drawn_breast, write_dicom
from runs import write_run

BOX = [20.0, 60.0, 60.0, 100.0]  # the mass of `drawn_breast`
CSRF = {"X-DiagNet": "1"}
CANARY = "CANARY"  # stands for a patient: in names of files and in elements of DICOM
N_MASSES = 60


def write_served(folder: Path) -> SimpleNamespace:
    """Write a run, the table of the masses it was trained on, and a folder of images."""
    from diagnet.config import Config
    from diagnet.data.manifest import read_manifest
    from diagnet.data.regions import read_rois
    from diagnet.data.roi import RoiSettings
    from diagnet.run.checkpoint import read_weights
    from diagnet.run.folder import write_json
    from diagnet.run.seal import seal
    from diagnet.run.tables import ScoredMass, write_predictions
    from diagnet.training.scoring import embeddings_and_logits

    rng = np.random.default_rng(0)
    (folder / "masses").mkdir()
    rows = [["image", "patient_id", "label", "label_source", "x0", "y0", "x1", "y1"]]
    for k in range(N_MASSES):
        Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(folder / "masses" / f"{k}.png")
        rows.append([f"masses/{k}.png", f"P{k // 2}", ("benign", "malignant")[k % 2], "biopsy", 4, 4, 20, 20])
    with (folder / "masses.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    run = write_run(folder / "run", n_networks=2, threshold=0.5)
    masses = read_manifest(folder / "masses.csv")
    regions = read_rois(masses.masses, RoiSettings(size=16))
    network = read_weights(run / "model" / "fold-0.safetensors")[0]
    (run / "config.toml").write_text(Config.from_preset("small", {"roi": {"size": 16}}).to_toml())
    write_json(run / "metrics.json", {"test": {"units": {"mass": {"auc": {"value": 0.6, "low": 0.5, "high": 0.7}}}}})
    write_json(run / "run.json", {"status": "finished", "counts": {"train": {"benign": 20, "malignant": 20}}})
    np.savez(
        run / "embeddings.npz",
        embeddings=embeddings_and_logits(network, regions)[0],
        index=np.arange(N_MASSES),
        part=np.repeat(np.arange(3, dtype=np.int8), 20)[np.argsort(np.arange(N_MASSES) % 3, kind="stable").argsort()],
        labels=masses.labels,
    )
    np.savez(
        run / "neighbors.npz",
        images=rng.random((8, 16, 16)).astype(np.float32),
        labels=np.arange(8) % 2,
        kinds=np.repeat(np.array([1, -1], dtype=np.int8), 4),
        parents=np.arange(8),
        parent_patients=np.array([f"P{k // 2}" for k in range(8)]),
        probability=np.full(8, 0.5),
        distance=np.full(8, 0.01),
        closest_pair=np.full(2, 0.008),
        settings_sha256="",
        about="",
    )
    names = ("benign", "malignant")
    tested = [
        ScoredMass(f"masses/{k}.png", f"P{k // 2}", names[k % 2], k / 60, k, 0, "test", 0.5, names[k >= 30], "", "")
        for k in range(2, N_MASSES, 3)
    ]
    write_predictions(run, tested)
    (run / "model" / "manifest.json").unlink()
    seal(run)
    images, patient = folder / "images", {"PatientName": f"{CANARY}^ANNA", "PatientID": f"{CANARY}-7"}
    patient |= {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    write_dicom(images / "a.dcm", drawn_breast(), Laterality="L", **patient)
    write_dicom(images / f"{CANARY}_ANNA.dcm", drawn_breast("R"), Laterality="R", **patient)
    (images / f"{CANARY}-broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + CANARY.encode())
    return SimpleNamespace(folder=folder, run=run, table=folder / "masses.csv", masses=masses, images=images)
