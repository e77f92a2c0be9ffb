"""masses.csv <-> masses: a table with one row per mass; every error names file, row and column."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from diagnet.atomic import as_utf8, write_text
from diagnet.data.box import MAX_OVERHANG_PX, Box
from diagnet.data.image import image_size
from diagnet.data.mass import CLASSES, Mass, MassSet
from diagnet.data.table import Row, read_table, table_text
from diagnet.errors import DataError, DiagNetError

REQUIRED = ("image", "patient_id", "label")
BOX = Box._fields
SPACING = ("row_spacing_mm", "column_spacing_mm")
UNUSABLE_SPACING = "row whose spacing cannot be used and is taken as unknown"
ORIGINAL_SIZE = ("original_width", "original_height")
OPTIONAL = ("laterality", "view", "label_source", *BOX, *SPACING, *ORIGINAL_SIZE)
ALIASES = {"file_path": "image"}  # as Mirai's tables call it
SIDES = {"": "", "L": "L", "R": "R", "LEFT": "L", "RIGHT": "R"}


def read_manifest(path: Path | str, *, classes: tuple[str, ...] = CLASSES, check_images: bool = True) -> MassSet:
    """Read a table of masses.

    Columns `image` (a path relative to the table's folder, or absolute), `patient_id` and `label` are required;
    `laterality, view, label_source, x0, y0, x1, y1, row_spacing_mm, column_spacing_mm, original_width,
    original_height` are understood; all others are kept in `Mass.extra`. Rows without a label are counted and kept
    apart; a spacing that cannot be used is unknown, and counted. White space around a cell is none of its text.

    Args:
        path: the table: UTF-8, comma or semicolon.
        classes: class names; labels are compared without regard to case where none is the very same.
        check_images: open the header of each image, to see that it is there and holds its boxes; False for a
            table whose images are not needed any more.

    Raises:
        DataError: something in the table cannot be used.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    seen: dict[tuple[Path, Box | None], int] = {}
    masses: list[Mass] = []
    unlabelled: list[Mass] = []
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    path = Path(path)
    for row in read_table(path, REQUIRED, OPTIONAL, ALIASES):
        image, box = path.parent.absolute() / row.cells["image"], _box(row)
        if not row.cells["image"]:
            raise row.error("image", "name a file", "an empty cell")
        if check_images:
            if image not in sizes:
                sizes[image] = _checked_size(image, row)
            box = None if box is None else _box_inside(box, sizes[image], row)
        if (image, box) in seen:
            raise row.error("image", "differ in file or box from every other row", f"row {seen[image, box]} again")
        seen[image, box] = row.number
        mass = _mass(row, image, box, classes, notes)
        if mass.label is None:
            left_out["no label"] += 1
            unlabelled.append(mass)
        else:
            masses.append(mass)
    return MassSet(
        masses,
        classes=classes,
        source=str(path),
        left_out=dict(left_out),
        notes=dict(notes),
        unlabelled=tuple(unlabelled),
    )


def write_manifest(path: Path, mass_set: MassSet) -> None:
    """Write masses as a table that `read_manifest` reads back; whole or not at all.

    Images inside the table's folder are named relative to it, others absolutely. All text is read back as it is, but
    for white space around it, which `read_table` strips. A view comes back in capitals; a mass has all extra columns.

    Raises:
        DataError: a text cannot be read back: UTF-8 cannot hold it, there is nothing but white space to it, or a label
            is not told from another class.
        ValueError: an image is an array, a label is no class, or an extra column has no name of its own.
    """
    write_text(path, manifest_text(mass_set, path.parent))


def manifest_text(mass_set: MassSet, folder: Path) -> str:
    """Write masses as the table that `write_manifest` puts into a folder; raises what it raises."""
    extras = dict.fromkeys(name for mass in mass_set.masses for name in mass.extra)
    _check_names(extras)
    lines = [_cells(mass, folder.absolute()) for mass in mass_set.masses]
    for line in lines:
        _check_text(line, mass_set.classes)
    filled = {name for line in lines for name, text in line.items() if text}
    always = ("image", "patient_id", "laterality", "view", "label", *BOX)
    columns = [*always, *(name for name in OPTIONAL if name in filled and name not in always), *extras]
    text = table_text(columns, [[line.get(name, "") for name in columns] for line in lines])
    as_utf8(text)
    return text


def _mass(row: Row, image: Path, box: Box | None, classes: tuple[str, ...], notes: Counter[str]) -> Mass:
    cells = row.cells
    label = _label(cells["label"], classes)
    if cells["label"] and label is None:
        raise row.error("label", f"be one of {', '.join(classes)}, or empty", repr(cells["label"]))
    if not cells["patient_id"]:
        raise row.error("patient_id", "be given", "an empty cell")
    side = cells.get("laterality", "").upper()
    if side not in SIDES:
        raise row.error("laterality", "be L, R, LEFT, RIGHT or empty", "another text")
    return Mass(
        image=image,
        box=box,
        label=label,
        patient_id=cells["patient_id"],
        laterality=SIDES[side],
        view=cells.get("view", "").upper(),
        label_source=cells.get("label_source", ""),
        spacing_mm=_spacing(row, notes),
        original_size=_pair(row, ORIGINAL_SIZE),
        extra={name: text for name, text in cells.items() if name not in REQUIRED + OPTIONAL},
    )


def _spacing(row: Row, notes: Counter[str]) -> tuple[float, float] | None:
    """A pixel's size; one that cannot be used is unknown and counted, for no score depends on it."""
    try:
        return _pair(row, SPACING)
    except DataError:
        notes[UNUSABLE_SPACING] += 1
        return None


def _pair(row: Row, columns: tuple[str, str]) -> tuple[float, float] | None:
    found = row.floats(columns)
    if found is None:
        return None
    for column, number in zip(columns, found, strict=True):
        if number <= 0:
            raise row.error(column, "be above 0", f"{number:g}")
    return found[0], found[1]


def _box(row: Row) -> Box | None:
    found = row.floats(BOX)
    if found is None:
        return None
    box = Box(*found)
    for low, high in (("x0", "x1"), ("y0", "y1")):
        if not getattr(box, low) < getattr(box, high):
            raise row.error(high, f"be above {low}", f"the box ({box.shown()})")
    return box


def _box_inside(box: Box, size: tuple[int, int], row: Row) -> Box:
    """Return the box clipped to its image, if it was only rounded."""
    inside = box.inside(*size)
    if inside is not None:
        return inside
    is_off = [overhang > MAX_OVERHANG_PX for overhang in box.overhang(*size)]
    column = BOX[is_off.index(True)] if box.clipped(*size).has_area else BOX[0]
    raise row.error(column, f"lie inside the image of {size[0]} x {size[1]} pixels", f"the box ({box.shown()})")


def _checked_size(image: Path, row: Row) -> tuple[int, int]:
    try:
        is_there = image.is_file()
    except OSError:  # such as a name that is too long
        is_there = False
    if not is_there:
        raise row.error("image", "name a file relative to the table's folder", "none that exists")
    try:
        return image_size(image)
    except DiagNetError as error:  # its text names the file, which may hold a patient's identifier
        raise row.error("image", "be a PNG, JPEG, TIFF, PGM or DICOM image that may be read", "another file") from error


def _cells(mass: Mass, folder: Path) -> dict[str, str]:
    if not isinstance(mass.image, Path):
        raise ValueError("`image` must be a path to be written in a table, got pixels.")  # noqa: TRY004 -- contract
    image = mass.image.absolute()
    cells = {
        "image": str(image.relative_to(folder) if image.is_relative_to(folder) else image),
        "patient_id": mass.patient_id,
        "laterality": mass.laterality,
        "view": mass.view,
        "label": mass.label or "",
        "label_source": mass.label_source,
    }
    for columns, found in ((BOX, mass.box), (SPACING, mass.spacing_mm), (ORIGINAL_SIZE, mass.original_size)):
        cells |= dict(zip(columns, map(_number, found or ()), strict=False))
    return cells | dict(mass.extra)


def _label(text: str, classes: Sequence[str]) -> str | None:
    """The class that a stripped cell names, None where it names none or is empty."""
    if not text:
        return None
    same = {name.strip(): name for name in classes}
    return same.get(text) or {name.casefold(): whole for name, whole in same.items()}.get(text.casefold())


def _check_text(cells: Mapping[str, str], classes: Sequence[str]) -> None:
    """Check that what must be given is read back."""
    for column in ("image", "patient_id"):
        if not cells[column].strip():
            raise DataError(f"`{column}` must be text, got none, or white space alone. Fix: name it.")
    if cells["label"] and cells["label"] not in classes:
        raise ValueError(f"`label` must be one of {', '.join(classes)}, got {cells['label']!r}")
    if cells["label"] and _label(cells["label"].strip(), classes) != cells["label"]:
        raise DataError(
            f"`classes` must differ in more than white space, and be more than that, to be told apart in a table, got"
            f" {cells['label']!r}. Fix: name the classes otherwise."
        )


def _check_names(extras: Collection[str]) -> None:
    """Check that extra columns are read back under their own names."""
    for name in extras:
        known = {each.casefold() for each in (*REQUIRED, *OPTIONAL, *(ALIASES.keys() - {name}))}
        if name.casefold() in known:
            raise ValueError(f"`extra` must not use the names of known columns, got {name!r}.")
        if not name or name != name.strip():
            raise ValueError(f"`extra` must name columns without white space around their names, got {name!r}.")


def _number(value: float) -> str:
    """Write a number so that it reads back equal."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
