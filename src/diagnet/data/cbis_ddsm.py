"""A CBIS-DDSM folder as The Cancer Imaging Archive releases it -> masses."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool

from diagnet.data.box import Box, BoxLike
from diagnet.data.dicom import Geometry, read_geometry, read_mammogram
from diagnet.data.mass import CLASSES, Mass, MassSet
from diagnet.data.table import Row, read_table
from diagnet.errors import DataError, RefusedInputError
from diagnet.progress import Progress, silent, tracked

TABLES = {"mass_case_description_train_set.csv": "train", "mass_case_description_test_set.csv": "test"}
IMAGE, CROP, MASK = "image file path", "cropped image file path", "ROI mask file path"
SIDE, VIEW = "left or right breast", "image view"
KEPT = {  # column of the release -> name in Mass.extra
    "pathology": "pathology",
    "abnormality id": "abnormality_id",
    "mass shape": "mass_shape",
    "mass margins": "mass_margins",
    "assessment": "birads",
    "subtlety": "subtlety",
    "breast_density": "breast_density",
}
LABELS = {"BENIGN": "benign", "BENIGN_WITHOUT_CALLBACK": "benign", "MALIGNANT": "malignant"}
MAX_STRETCH = 1.05  # a mask whose proportions differ by more belongs to another image

# The first folder of a released path. Downloads keep this name, and rename what lies below it.
_SERIES = re.compile(r"Mass-(Training|Test)_P_\d+_(LEFT|RIGHT)_[A-Z]+(_\d+)?")
_Series = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, slots=True)
class _Mask:
    """A mask's file, its size in pixels, and the box of its lesion, None when it is empty."""

    path: Path
    geometry: Geometry
    box: Box | None


def read_cbis_ddsm(folder: Path, *, progress: Progress = silent) -> MassSet:
    """Read the masses of CBIS-DDSM from its case tables and DICOM series, whatever the download named them.

    A mass's box spans its mask. Mask and crop lie in one folder and are sometimes swapped in the table, so the
    mask is known by its two values; where its size is not the image's, its box is scaled. Labels come from
    pathology; the official split is `split_group` in `Mass.extra`.

    Args:
        folder: any folder above the tables and the series.
        progress: called after each row of the tables.

    Raises:
        DataError: there is no table, no series of the tables, or a row cannot be understood.
        MissingExtraError: a mask's compression needs the extra `dicom`.

    Source: Lee et al., *A curated mammography data set for use in computer-aided detection and diagnosis
    research*, Scientific Data 4 (2017).
    """
    tables, series = _found(folder)
    columns = [*KEPT, "patient_id", IMAGE, CROP, MASK, SIDE, VIEW]
    rows = [row for table in tables for row in read_table(table, columns)]
    if not any(_released(row, IMAGE).parts[0] in series for row in rows):
        raise DataError(f"`folder` must hold the DICOM series of its tables, got none of {len(rows)} in {folder}.")
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    masses: dict[tuple[object, BoxLike | None], Mass] = {}
    for row in tracked(rows, progress, "masks", len(rows)):
        found = _mass(row, series, notes)
        if isinstance(found, str):
            left_out[found] += 1
        elif (found.image, found.box) in masses:
            left_out["mass with the box of another mass of its image"] += 1
        else:
            masses[found.image, found.box] = found
    return MassSet(list(masses.values()), CLASSES, str(folder), dict(left_out), dict(notes))


def _found(folder: Path) -> tuple[list[Path], _Series]:
    """Return the case tables below a folder, and series name -> its DICOM files."""
    tables: list[Path] = []
    series: dict[str, list[Path]] = {}
    root = folder.absolute()
    for name, folders, files in os.walk(root):
        folders.sort()
        place = Path(name)
        tables += [place / file for file in sorted(files) if file in TABLES]
        names = [part for part in place.relative_to(root).parts if _SERIES.fullmatch(part)]
        if names:
            series.setdefault(names[0], []).extend(place / file for file in sorted(files) if file.endswith(".dcm"))
    if not tables:
        raise DataError(f"`folder` must hold {' or '.join(TABLES)}, got neither in {folder}.")
    twice = [path.name for path in tables if [other.name for other in tables].count(path.name) > 1]
    if twice:
        raise DataError(f"`folder` must hold each table once, got {twice[0]} {len(twice)} times in {folder}.")
    return tables, {name: paths for name, paths in series.items() if paths}


