"""What is to be scored: files, folders and tables of boxes -> images with their marked masses."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diagnet.data.box import Box
from diagnet.data.dicom import is_known_other
from diagnet.data.image import is_dicom
from diagnet.data.manifest import ALIASES, BOX, ORIGINAL_SIZE, SIDES
from diagnet.data.table import Row, read_table
from diagnet.errors import DataError

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".pgm", ".pnm")
WHOSE = ("patient_id", "study", "laterality", "view", "lesion_id")
_STUDY = {"study_id": "study", "exam_id": "study"}  # the second as Mirai's tables call it


@dataclass(frozen=True, slots=True)
class Marked:
    """One image and the masses marked on it.

    Attributes:
        image: as the user gave it.
        boxes: in pixels of the file; None for the whole image.
        labels: of each mass, "" where it is not known.
        original_size: (width, height) before somebody stretched the image.
        patient_id: whose it is, "" where the table does not say, or two of its rows disagree; so the next three.
        study: the examination.
        laterality: "L", "R" or "".
        view: in capitals, such as "CC".
        lesion_ids: of the masses that the table names; those of all masses, or they cannot be told apart.
    """

    image: Path
    boxes: tuple[Box | None, ...] = (None,)
    labels: tuple[str, ...] = ("",)
    original_size: tuple[float, float] | None = None
    patient_id: str = ""
    study: str = ""
    laterality: str = ""
    view: str = ""
    lesion_ids: tuple[str, ...] = ()


def find_marked(paths: Sequence[Path]) -> tuple[list[Marked], int]:
    """Expand what the user named: an image, a folder of images at any depth, or a table (.csv) of boxes.

    Returns:
        The images in order, each without a box but those of tables; and how many files of folders were passed over,
        because they are no images by name or content, or links to folders that were read already.

    Raises:
        DataError: a table cannot be used.
    """
    found: list[Marked] = []
    n_passed = 0
    for path in paths:
        if path.is_dir():
            images, n_others = _images_below(path)
            found += [Marked(image) for image in images]
            n_passed += n_others
        elif path.suffix.lower() == ".csv":
            found += read_marked(path)
        else:
            found.append(Marked(path))
    return found, n_passed


def read_marked(path: Path) -> list[Marked]:
    """Read a table of boxes: `image` is required; `x0, y0, x1, y1, label, original_width, original_height` are known.

    So are `patient_id, study` (or `study_id`, `exam_id`), `laterality`, `view` and `lesion_id`, which tell what belongs
    together.
    Unlike `read_manifest` it needs neither patients nor labels, and says nothing of the images themselves: a bad one
    is told when it is scored. Rows of one image are put together.

    Raises:
        DataError: the table cannot be read, or a cell is no number.
    """
    by_image: dict[Path, list[Row]] = {}
    for row in read_table(path, ("image",), ("label", *BOX, *ORIGINAL_SIZE, *WHOSE), ALIASES | _STUDY):
        if not row.cells["image"]:
            raise row.error("image", "name a file", "an empty cell")
        by_image.setdefault(path.parent / row.cells["image"], []).append(row)
    return [
        Marked(
            image,
            boxes=tuple(_box(row) for row in rows),
            labels=tuple(row.cells.get("label", "").lower() for row in rows),
            original_size=_original_size(rows[0]),
            patient_id=_agreed(rows, "patient_id"),
            study=_agreed(rows, "study"),
            laterality=SIDES.get(_agreed(rows, "laterality").upper(), ""),
            view=_agreed(rows, "view").upper(),
            lesion_ids=tuple(row.cells["lesion_id"] for row in rows if row.cells.get("lesion_id")),
        )
        for image, rows in by_image.items()
    ]


def attach_boxes(images: Iterable[Marked], table: Path) -> tuple[list[Marked], int]:
    """Give images the boxes of a table: by path, else by the end of a path, else by name.

    A table may lie elsewhere than its images, so that its paths are but the ends of theirs. Such an end counts where it
    is that of one image, and a name where one image and one image of the table have it; what was found by a path is not
    looked for again by a name.

    Returns:
        The images, those without a row with no box at all; and how many images of the table were not asked for.

    Raises:
        DataError: the table cannot be used.
    """
    images, rows = list(images), read_marked(table)
    own: dict[int, Marked] = {}
    by_path = {_same(row.image): row for row in rows}
    for index, each in enumerate(images):
        if (row := by_path.get(_same(each.image))) is not None:
            own[index] = row
    used = {row.image for row in own.values()}
    n_named = Counter(row.image.name for row in rows)
    with_name: dict[str, set[int]] = {}
    for index, each in enumerate(images):
        for name in (each.image.name, Path(_same(each.image)).name):
            with_name.setdefault(name, set()).add(index)
    for by_name in (False, True):
        for row in rows:
            parts = (row.image.name,) if by_name else _parts_below(row.image, table.parent)
            places = [index for index in with_name.get(parts[-1], ()) if _ends_with(images[index].image, parts)]
            is_sure = len(places) == 1 and (n_named[row.image.name] == 1 if by_name else len(parts) > 1)
            if is_sure and places[0] not in own and row.image not in used:
                own[places[0]] = row
                used.add(row.image)
    found = [
        replace(own[index], image=each.image) if index in own else Marked(each.image, (), ())
        for index, each in enumerate(images)
    ]
    return found, len(rows) - len(used)


def _parts_below(path: Path, folder: Path) -> tuple[str, ...]:
    """The parts of a path as a table in `folder` has it, as far as they name something."""
    parts = (path.relative_to(folder) if path.is_relative_to(folder) else path).parts
    return tuple(part for part in parts if part not in (".", "..", path.anchor)) or ("",)


def _ends_with(image: Path, parts: tuple[str, ...]) -> bool:
    return any(path.parts[-len(parts) :] == parts for path in (image.absolute(), Path(_same(image))))


def parsed_box(text: str) -> Box:
    """Read a box that was typed: `10,20,110,140`.

    Raises:
        DataError: it is not four numbers.
    """
    try:
        return Box.parsed(text)
    except ValueError:
        raise DataError(f"`--box` must be x0,y0,x1,y1, got {text!r}.") from None


def attach_boxes_by_uid(
    images: Iterable[Marked], uids: Mapping[Path, str], boxes: Mapping[str, Sequence[Box]]
) -> list[Marked]:
    """Give images the boxes that another DICOM file has for their SOPInstanceUID; none where it has none."""
    found = []
    for each in images:
        own = tuple(boxes.get(uids.get(each.image, ""), ()))
        found.append(Marked(each.image, own, ("",) * len(own)))
    return found


def _images_below(folder: Path) -> tuple[list[Path], int]:
    """Find images at any depth, through linked folders too, each folder once."""
    found, n_others, seen = [], 0, set()
    for name, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:  # a link to where we have been
            n_others += 1
            below.clear()
            continue
        seen.add(real)
        paths = [Path(name, file) for file in files if not file.startswith(".")]
        is_found = {path: _is_image(path) for path in paths if path.is_file()}
        found += [path for path, is_image in is_found.items() if is_image]
        n_others += list(is_found.values()).count(False)
    return sorted(found), n_others


def _is_image(path: Path) -> bool:
    try:
        if path.suffix.lower() in SUFFIXES and path.suffix.lower() not in (".dcm", ".dicom"):
            return True
        return is_dicom(path) and not is_known_other(path)
    except DataError:
        return path.suffix.lower() in SUFFIXES  # told when it is scored


def _same(path: Path) -> str:
    return os.path.realpath(path)


def _box(row: Row) -> Box | None:
    found = row.floats(BOX)
    return None if found is None else Box(*found)


def _agreed(rows: Sequence[Row], column: str) -> str:
    """The text that all rows of an image have in a column, "" where two differ."""
    texts = {row.cells.get(column, "") for row in rows} - {""}
    return texts.pop() if len(texts) == 1 else ""


def _original_size(row: Row) -> tuple[float, float] | None:
    found = row.floats(ORIGINAL_SIZE)
    return (found[0], found[1]) if found is not None and min(found) > 0 else None
