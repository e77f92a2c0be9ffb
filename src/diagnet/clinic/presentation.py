"""A presentation state: frames and scores that a viewer lays over the untouched mammogram (GSPS)."""

from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import UID

from diagnet.atomic import atomic_path
from diagnet.clinic.identifiers import mass_uid, result_uid, series_of
from diagnet.clinic.picture import score_text
from diagnet.clinic.report import corners
from diagnet.clinic.source import read_source, writing_about
from diagnet.inference.assessment import Assessment
from diagnet.version import __version__

_SERIES_NUMBER = 9003


def write_presentation_state(assessments: Sequence[Assessment], source: Path, out: Path) -> UID:
    """Write frames, scores and the notice as a grayscale softcopy presentation state in the image's study.

    Args:
        assessments: of masses of one image.
        source: the DICOM image; its patient and study are copied.
        out: file to write; whole or not at all.

    Returns:
        The state's SOP Instance UID, see `identifiers.result_uid`.

    Raises:
        DataError: `source` is no DICOM image, or broken.
        RefusedInputError: `source` lacks the UIDs a result refers to.
        MissingExtraError: the extra `pacs` is not installed.
        ValueError: there are no assessments.

    Source: PS3.3, A.33.1 and C.10.5.
    """
    header = read_source(source)
    uid = result_uid("presentation", header.SOPInstanceUID, assessments)
    with writing_about(source):
        from highdicom import PresentationLUTTransformation
        from highdicom.pr import (
            AnnotationUnitsValues,
            GraphicAnnotation,
            GraphicLayer,
            GraphicObject,
            GraphicTypeValues,
            GrayscaleSoftcopyPresentationState,
            TextObject,
        )

        layer = GraphicLayer(layer_name="DIAGNET", order=1, description=assessments[0].notice)
        pixel = AnnotationUnitsValues.PIXEL
        annotation = GraphicAnnotation(
            referenced_images=[header],
            graphic_layer=layer,
            graphic_objects=[
                GraphicObject(
                    graphic_type=GraphicTypeValues.POLYLINE,
                    graphic_data=corners(found.box),
                    units=pixel,
                    tracking_id=f"Mass {number}",
                    tracking_uid=mass_uid(header.SOPInstanceUID, found.box),
                )
                for number, found in enumerate(assessments, start=1)
            ],
            text_objects=[
                TextObject(
                    text_value=f"{number}: {score_text(found)}. {found.notice}",
                    units=pixel,
                    anchor_point=(float(found.box.x0), float(found.box.y1)),
                    anchor_point_visible=False,
                )
                for number, found in enumerate(assessments, start=1)
            ],
        )
        is_inverse = header.PhotometricInterpretation == "MONOCHROME1" or "INVERSE" in str(
            header.get("PresentationLUTShape", "")
        )
        state = GrayscaleSoftcopyPresentationState(
            referenced_images=[header],
            **series_of(uid, _SERIES_NUMBER, assessments[0].notice),
            device_serial_number=__version__,
            content_label="DIAGNET",
            content_description=assessments[0].notice,
            graphic_annotations=[annotation],
            graphic_layers=[layer],
            presentation_lut_transformation=PresentationLUTTransformation(
                presentation_lut_shape="INVERSE" if is_inverse else "IDENTITY"
            ),
        )
        state.Laterality = assessments[0].laterality
        with atomic_path(out) as temporary:
            state.save_as(temporary, enforce_file_format=True)
    return uid
