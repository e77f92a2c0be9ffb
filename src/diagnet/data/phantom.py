"""Synthetic masses and a synthetic INbreast release, for the demo and the tests: nobody's data."""

import plistlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalMammographyXRayImageStorageForPresentation, ExplicitVRLittleEndian

from diagnet.arrays import Image, Images, Labels
from diagnet.atomic import atomic_folder
from diagnet.data.inbreast import PHANTOMS
from diagnet.data.lesion import Lesion, make_lesion, make_tissue
from diagnet.data.mass import CLASSES
from diagnet.progress import Progress, silent, tracked

HEIGHT, WIDTH = 800, 640  # a quarter of INbreast's smaller detector a side
SPACING_MM = 0.28
GREY_LEVELS = 12_000  # of 14 bits
# How often each category occurs among INbreast's images with a mass.
CATEGORIES = {"benign": {"2": 24, "3": 13}, "malignant": {"4a": 7, "4b": 2, "4c": 11, "5": 43, "6": 8}}
HEADER = "Patient ID;Patient age;Laterality;View;Acquisition date;File Name;ACR;Bi-Rads"
OTHER_FINDINGS = [
    "Calcification",
    "Calcification",
    "Cluster",
    "Asimmetry",
    "Distortion",
    "",
]  # spelled as INbreast does


class PhantomSettings(BaseModel, frozen=True, extra="forbid"):
    """How large synthetic masses are, and how hard their classes are to tell apart."""

    size: int = Field(64, ge=16, le=1024, description="Height and width of single masses, in pixels.")
    difficulty: float = Field(
        0.5, ge=0, le=1, description="Overlap of the classes: 0 nearly none, 0.5 AUC at most 0.92, 1 no difference."
    )


def make_masses(
    n: int,
    *,
    rng: np.random.Generator,
    settings: PhantomSettings = PhantomSettings(),  # noqa: B008 -- frozen
) -> tuple[Images, Labels]:
    """Make `n` regions of interest with one mass each, half of them malignant, in random order.

    Place, size, contrast and tissue are drawn alike for both classes; see `diagnet.data.lesion` for what is not.
    """
    size = settings.size
    labels = rng.permutation(np.arange(n) % 2)
    # A tile twice as wide, cut to a quarter, does not repeat from border to border as its Fourier series does.
    images = make_tissue(n, 2 * size, 2 * size, rng)[:, :size, :size]
    rows, columns = np.mgrid[:size, :size] + 0.5
    for image, label in zip(images, labels, strict=True):
        lesion = make_lesion(int(label), settings.difficulty, rng)
        radius = size * float(np.clip(np.exp(rng.normal(np.log(0.28), 0.2)), 0.15, 0.4))
        x, y = rng.normal(size / 2, 0.03 * size, 2)
        image *= rng.uniform(0.06, 0.12)
        image += rng.uniform(0.25, 0.5) + lesion.density((columns - x) / radius, (rows - y) / radius)
        image += rng.normal(0, 0.012, image.shape)
    return np.tanh(np.maximum(images, 0)), labels  # as a film or a display: bright tissue hides what lies in it


