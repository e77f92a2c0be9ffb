"""The verb that scores marked masses: predict."""

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagnet.cli.runs import Engine
from diagnet.cli.shared import Json, Quiet, print_json
from diagnet.errors import DataError, DiagNetError, RefusedInputError, RunFolderError

if TYPE_CHECKING:
    from diagnet.clinic.marks import Outline
    from diagnet.data.box import Box
    from diagnet.data.marked import Marked
    from diagnet.inference.assessment import Assessment, Policy


class Form(StrEnum):
    """How scores are printed or written."""

    table = "table"
    csv = "csv"
    metarepo = "metarepo"


def predict(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] FILE...",
            help="A finished run's folder, else the shipped model scores. Images, folders of images, or a table.",
            show_default=False,
        ),
    ],
    box: Annotated[
        list[str] | None, typer.Option(metavar="X0,Y0,X1,Y1", help="A mass on the one FILE; may be given again.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="Table of image, x0, y0, x1, y1.", show_default=False)] = None,
    marks: Annotated[
        Path | None, typer.Option(help="DICOM file with marks, as a structured report.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV of the scores, whole or not at all.", show_default=False)
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", case_sensitive=False, help="table, csv, or the NYU metarepository's columns.")
    ] = Form.table,
    out_sr: Annotated[Path | None, typer.Option(help="Structured report to write.", show_default=False)] = None,
    out_sc: Annotated[Path | None, typer.Option(help="Picture with overlay (DICOM).", show_default=False)] = None,
    out_seg: Annotated[Path | None, typer.Option(help="Segmentation of the marks (DICOM).", show_default=False)] = None,
    out_pdf: Annotated[
        Path | None, typer.Option(help="Page to read: a .pdf, else a PDF in a DICOM file.", show_default=False)
    ] = None,
    allow_for_processing: Annotated[
        bool, typer.Option("--allow-for-processing", help="Score raw detector data too.")
    ] = False,
    allow_missing_preamble: Annotated[
        bool, typer.Option("--allow-missing-preamble", help="Read DICOM files without preamble.")
    ] = False,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Score regions far from all training masses too.")
    ] = False,
    engine: Annotated[Engine, typer.Option(case_sensitive=False, help="What scores.")] = Engine.torch,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score marked masses, each with its reasons. One file that is refused does not lose the others (exit code 3)."""
    from diagnet.atomic import require_file, write_text
    from diagnet.cli.terminal import shown_progress
    from diagnet.data.marked import find_marked
    from diagnet.data.reading_process import start_reading
    from diagnet.inference.assessment import Policy, assess
    from diagnet.inference.predictor import load_model
    from diagnet.inference.score_sheet import as_csv, as_metarepo, as_object, as_table, summary

    if sum(map(bool, (box, boxes, marks))) > 1:
        raise typer.BadParameter("must be alone, got more than one of them.", param_hint="--box, --boxes, --marks")
    if out is not None and out.suffix.lower() != ".csv":
        raise typer.BadParameter(f"must be a .csv file, got {out}.", param_hint="--out")
    if out is not None:
        require_file(out, "--out")
    run, files = run_and_files(files)
    start_reading()
    model = load_model(run, engine=engine.value)
    found, n_passed = find_marked(files)
    if n_passed:
        print(
            f"diagnet: passed over: {n_passed} files in folders (no images, or links to folders read already)",
            file=sys.stderr,
        )
    found, outlines = _with_marks(found, box, boxes, marks)
    results = {"--out-sr": out_sr, "--out-sc": out_sc, "--out-seg": out_seg, "--out-pdf": out_pdf}
    _require_new(results)
    if out_pdf is not None:
        from diagnet.clinic.result_page import require_report

        require_report()
    if any(results.values()) and len(found) != 1:
        raise typer.BadParameter(f"must have one FILE, got {len(found)}.", param_hint=", ".join(results))
    policy = Policy(
        allow_for_processing=allow_for_processing,
        allow_missing_preamble=allow_missing_preamble,
        allow_unlike=allow_unlike,
    )
    assessments: list[Assessment] = []
    labels: list[str] = []
    with shown_progress(quiet=quiet or len(found) < _MANY) as progress:
        for number, each in enumerate(found):
            progress("predict", number, len(found))
            assessments += assess(model, each.image, each.boxes, policy, original_size=each.original_size)
            labels += each.labels or ("",)
        progress("predict", len(found), len(found))
    assessments = _with_lesions(assessments, found)
    sheet = as_metarepo(assessments, labels) if form is Form.metarepo else as_csv(assessments)
    if out is not None:
        write_text(out, sheet)
    counts = summary(assessments)
    if as_json:
        objects = [as_object(assessment) for assessment in assessments]
        told = "" if run is None else str(run)
        print_json({"notice": model.notice, "run": told, "counts": counts, "assessments": objects})
    elif out is not None:
        print(f"{', '.join(f'{count} {name}' for name, count in counts.items())}\n{model.notice}\nScores: {out}")
    elif form is Form.table:
        print(as_table(assessments, model))
    else:
        print(sheet, end="")
    _write_dicom(assessments, found, results, outlines, policy, run)  # last: what it raises loses no score
    if counts["refused"]:
        if form is Form.metarepo:
            print(f"diagnet: left out: {counts['refused']} masses (refused)", file=sys.stderr)
        raise typer.Exit(3)


def run_and_files(paths: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """Split the arguments into a run, if the first is one, and files; None: the shipped model."""
    if not (paths[0] / "run.json").exists():
        print("diagnet: no run given: the shipped model scores", file=sys.stderr)
        return None, list(paths)
    if len(paths) == 1:
        raise typer.BadParameter(f"must be given, got the run {paths[0]} alone.", param_hint="FILE")
    return paths[0], list(paths[1:])


def _require_new(results: Mapping[str, Path | None]) -> None:
    """Refuse to write over a result, or two to one place, before anything is scored."""
    taken: dict[Path, str] = {}
    for option, path in results.items():
        if path is None:
            continue
        if path.exists():
            raise RunFolderError(f"`{option}` must be a new file, got one that is there: {path}. Fix: remove it first.")
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise RunFolderError(f"`{option}` must be another file than `{other}`, got {path} for both.")


_MANY = 10  # images from which progress is shown


def _with_marks(
    found: "list[Marked]", box: Sequence[str] | None, boxes: Path | None, report: Path | None
) -> "tuple[list[Marked], Mapping[Box, Outline]]":
    """Give the images the marks of one of the options, where there is one; and the outlines of a single image's."""
    from diagnet.clinic.marks import read_marks
    from diagnet.data.dicom import read_uid
    from diagnet.data.marked import Marked, attach_boxes, attach_boxes_by_uid, parsed_box

    if box:
        if len(found) != 1:
            raise typer.BadParameter(f"must have one FILE, got {len(found)}. Fix: --boxes.", param_hint="--box")
        return [Marked(found[0].image, tuple(map(parsed_box, box)), ("",) * len(box))], {}
    if boxes is not None:
        marked, n_unused = attach_boxes(found, boxes)
        if n_unused:
            print(f"diagnet: warning: {n_unused} images of {boxes} are not among FILE", file=sys.stderr)
        return marked, {}
    if report is None:
        return found, {}
    uids = {}
    for each in found:
        try:
            uids[each.image] = read_uid(each.image)
        except DiagNetError:
            continue  # told when it is scored
    marks = read_marks(report)
    if marks.n_passed:
        print(f"diagnet: passed over: {marks.n_passed} marks of {report} that outline no mass", file=sys.stderr)
    outlines = marks.outlines.get(uids.get(found[0].image, ""), {}) if len(found) == 1 else {}
    return attach_boxes_by_uid(found, uids, marks), outlines


def _with_lesions(assessments: "Sequence[Assessment]", found: "Sequence[Marked]") -> "list[Assessment]":
    """Score what is marked in two views once more, as one lesion."""
    if len(found) < 2 and not any(each.lesion_ids for each in found):
        return list(assessments)  # no header is read again for a second view that is not there
    import secrets

    from diagnet.app.exam import exam_of
    from diagnet.clinic.privacy import Pseudonyms
    from diagnet.evaluation.lesions import Sighting
    from diagnet.inference.lesion_score import with_lesion_scores

    names = Pseudonyms(secrets.token_bytes(32))
    sightings = []
    for each in found:
        exam = exam_of(each.image, names, each)
        whose = (exam.patient, exam.study) if exam.patient and (exam.study or exam.by_patient_alone) else None
        n_masses = len(each.boxes) or 1
        ids = each.lesion_ids if len(each.lesion_ids) == n_masses else ("",) * n_masses
        sightings += [Sighting(whose, exam.laterality, exam.view, lesion_id) for lesion_id in ids]
    return with_lesion_scores(assessments, sightings)


def _write_dicom(
    assessments: "Sequence[Assessment]",
    found: "Sequence[Marked]",
    results: Mapping[str, Path | None],
    outlines: "Mapping[Box, Outline]",
    policy: "Policy",
    run: Path | None,
) -> None:
    """Write what a PACS takes: refused masses stand in it with their reason."""
    sr, sc, seg, pdf = (results[f"--out-{name}"] for name in ("sr", "sc", "seg", "pdf"))
    raw, refusal = policy.allow_for_processing, None
    if seg is not None:
        from diagnet.clinic.segmentation import write_segmentation

        try:
            write_segmentation(assessments, found[0].image, seg, outlines)
            print(f"Segmentation: {seg}", file=sys.stderr)
        except (DataError, RefusedInputError) as error:  # the report has the reason; this is told when it is written
            seg, refusal = None, error
    if sr is not None:
        from diagnet.clinic.report import write_structured_report

        write_structured_report(assessments, found[0].image, sr, seg)
        print(f"Structured report: {sr}", file=sys.stderr)
    if pdf is not None:
        from diagnet.clinic.result_page import write_result_page
        from diagnet.inference.predictive_value import find_held_out, meaning_texts
        from diagnet.inference.predictor import shipped_run

        texts = meaning_texts(find_held_out(run or shipped_run()), assessments)
        write_result_page(assessments, found[0].image, pdf, texts, allow_for_processing=raw)
        print(f"Page: {pdf}", file=sys.stderr)
    if sc is not None:
        from diagnet.clinic.picture import write_secondary_capture

        write_secondary_capture(assessments, found[0].image, sc, allow_for_processing=raw)
        print(f"Picture: {sc}", file=sys.stderr)
    if refusal is not None:
        raise refusal
