"""The report of a run: one HTML file for researchers and radiologists that works offline and names no patient."""

from importlib.util import find_spec
from pathlib import Path

from diagnet.arrays import Images
from diagnet.atomic import legible, write_text
from diagnet.errors import MissingExtraError


def require_report() -> None:
    """Ask for what a report needs, before long work begins.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")


def write_report(run: Path, images: Images) -> Path:
    """Write `report.html` from the files of a run.

    Args:
        run: the run's folder.
        images: the masses of the run, in the order of the indices in split.csv.

    Returns:
        The report's path.

    Raises:
        MissingExtraError: matplotlib is not installed.
        RunFolderError: a file of the run is missing or unreadable, or `report.html` cannot be written.
    """
    require_report()
    # Late: matplotlib is an extra, and takes a second to import.
    from diagnet.run.report.document import report_page
    from diagnet.run.report.files import read_run_files

    path = run / "report.html"
    write_text(path, legible(report_page(read_run_files(run), images)))  # the data's folder may be no text
    return path
