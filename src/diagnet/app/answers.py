"""What the server says of images and masses, as JSON objects."""

import base64
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.Image

from diagnet.app.images import ImageStore, ServedImage, picture_of
from diagnet.app.problems import Refusal, refused
from diagnet.app.shapes import Corners
from diagnet.clinic.privacy import without_path
from diagnet.config import read_run_config
from diagnet.data.box import Box
from diagnet.data.image import is_dicom
from diagnet.data.mammogram import Mammogram
from diagnet.data.mass import Mass, MassSet
from diagnet.data.prepared import Prepared
from diagnet.data.roi import cut_roi, padded_box
from diagnet.data.suitability import clipped_box
from diagnet.errors import DiagNetError, RefusedInputError
from diagnet.inference.assessment import Assessment, Policy, assess
from diagnet.inference.model import Model
from diagnet.inference.saliency import METHOD, occlusion
from diagnet.inference.similar_cases import Case, read_case_base
from diagnet.run.folder import read_metrics, read_record
from diagnet.version import __version__

_KEPT = 256  # assessments, for what is asked next of the same mass

WriteReport = Callable[[Sequence[Assessment], Path, Path], object]  # as diagnet.clinic.report writes it


class Answers:
    """A finished run, asked about images.

    Args:
        run: the run's folder.
        model: of the run.
        images: at hand.
        data: what the run was trained on, for pictures of its masses.
        write_report: writes a structured report, where that is possible.
        max_upload_mb: what a client is told before it sends a file.
        allow_unlike: score regions that are far from all training masses, flagged.

    Raises:
        DiagNetError: the run or the data cannot be used.
    """

    def __init__(
        self,
        run: Path,
        model: Model,
        images: ImageStore,
        data: MassSet | Prepared | None = None,
        write_report: WriteReport | None = None,
        max_upload_mb: int = 128,
        allow_unlike: bool = False,
    ) -> None:
        self._model, self._images, self._write_report = model, images, write_report
        self._allow_unlike = allow_unlike
        self._cases = read_case_base(run, model, data)
        self._facts = _model_facts(run, model, has_pictures=data is not None)
        self._facts["limits"] = {"max_upload_bytes": max_upload_mb * 2**20}
        self._known: OrderedDict[tuple[str, Corners], Assessment] = OrderedDict()

    @property
    def model(self) -> dict[str, Any]:
        """What `/v1/model` says of the model: its name, hash, classes, threshold and test figures."""
        return self._facts

    @property
    def notice(self) -> str:
        """The sentence that must be shown beside each score: research software, not a medical device."""
        return self._model.notice

    def predict(self, shown: ServedImage, boxes: Sequence[Corners], picture: Mammogram | None = None) -> dict[str, Any]:
        """Score masses marked on an image at hand, or on one that was read for this."""
        assessments = self._assess(shown, boxes, picture)
        return {"assessments": [self._assessment_json(each) for each in assessments], "notice": self.notice}

    def read_file(self, content: BinaryIO, policy: Policy) -> tuple[ServedImage, Mammogram]:
        """Read a file that is no image at hand; the caller removes it.

        Raises:
            HTTPException: it is of no known kind (415), or cannot be used (422).
        """
        path, _ = self._images.stored(content, policy)
        shown = ServedImage("", f"the file{path.suffix}", path, True, policy)
        try:
            return shown, picture_of(shown)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def similar(self, shown: ServedImage, box: Corners, n_similar: int) -> dict[str, Any]:
        """Say which training masses a mass looks like, and where it lies among them."""
        assessment, region = self._score_and_cut(shown, box)
        malignancy = assessment["malignancy"]
        found = self._cases.surroundings(region, malignancy, n_similar)
        points = [
            {"case": case.name, "x": x, "y": y, "label": case.label, "kind": case.kind}
            for case, (x, y) in zip(self._cases.cases, self._cases.map.tolist(), strict=True)
        ]
        return {
            **{
                name: [_case(each.case) | {"distance": each.distance} for each in similar]
                for name, similar in found.by_class.items()
            },
            "nearest_label": found.nearest_label,
            "n_of_nearest_label": found.n_of_nearest_label,
            "disagreement": self._cases.disagreement(found, malignancy, assessment["decision"]),
            "map": {
                "points": points,
                "here": {"x": found.place[0], "y": found.place[1]},
                "attracting": [case.name for case in found.attracting],
                "repelling": [case.name for case in found.repelling],
            },
            "input_sha256": assessment["input_sha256"],
            "notice": self.notice,
        }

    def saliency(self, shown: ServedImage, box: Corners) -> dict[str, Any]:
        """Say which parts of a mass' region its score hangs on."""
        assessment, region = self._score_and_cut(shown, box)
        picture = self._images.picture(shown.id)
        height, width = picture.pixels.shape
        inside = clipped_box(Box(*box), width, height)
        column = self._model.malignant_class
        change = occlusion(lambda images: self._model.probabilities(images)[:, column], region)
        largest = float(np.abs(change).max())
        levels = np.rint(255 * np.abs(change) / max(largest, 1e-12)).astype(np.uint8)
        return {
            "region": padded_box(inside, width, height, self._model.roi, shown.original_size),
            "size": len(region),
            "values": base64.b64encode(levels.tobytes()).decode("ascii"),
            "signs": base64.b64encode((change > 0).astype(np.uint8).tobytes()).decode("ascii"),
            "largest_change": largest,
            "method": METHOD,
            "input_sha256": assessment["input_sha256"],
            "notice": self.notice,
        }

    def case_picture(self, name: str) -> bytes:
        """Return a case's region as PNG.

        Raises:
            HTTPException: 404, there is none, or its picture is not at hand.
        """
        try:
            region = self._cases.picture(name)
        except DiagNetError:  # its text names a file of the training data
            region = None
        if region is None:
            raise Refusal(404, "There is no picture of this case; training masses need --data.", "no-picture")
        file = io.BytesIO()
        PIL.Image.fromarray(np.rint(np.clip(region, 0, 1) * 255).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    def report(self, shown: ServedImage, boxes: Sequence[Corners], form: str, folder: Path) -> tuple[bytes, list[str]]:
        """Return a download, the assessments as JSON or as a DICOM structured report, and the hashes of the inputs.

        Raises:
            HTTPException: 422, there can be no structured report.
            MissingExtraError: the extra `pacs` is not installed.
        """
        assessments = self._assess(shown, boxes)
        hashes = [each.input_sha256 for each in assessments]
        if form == "json":
            told = {
                "notice": self.notice,
                "image": shown.name,
                "assessments": [self._assessment_json(each) for each in assessments],
                "model": self._facts,
            }
            return (json.dumps(told, indent=1, allow_nan=False) + "\n").encode(), hashes
        if self._write_report is None:
            raise refused("A structured report needs the extra `pacs`, which is not installed.", "missing-extra")
        if not is_dicom(shown.path):
            raise refused("A structured report needs a DICOM image, got another.", "no-dicom")
        self._images.check_content(shown)  # whose report it is stands in the file
        out = folder / "report.dcm"
        try:
            self._write_report(assessments, shown.path, out)
        except RefusedInputError as error:
            raise refused(without_path(str(error), shown.path, shown.name)) from None
        return out.read_bytes(), hashes

    def _assess(
        self, shown: ServedImage, boxes: Sequence[Corners], picture: Mammogram | None = None
    ) -> list[Assessment]:
        found = assess(
            self._model,
            shown.path,
            list(boxes),
            shown.policy.model_copy(update={"allow_unlike": self._allow_unlike}),
            original_size=shown.original_size,
            picture=picture or self._images.picture(shown.id),
        )
        if not found[0].input_sha256:
            raise refused(without_path(found[0].reason, shown.path, shown.name))
        if shown.id:  # the same content, so the same assessment
            self._known.update({(shown.id, box): each for box, each in zip(boxes, found, strict=True)})
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found

    def _score_and_cut(self, shown: ServedImage, box: Corners) -> tuple[dict[str, Any], np.ndarray]:
        assessment = self._known.get((shown.id, box)) or self._assess(shown, [box])[0]
        if assessment.malignancy is None:
            raise refused(without_path(assessment.reason, shown.path, shown.name))
        picture = self._images.picture(shown.id)
        height, width = picture.pixels.shape
        mass = Mass(shown.path, clipped_box(Box(*box), width, height), None, "", original_size=shown.original_size)
        return asdict(assessment), cut_roi(picture.pixels, mass, self._model.roi)

    def _assessment_json(self, assessment: Assessment) -> dict[str, Any]:
        """Return an assessment as JSON, without the file's name."""
        told = asdict(assessment)
        path = told.pop("image")
        told["reason"] = without_path(assessment.reason, path, "the image")
        meaning = self._cases.held_out.meaning_of(assessment)
        told["meaning"] = meaning and asdict(meaning) | {"text": meaning.text}
        return told | {"notice": self.notice}


def _case(case: Case) -> dict[str, Any]:
    return {"case": case.name, **{name: value for name, value in asdict(case).items() if name != "name"}}


def _auc(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: figures.get("auc", {}).get(name) for name in ("value", "low", "high")}


def _model_facts(run: Path, model: Model, *, has_pictures: bool) -> dict[str, Any]:
    config, record = read_run_config(run), read_record(run)
    counts = record.get("counts", {})
    training = counts.get("train", counts.get("all folds", {}))
    tested = read_metrics(run).get("test", {})
    by_source = {name: _auc(each) for name, each in tested.get("by_source", {}).items()}
    return {
        "name": "diagnet",
        "version": __version__,
        "model_sha256": model.sha256,
        "classes": list(model.classes),
        "threshold": model.threshold,
        "abstention": model.abstention.half_width,
        "operating_point": config.evaluation.operating_point,
        "roi": {name: getattr(model.roi, name) for name in ("size", "padding_factor", "square", "grey_range")},
        "n_networks": len(model.networks),
        "n_training": {name: training.get(name) for name in model.classes},
        "auc": _auc(tested.get("units", {}).get("mass", {})),
        "auc_by_source": by_source,
        "has_cases": True,
        "has_pictures": has_pictures,
        "is_synthetic": model.is_synthetic,
        "notice": model.notice,
    }
