"""A structured report of scored masses: Comprehensive SR, TID 1500, one measurement group a mass (TID 1410)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from diagnet.atomic import atomic_path
from diagnet.clinic.identifiers import MANUFACTURER, MODEL_NAME, mass_uid, result_uid, series_of, stable_uid
from diagnet.clinic.privacy import without_path
from diagnet.clinic.source import read_source, writing_about
from diagnet.data.box import Box
from diagnet.inference.assessment import Assessment
from diagnet.version import __version__

SCHEME = "99DIAGNET"  # codes of our own: PS3.3, 8.2 asks for the prefix 99
_SERIES_NUMBER = 9001


def write_structured_report(
    assessments: Sequence[Assessment], source: Path, out: Path, segmentation: Path | None = None
) -> UID:
    """Write what was found in one image as a structured report in the image's study.

    Each mass has a group of its own: its outline as a closed polyline, the calibrated malignancy as "Probability of
    cancer" in percent (111047, DCM), the decision, the algorithm with version and model, a tracking UID. A mass that
    was refused has no probability; its reason stands in a comment, as the flags and the notice do.

    Args:
        assessments: of masses of one image.
        source: the DICOM image; its patient and study are copied into the report.
        out: file to write; whole or not at all.
        segmentation: of the same masses, as `write_segmentation` wrote it: the report's evidence names it, and its
            segments have the tracking UIDs of the groups. TID 1410 lets a group have an outline or a segment, not both.

    Returns:
        The report's SOP Instance UID, see `identifiers.result_uid`.

    Raises:
        DataError: `source` is no DICOM image.
        RefusedInputError: `source` lacks the UIDs a report refers to.
        MissingExtraError: the extra `pacs` is not installed.
        ValueError: there are no assessments.

    Source: PS3.16, TID 1500, 1410, 300, 4019, 1004; PS3.3, A.35.3.
    """
    header = read_source(source)
    further = [] if segmentation is None else [dcmread(segmentation, stop_before_pixels=True)]
    uid = result_uid("report", header.SOPInstanceUID, assessments, [each.SOPInstanceUID for each in further])
    with writing_about(source):
        from highdicom.coding_schemes import CodingSchemeIdentificationItem
        from highdicom.sr import ComprehensiveSR

        document = ComprehensiveSR(
            evidence=[header, *further],
            content=_content(assessments, header),
            **series_of(uid, _SERIES_NUMBER, assessments[0].notice),
            is_complete=True,
            coding_schemes=[CodingSchemeIdentificationItem(designator=SCHEME, name="diagnet")],
        )
        with atomic_path(out) as temporary:
            document.save_as(temporary, enforce_file_format=True)
    return uid


def corners(box: Box) -> np.ndarray:
    """Corners of a box as a closed polyline of (column, row), (0, 0) the outer corner of the first pixel."""
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)], dtype=np.float64)


def _content(assessments: Sequence[Assessment], header: Dataset) -> Dataset:
    """The content tree."""
    from highdicom.sr import (
        DeviceObserverIdentifyingAttributes,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    device = DeviceObserverIdentifyingAttributes(
        uid=stable_uid("device", __version__, assessments[0].model_sha256),
        name="diagnet",
        manufacturer_name=MANUFACTURER,
        model_name=MODEL_NAME,
        serial_number=__version__,
    )
    observer = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.Mammography,
        imaging_measurements=[_group(number, each, header) for number, each in enumerate(assessments, start=1)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    root: Dataset = report[0]
    root.ContentSequence.append(_comment(assessments[0].notice))
    return root


def side_code(found: Assessment) -> Any:
    """The breast's side as a SNOMED CT code; None where it is not known."""
    from pydicom.sr.codedict import codes

    return {"L": codes.SCT.Left, "R": codes.SCT.Right}.get(found.laterality)


def _group(number: int, found: Assessment, header: Dataset) -> Any:
    """The measurement group of one mass."""
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        FindingSite,
        GraphicTypeValues,
        ImageRegion,
        Measurement,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        SourceImageForRegion,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentification(
        name=MODEL_NAME,
        version=__version__,
        manufacturer=MANUFACTURER,
        parameters=[
            f"model sha256 {found.model_sha256}",
            f"malignant from {100 * found.threshold:.4g} %",
            found.notice,
        ],
    )
    side = side_code(found)
    probability = None if found.malignancy is None else 100 * float(found.malignancy)
    group = PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=mass_uid(header.SOPInstanceUID, found.box), identifier=f"Mass {number}"
        ),
        referenced_region=ImageRegion(
            graphic_type=GraphicTypeValues.POLYLINE,
            graphic_data=corners(found.box),
            source_image=SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID),
        ),
        finding_type=codes.SCT.MammographicBreastMass,
        finding_sites=[FindingSite(anatomic_location=codes.SCT.Breast, laterality=side)],
        algorithm_id=algorithm,
        measurements=None
        if probability is None
        else [Measurement(name=codes.DCM.ProbabilityOfCancer, value=probability, unit=codes.UCUM.Percent)],
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=CodedConcept("decision", SCHEME, "Decision"),
                value=CodedConcept(found.decision, SCHEME, found.decision.capitalize()),
            )
        ],
    )
    texts = [f"Reason: {without_path(found.reason, found.image)}"] if found.reason else []
    texts += [f"Note: {flag}" for flag in found.flags]
    texts += [f"Step: {step}" for step in found.steps]
    texts += [f"Input sha256 {found.input_sha256}", found.notice]
    group[0].ContentSequence.extend(_comment(text) for text in texts)
    return group


def _comment(text: str) -> Dataset:
    from highdicom.sr import RelationshipTypeValues, TextContentItem
    from pydicom.sr.codedict import codes

    return TextContentItem(name=codes.DCM.Comment, value=text, relationship_type=RelationshipTypeValues.CONTAINS)
