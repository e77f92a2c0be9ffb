"""The rows of a study on disk: a file a job while it runs, one file an arm once they are packed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from diagnet.errors import DataError, RunFolderError
from diagnet.run.folder import read_records, write_table
from diagnet.study.jobs import Job, Rows

PACKED = "rows.csv"  # in an arm's folder: the rows of many jobs
LOCKS = ".locks"
_COLUMNS = ("part", "index", "score", "seconds")
_PLACE = ("fold", "repeat")

Row = dict[str, str]
Place = tuple[int, int]  # fold, repeat


def write_rows(path: Path, rows: Rows) -> None:
    """Write a job's rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(
        path,
        _COLUMNS,
        (
            (part, int(index), f"{score:.5f}", f"{rows.seconds:.0f}")
            for part, index, score in zip(rows.parts, rows.index, rows.scores, strict=True)
        ),
    )


def read_jobs(folder: Path, repeats: int) -> dict[Place, list[Row]]:
    """Read an arm's rows, by (fold, repeat), packed or not.

    Args:
        folder: of the arm.
        repeats: of the study; later ones are left out.

    Raises:
        DataError: a file holds no rows of jobs, or two files hold different rows of one job.
    """
    return {place: rows for place, rows in _read(folder)[0].items() if place[1] < repeats}


def is_done(job: Job, out: Path) -> bool:
    """Tell whether a job of the study in `out` has left its rows.

    Raises:
        DataError: the arm's packed rows cannot be read.
    """
    # In this order: packing deletes a job's own file only after its rows are in the arm's.
    return job.path(out).exists() or (job.fold, job.repeat) in _packed_places(out / job.arm.name)


def pack_arm(folder: Path) -> int:
    """Move the rows of an arm's jobs into one file, in the order of folds and repeats.

    A kill at any moment leaves each job's rows in one file or in both, where they are read once. The study's lock
    must be held: of two that pack one arm at a time, the slower one would write the file without the other's rows.

    Returns:
        How many files of jobs went.

    Raises:
        DataError: a file holds no rows of jobs, or two files hold different rows of one job; nothing is changed.
    """
    jobs, paths = _read(folder)
    if paths:
        write_table(
            folder / PACKED,
            (*_PLACE, *_COLUMNS),
            ((*place, *(row[name] for name in _COLUMNS)) for place, rows in jobs.items() for row in rows),
        )
        for path in paths:
            path.unlink()
    return len(paths)


@contextmanager
def held_study(out: Path) -> Iterator[None]:
    """Keep other processes from changing a study's record and packed rows while the block lasts."""
    with FileLock(lock_folder(out) / "study.lock"):
        yield


def lock_folder(out: Path) -> Path:
    """Where a study's locks lie, out of git's sight."""
    folder = out / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="ascii")
    return folder


def _read(folder: Path) -> tuple[dict[Place, list[Row]], list[Path]]:
    """Rows of all jobs, and the files of single jobs that they were read from."""
    found: dict[Place, list[Row]] = {}
    read = []
    # Before the packed file, for the same reason as in `is_done`.
    for path in sorted(folder.glob("fold*-repeat*.csv")):
        try:
            fold, repeat = (int(part) for part in path.stem.removeprefix("fold").split("-repeat"))
            found[fold, repeat] = _of_a_job(read_records(path, _COLUMNS))
        except (ValueError, IndexError, RunFolderError) as error:
            if not path.exists():  # packed by another process since
                continue
            raise _broken(path, error) from error
        read.append(path)
    for place, rows in _read_packed(folder).items():
        if found.setdefault(place, rows) != rows:
            raise DataError(
                f"`{folder}` must hold one result of fold {place[0]}, repeat {place[1]}, got another one in {PACKED}."
                " Fix: delete the job's own file"
            )
    return dict(sorted(found.items())), read


def _read_packed(folder: Path) -> dict[Place, list[Row]]:
    path = folder / PACKED
    found: dict[Place, list[Row]] = {}
    try:
        if path.exists():
            for row in read_records(path, (*_PLACE, *_COLUMNS)):
                found.setdefault((int(row["fold"]), int(row["repeat"])), []).append(row)
        return {place: _of_a_job(rows) for place, rows in found.items()}
    except (ValueError, RunFolderError) as error:
        raise _broken(path, error) from error


def _packed_places(folder: Path) -> frozenset[Place]:
    """Which jobs are in an arm's packed file; it is read again only when it has changed."""
    try:
        at = (folder / PACKED).stat()
    except FileNotFoundError:
        return frozenset()
    return _places(folder, at.st_mtime_ns, at.st_ino, at.st_size)


@lru_cache(maxsize=256)
def _places(folder: Path, *_version: int) -> frozenset[Place]:
    return frozenset(_read_packed(folder))


def _of_a_job(rows: list[Row]) -> list[Row]:
    """A job's own columns, checked; at least one row must be there.

    Raises:
        ValueError: a cell holds no number.
        IndexError: there are none.
    """
    float(rows[0]["seconds"] or "nan")
    for row in rows:
        float(row["score"]), int(row["index"])
    return [{name: row[name] for name in _COLUMNS} for row in rows]


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(f"`{path}` must hold a job's rows, got: {error!r}. Fix: delete it and --resume")
