"""An INbreast release folder -> masses: outlines from OsiriX, labels from BI-RADS categories."""

import plistlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, Field

from diagnet.data.box import Box, BoxLike
from diagnet.data.dicom import Geometry, read_geometry
from diagnet.data.mass import CLASSES, SYNTHETIC, Mass, MassSet
from diagnet.data.reading_process import apart
from diagnet.data.regular_file import regular_bytes
from diagnet.data.table import Row, read_table
from diagnet.errors import DataError, DiagNetError

TABLE, IMAGES, OUTLINES = "INbreast.csv", "AllDICOMs", "AllXML"
PHANTOMS = "SYNTHETIC.txt"  # lies in a release of phantoms alone, `diagnet.data.phantom`
COLUMNS = ("Laterality", "View", "File Name", "ACR", "Bi-Rads")

# The token in the middle is the only thing that tells patients apart: the table's identifiers are removed.
_FILE_NAME = re.compile(r"(\d+)_([0-9a-f]+)_MG_([LR])_([A-Z]+)_ANON\.dcm", re.IGNORECASE)
_FILE_VIEWS = {"ML": "MLO"}  # the files say ML where the table, rightly, says MLO
_POINT = re.compile(r"\(\s*([^\s,]+)\s*,\s*([^\s,]+)\s*\)")
_MAX_OUTLINES = 8_000_000  # bytes of a property list: an object may have 7, and the largest files have one million
_CATEGORY = re.compile(r"([1-6])[abc]?")


class InbreastSettings(BaseModel, frozen=True, extra="forbid"):
    """How BI-RADS categories become labels (reading 17)."""

    malignant_from: int = Field(4, ge=2, le=6, description="Lowest BI-RADS category that counts as malignant.")


def read_inbreast(
    folder: Path,
    settings: InbreastSettings = InbreastSettings(),  # noqa: B008 -- frozen, so one instance serves all calls
) -> MassSet:
    """Read the masses of an INbreast release.

    Every outline named Mass is a mass; its box spans the outline, clipped to the image. Its label comes from the
    image's BI-RADS category, not from a biopsy: `label_source` is "birads", or "synthetic" in a release of phantoms.

    Args:
        folder: the release (with AllDICOMs, AllXML, INbreast.csv), or the folder that holds it.
        settings: which categories are malignant.

    Raises:
        DataError: the folder is no release, or holds no image of its table, or an outline file is no property list.

    Source: Moreira et al., *INbreast: toward a full-field digital mammographic database*, Academic Radiology 19
    (2012).
    """
    release = _release(folder)
    files = {int(match[1]): match for match in map(_FILE_NAME.fullmatch, _names(release / IMAGES)) if match}
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    listed = _read_list(release / TABLE, left_out)
    if not files.keys() & listed.keys():
        raise DataError(f"`{IMAGES}` must hold the DICOM files of {TABLE}, got none of {len(listed)} in {release}.")
    outlines = {path.stem: path for path in sorted((release / OUTLINES).iterdir()) if path.suffix.lower() == ".xml"}
    left_out["table row without its DICOM file"] = len(listed.keys() - files.keys())
    left_out["DICOM file without a row in the table"] = len(files.keys() - listed.keys())
    known = {str(number) for number in files.keys() | listed.keys()}
    left_out["outline file of no known image"] = len(outlines.keys() - known)
    masses: dict[tuple[object, BoxLike | None], Mass] = {}
    for number, row in listed.items():
        if number not in files:
            continue
        names = files[number]
        if (row.cells["Laterality"], row.cells["View"]) != (names[3], _FILE_VIEWS.get(names[4], names[4])):
            notes["side or view of the table is not the file name's"] += 1
        if str(number) not in outlines:
            notes["image without an outline file"] += 1
            continue
        outlined = _mass_outlines(outlines[str(number)])
        if not outlined:
            notes["image without a mass"] += 1
            continue
        image = release.absolute() / IMAGES / names[0]
        try:
            geometry = read_geometry(image)
        except DiagNetError:
            left_out["mass whose image cannot be read"] += len(outlined)
            continue
        for points in outlined:
            found = _mass(points, image, names[2].lower(), geometry, row, settings, notes)
            if isinstance(found, str):
                left_out[found] += 1
            elif (found.image, found.box) in masses:
                left_out["mass with the box of another mass of its image"] += 1
            else:
                masses[found.image, found.box] = found
    if (release / PHANTOMS).exists():
        masses = {key: replace(mass, label_source=SYNTHETIC) for key, mass in masses.items()}
    return MassSet(list(masses.values()), CLASSES, str(folder), dict(+left_out), dict(notes))


