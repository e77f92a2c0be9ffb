"""The metarepository's list of exams and its table of predictions, for predict.sh.

python tables.py marked EXAMS.pkl IMAGES BOXES.csv MARKED.csv
python tables.py predictions EXAMS.pkl IMAGES SCORES.csv PREDICTIONS.csv
"""

import csv
import pickle
import sys
from pathlib import Path

VIEWS = ("L-CC", "L-MLO", "R-CC", "R-MLO")
SIDES = {"L": "left_malignant", "R": "right_malignant"}


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, mappings, texts and numbers, and nothing that could run: every class and function is refused."""

    def find_class(self, module, name):
        """Refuse whatever a pickle wants to look up."""
        raise pickle.UnpicklingError(f"EXAMS must hold plain lists, mappings, texts and numbers, got {module}.{name}")


def images_of(exams):
    """(name without .png, label of its breast) of each image of the list."""
    with Path(exams).open("rb") as file:
        listed = PlainUnpickler(file).load()
    return [(name, exam["cancer_label"][SIDES[view[0]]]) for exam in listed for view in VIEWS for name in exam[view]]


def rows_of(table):
    """The rows of a table as mappings."""
    with Path(table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(table, columns, rows):
    """Write a table."""
    with Path(table).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def marked(exams, images, boxes, out):
    """Write the boxes of the listed images, with the images' own paths."""
    place = {name: str((Path(images) / f"{name}.png").resolve()) for name, _ in images_of(exams)}
    found = [(row, row["image"].removesuffix(".png")) for row in rows_of(boxes)]
    sides = ("x0", "y0", "x1", "y1")
    write(out, ("image", *sides), [(place[n], *(row[s] for s in sides)) for row, n in found if n in place])


def predictions(exams, _, scores, out):
    """Write a row for each listed image: its most suspicious mass, and 0 where no mass was marked."""
    highest = {}
    for row in rows_of(scores):
        name = Path(row["image"]).stem
        if not row["malignancy"]:
            sys.exit(f"predict.sh: every marked mass must be scored, got one refused on {name}: {row['reason']}")
        highest[name] = max(float(row["malignancy"]), highest.get(name, 0.0))
    rows = [(name, highest.get(name, 0.0), label) for name, label in images_of(exams)]
    columns = ("", "image_index", "malignant_pred", "malignant_label")
    write(out, columns, [(index, *row) for index, row in enumerate(rows)])


if __name__ == "__main__":
    {"marked": marked, "predictions": predictions}[sys.argv[1]](*sys.argv[2:])
