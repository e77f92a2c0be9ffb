"""The whole report, in the order in which it is read."""

from diagnet.arrays import Images
from diagnet.notice import SYNTHETIC_FLAG, notice_of
from diagnet.run.folder import data_name
from diagnet.run.report.files import RunFiles
from diagnet.run.report.making import data, learning, neighbors, settings
from diagnet.run.report.page import page, tag
from diagnet.run.report.results import meaning, mistakes, results


def report_page(run: RunFiles, images: Images) -> str:
    """Write the document.

    Args:
        run: what is reported.
        images: the masses of the run, in the order of the indices in split.csv.
    """
    record = run.record
    facts = (
        data_name(record) or "images in memory",
        f"preset {record['preset']}",
        f"seed {record['seed']}",
        record["started"].replace("T", " ").replace("+00:00", " UTC"),
        f"diagnet {record['versions'].get('diagnet', '')}",
    )
    return page(
        "DiagNet report",
        tag("div", notice_of(run.is_synthetic), class_="notice", role="note"),
        tag(
            "main",
            tag("h1", "DiagNet: how well are masses told apart?"),
            tag("p", " · ".join(facts), class_="soft"),
            tag("p", tag("b", SYNTHETIC_FLAG), class_="warning") if run.is_synthetic else None,
            *(tag("p", tag("b", "Warning: "), text, class_="warning") for text in record["warnings"]),
            results(run),
            meaning(run),
            mistakes(run, images),
            data(run),
            neighbors(run, images),
            learning(run),
            settings(run),
        ),
        is_synthetic=run.is_synthetic,
    )