def make_inbreast_release(
    out: Path,
    *,
    n_patients: int,
    rng: np.random.Generator,
    settings: PhantomSettings = PhantomSettings(),  # noqa: B008 -- frozen, so one instance serves all calls
    progress: Progress = silent,
) -> Path:
    """Write `out/INbreast Release 1.0`: DICOM mammograms, outlines and the table, with the quirks of the real one.

    About 2.5 images and 2.2 outlined masses a patient; half of the patients have a malignant mass. Every identity
    is invented and says so. Written whole or not at all.

    Returns:
        The release folder.

    Raises:
        RunFolderError: the folder is not empty, or cannot be written.
    """
    if n_patients < 2:
        raise ValueError(f"`n_patients` must be at least 2, so that both classes occur, got {n_patients}.")
    release = out / "INbreast Release 1.0"
    labels = rng.permutation(np.arange(n_patients) % 2)
    number = 20_586_908  # INbreast's first file
    rows: list[list[str]] = []
    with atomic_folder(release) as folder:
        for name in ("AllDICOMs", "AllXML"):
            (folder / name).mkdir()
        patients = tracked(rng.spawn(n_patients), progress, "phantoms", n_patients)
        for patient, own in enumerate(patients):
            token, study, acr = own.bytes(8).hex(), _uid(own), str(own.integers(1, 5))
            for view in make_views(int(labels[patient]), settings.difficulty, own):
                number += int(own.integers(3, 40))
                pixels, rois = _drawn(view, own)
                name = f"{number}_{token}_MG_{view.laterality}_{view.file_view}_ANON.dcm"
                inverted = not rows  # one file is MONOCHROME1
                _dicom(pixels, view, patient, study, own, inverted=inverted).save_as(
                    folder / "AllDICOMs" / name, enforce_file_format=True
                )
                if rois:  # as in INbreast, an image without a finding has no outline file
                    (folder / "AllXML" / f"{number}.xml").write_bytes(plistlib.dumps(_outlines(rois)))
                rows.append([view.laterality, view.table_view, "201001", str(number), acr, view.category])
        rows[2][4] = "    "  # one row of INbreast has no ACR
        lines = [HEADER, *(";".join(["removed", "removed", *row]) for row in rows)]
        (folder / PHANTOMS).write_text(
            "Synthetic phantoms, nobody's data; for software tests only.\n", encoding="utf-8"
        )
        (folder / "INbreast.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("ascii"))
    return release


@dataclass(frozen=True)
class Finding:
    """A lesion at its place in a mammogram whose chest wall is on the left; pixels."""

    lesion: Lesion
    center: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class View:
    """One mammogram to draw: the side and view it shows, its BI-RADS category, the breast's shape, its masses."""

    laterality: str
    table_view: str
    category: str
    depth: float
    half_height: float
    middle: float
    findings: tuple[Finding, ...]

    @property
    def file_view(self) -> str:
        """The view as INbreast's file names call it."""
        return "ML" if self.table_view == "MLO" else "CC"


def make_views(label: int, difficulty: float, rng: np.random.Generator) -> list[View]:
    """Make the mammograms of one patient: both views of the breast with the mass, sometimes the other breast.

    One breast in eight has a second mass; one in twelve shows its mass in one view only.
    """
    weights = CATEGORIES[CLASSES[label]]
    category = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
    side, other = rng.permutation(["L", "R"]).tolist()
    masses = [
        (make_lesion(label, difficulty, rng), 32 * float(np.exp(rng.normal(0, 0.35))))
        for _ in range(1 + (rng.random() < 1 / 8))
    ]
    hidden = rng.choice(["CC", "MLO"]) if rng.random() < 1 / 12 else ""
    views = [_view(side, view, category, masses if view != hidden else [], rng) for view in ("CC", "MLO")]
    if rng.random() < 1 / 4:
        normal = str(rng.choice(["1", "2"]))
        views += [_view(other, view, normal, [], rng) for view in ("CC", "MLO")]
    return views


def _view(
    laterality: str,
    table_view: str,
    category: str,
    masses: Sequence[tuple[Lesion, float]],
    rng: np.random.Generator,
) -> View:
    depth, half_height = rng.uniform(0.6, 0.85) * WIDTH, rng.uniform(0.38, 0.46) * HEIGHT
    middle = HEIGHT * (0.5 if table_view == "CC" else 0.52) + rng.normal(0, 8)
    findings: list[Finding] = []
    for lesion, usual in masses:
        radius = float(np.clip(usual * np.exp(rng.normal(0, 0.08)), 12, 75))
        for _ in range(50):  # draw a place until it is clear of the other mass
            along, turn = 0.75 * np.sqrt(rng.random()), rng.uniform(-np.pi / 2, np.pi / 2)
            # One mass in ten lies at the chest wall and runs a little out of the image.
            x = 0.8 * radius if rng.random() < 0.1 else max(along * np.cos(turn) * depth, 1.5 * radius)
            y = middle + along * np.sin(turn) * half_height
            if all(np.hypot(x - f.center[0], y - f.center[1]) > 1.5 * (radius + f.radius) for f in findings):
                break
        findings.append(Finding(lesion.seen_again(rng), (float(x), float(y)), radius))
    return View(laterality, table_view, category, depth, half_height, middle, tuple(findings))


def _drawn(view: View, rng: np.random.Generator) -> tuple[Image, list[tuple[str, np.ndarray]]]:
    """Draw a mammogram; return it and its outlines (name, (x, y) points). A right breast looks to the left."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32) + np.float32(0.5)
    skin = np.hypot(columns / view.depth, (rows - view.middle) / view.half_height)  # 1 at the skin
    texture, gland = make_tissue(2, HEIGHT, WIDTH, rng)
    gland = 1 / (1 + np.exp(-3 * (gland + rng.normal(0.6, 0.5) - 1.2 * skin)))
    image = 0.3 + 0.2 * gland + 0.09 * texture
    if view.table_view == "MLO":  # the pectoral muscle, a bright triangle at the top of the chest wall
        across = columns / (0.38 * WIDTH) + rows / (0.5 * HEIGHT)
        image += 0.22 / (1 + np.exp(np.clip((across - 1) / 0.02, -30, 30)))
    rois: list[tuple[str, np.ndarray]] = []
    for finding in view.findings:
        (x, y), radius = finding.center, finding.radius
        reach = 2.5 * radius
        part = np.s_[max(int(y - reach), 0) : int(y + reach), max(int(x - reach), 0) : int(x + reach)]
        image[part] += finding.lesion.density((columns[part] - x) / radius, (rows[part] - y) / radius)
        rois.append(("Mass", finding.lesion.outline((x, y), radius * rng.normal(1, 0.02))[::4]))
        if finding.lesion.irregularity > 0.7:
            rois.append(("Spiculated Region", finding.lesion.outline((x, y), 1.4 * radius)[::8]))
    for name in rng.choice(OTHER_FINDINGS, rng.integers(0, 3)):
        spot = np.array([rng.uniform(0.1, 0.6) * view.depth, view.middle + rng.uniform(-0.5, 0.5) * view.half_height])
        points = spot + rng.normal(0, 8, (1 if name == "Calcification" else 6, 2))
        image[int(points[0, 1]), int(points[0, 0])] += 0.3
        rois.append((str(name), points))
    image += rng.normal(0, 0.012, image.shape)
    image = np.tanh(np.maximum(image, 0.02))
    image *= np.sqrt(np.clip((1 - skin) / 0.15, 0, 1))  # black outside the breast
    if view.laterality == "R":
        image = image[:, ::-1]
        rois = [(name, np.array([WIDTH, 0]) + points * [-1, 1]) for name, points in rois]
    return np.ascontiguousarray(image, dtype=np.float32), rois


def _outlines(rois: Sequence[tuple[str, np.ndarray]]) -> dict[str, object]:
    """Return outlines as OsiriX's property list holds them."""
    return {
        "Images": [
            {
                "ImageIndex": 0,
                "NumberOfROIs": len(rois),
                "ROIs": [
                    {
                        "Center": "({:.6f}, {:.6f})".format(*points.mean(axis=0)),
                        "IndexInImage": index,
                        "Name": name,
                        "NumberOfPoints": len(points),
                        "Point_px": [f"({x:.6f}, {y:.6f})" for x, y in points],
                        "Type": 19 if len(points) == 1 else 15,
                    }
                    for index, (name, points) in enumerate(rois)
                ],
            }
        ]
    }


def _dicom(pixels: Image, view: View, patient: int, study: UID, rng: np.random.Generator, *, inverted: bool) -> Dataset:
    """Return a mammogram as a Digital Mammography X-Ray Image For Presentation (PS3.3, A.27)."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = DigitalMammographyXRayImageStorageForPresentation, _uid(rng)
    file.StudyInstanceUID, file.SeriesInstanceUID = study, _uid(rng)
    file.PatientName, file.PatientID = f"PHANTOM^{patient + 1:04d}", f"PHANTOM-{patient + 1:04d}"
    file.PatientSex, file.PatientBirthDate, file.PatientIdentityRemoved = "F", "", "YES"
    file.DeidentificationMethod = "synthetic: there is no patient"
    file.StudyDate = file.StudyTime = file.AccessionNumber = file.ReferringPhysicianName = file.StudyID = ""
    file.Manufacturer, file.ManufacturerModelName = "diagnet", "synthetic phantom"
    file.Modality, file.PresentationIntentType, file.SeriesNumber = "MG", "FOR PRESENTATION", 1
    file.ImageComments = "synthetic phantom, not a patient; for software tests only"
    file.ImageType = ["DERIVED", "PRIMARY"]
    file.InstanceNumber, file.BurnedInAnnotation, file.LossyImageCompression = 1, "NO", "00"
    file.BodyPartExamined, file.ImageLaterality, file.ViewPosition = "BREAST", view.laterality, view.table_view
    along, down = ("A", "R") if view.laterality == "L" else ("P", "L")
    file.PatientOrientation = [along, down if view.table_view == "CC" else "F"]
    file.PositionerType, file.BreastImplantPresent, file.OrganExposed = "MAMMOGRAPHIC", "NO", "BREAST"
    file.AnatomicRegionSequence = [_code("T-04000", "Breast")]
    names = {"CC": ("R-10242", "cranio-caudal"), "MLO": ("R-10226", "medio-lateral oblique")}
    file.ViewCodeSequence = [_code(*names[view.table_view])]
    file.ViewCodeSequence[0].ViewModifierCodeSequence = []
    file.AcquisitionContextSequence = []
    file.PixelSpacing = file.ImagerPixelSpacing = [SPACING_MM, SPACING_MM]
    file.Rows, file.Columns, file.SamplesPerPixel, file.PixelRepresentation = HEIGHT, WIDTH, 1, 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 14, 13
    file.PixelIntensityRelationship, file.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    file.RescaleIntercept, file.RescaleSlope, file.RescaleType = 0, 1, "US"
    stored = np.rint(pixels * GREY_LEVELS).astype("<u2")
    file.WindowCenter, file.WindowWidth = GREY_LEVELS // 2, GREY_LEVELS
    file.PhotometricInterpretation, file.PresentationLUTShape = "MONOCHROME2", "IDENTITY"
    if inverted:
        stored = np.uint16(2**14 - 1) - stored
        file.WindowCenter = 2**14 - GREY_LEVELS // 2
        file.PhotometricInterpretation, file.PresentationLUTShape = "MONOCHROME1", "INVERSE"
    file.PixelData = stored.tobytes()
    return file


def _uid(rng: np.random.Generator) -> UID:
    return UID(f"2.25.{int.from_bytes(rng.bytes(16), 'big')}")  # UUID form, PS3.5 B.2


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SRT", meaning
    return code