def _release(folder: Path) -> Path:
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    for candidate in (folder, *children):
        if (candidate / IMAGES).is_dir() and (candidate / OUTLINES).is_dir() and (candidate / TABLE).is_file():
            return candidate
    raise DataError(f"`folder` must hold {IMAGES}, {OUTLINES} and {TABLE}, got {folder} without them.")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _read_list(table: Path, left_out: Counter[str]) -> dict[int, Row]:
    """Return file number -> row of the table."""
    listed: dict[int, Row] = {}
    for row in read_table(table, COLUMNS):
        try:
            number = int(float(row.cells["File Name"]))  # spreadsheets make 20586908.0 of it
        except (ValueError, OverflowError):
            left_out["table row without a file number"] += 1
            continue
        if number in listed:
            raise row.error("File Name", "be listed once", f"row {listed[number].number} again")
        listed[number] = row
    return listed


@apart(name="outlines")
def _mass_outlines(path: Path) -> list[Float[np.ndarray, "point 2"]]:
    """Return the (x, y) points of each mass; no points where they cannot be read.

    `plistlib` refuses entity declarations, so a small file cannot grow in memory nor reach for other files.
    """
    content = regular_bytes(path, "outlines", _MAX_OUTLINES)
    try:
        images = plistlib.loads(content, fmt=plistlib.FMT_XML)["Images"]
        rois = [roi for image in images for roi in image["ROIs"]]
        return [_points(roi.get("Point_px")) for roi in rois if str(roi.get("Name")).strip().casefold() == "mass"]
    except Exception as error:  # plistlib raises whatever a broken file makes it meet
        raise DataError(f"`outlines` must be a property list of Images and ROIs, got another file: {path}.") from error


def _points(texts: object) -> Float[np.ndarray, "point 2"]:
    """Return the points of texts like "(12.5, 7)", none if one of them is not like that or is not finite."""
    matches = [_POINT.fullmatch(str(text).strip()) for text in texts] if isinstance(texts, list) else []
    try:
        points = np.array([match.groups() if match else ("nan", "nan") for match in matches], dtype=np.float64)
    except ValueError:
        points = np.empty((0, 2))
    return points.reshape(-1, 2) if np.isfinite(points).all() else np.empty((0, 2))


def _mass(
    points: Float[np.ndarray, "point 2"],
    image: Path,
    patient: str,
    geometry: Geometry,
    row: Row,
    settings: InbreastSettings,
    notes: Counter[str],
) -> Mass | str:
    """Return an outline's mass, or the reason why it cannot be used."""
    if len(points) < 3:
        return "mass whose outline cannot be read"
    inside = np.clip(points, 0, (geometry.width, geometry.height))
    box = Box(*inside.min(axis=0).tolist(), *inside.max(axis=0).tolist())
    if not box.has_area:
        return "mass whose outline lies outside its image"
    category = _CATEGORY.fullmatch(row.cells["Bi-Rads"].lower())
    if category is None:
        return "mass without a BI-RADS category"
    if not np.array_equal(inside, points):
        notes["outline clipped to its image"] += 1
    return Mass(
        image=image,
        box=box,
        label=CLASSES[int(category[1]) >= settings.malignant_from],
        patient_id=patient,
        laterality=row.cells["Laterality"] if row.cells["Laterality"] in ("L", "R") else "",
        view=row.cells["View"],
        label_source="birads",
        spacing_mm=geometry.spacing_mm,
        extra={"birads": row.cells["Bi-Rads"], "acr": row.cells["ACR"]},
    )