def _mass(row: Row, series: _Series, notes: Counter[str]) -> Mass | str:
    """Return a row's mass, or the reason why it cannot be used."""
    cells = row.cells
    if cells["pathology"].upper() not in LABELS:
        raise row.error("pathology", f"be one of {', '.join(LABELS)}", repr(cells["pathology"]))
    if not cells["patient_id"]:
        raise row.error("patient_id", "be given", "an empty cell")
    images = series.get(_released(row, IMAGE).parts[0])
    if not images:
        return "mass without its image file"
    try:
        geometry = read_geometry(images[0])
    except (DataError, RefusedInputError):
        return "mass whose image cannot be read"
    mask = _mask(series.get(_released(row, MASK).parts[0], ()))
    if isinstance(mask, str):
        return mask
    if mask.box is None:
        return "mass whose mask is empty"
    across, down = geometry.width / mask.geometry.width, geometry.height / mask.geometry.height
    if max(across, down) > MAX_STRETCH * min(across, down):
        return "mass whose mask has not the proportions of its image"
    if (across, down) != (1, 1):
        notes["mask of another size than its image"] += 1
    if _is_named(mask.path, _released(row, CROP)) and not _is_named(mask.path, _released(row, MASK)):
        notes["mask and crop were swapped"] += 1
    return Mass(
        image=images[0],
        box=mask.box.scaled(across, down),
        label=LABELS[cells["pathology"].upper()],
        patient_id=cells["patient_id"],
        laterality={"LEFT": "L", "RIGHT": "R"}.get(cells[SIDE].upper(), ""),
        view=cells[VIEW].upper(),
        label_source="pathology",
        spacing_mm=geometry.spacing_mm,
        extra={name: cells[column] for column, name in KEPT.items()} | {"split_group": TABLES[row.path.name]},
    )


def _mask(candidates: Sequence[Path]) -> _Mask | str:
    """Return the mask among the files of a series, which holds the crop too: the largest file of two values."""
    readable: list[tuple[Path, Geometry]] = []
    for path in candidates:
        with suppress(DataError, RefusedInputError):
            readable.append((path, read_geometry(path)))
    for path, geometry in sorted(readable, key=lambda found: -found[1].width * found[1].height):
        try:
            pixels = read_mammogram(path).pixels
        except (DataError, RefusedInputError):
            continue
        low, high = pixels.min(), pixels.max()
        is_lesion = pixels == high
        if bool((is_lesion | (pixels == low)).all()):
            return _Mask(path, geometry, _box(is_lesion) if low < high else None)
    return "mass whose mask cannot be read" if candidates else "mass without its mask file"


def _box(is_lesion: Bool[np.ndarray, "height width"]) -> Box:
    rows, columns = np.flatnonzero(is_lesion.any(axis=1)), np.flatnonzero(is_lesion.any(axis=0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def _is_named(path: Path, released: PurePosixPath) -> bool:
    """Tell whether a downloaded file is the one that the table names.

    Newer downloads write 1-1.dcm for 000000.dcm, in a folder whose name ends as the series' identifier does.
    """
    number = int(released.stem) + 1 if released.stem.isdecimal() else 0
    return path.name in (released.name, f"1-{number}.dcm") and path.parent.name.endswith(released.parent.name[-5:])


def _released(row: Row, column: str) -> PurePosixPath:
    """Return a path of the table, which has line breaks in it."""
    text = "".join(row.cells[column].split())
    if not text:
        raise row.error(column, "be a path", "an empty cell")
    return PurePosixPath(text)
