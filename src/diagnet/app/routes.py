"""The routes of images and scores."""

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import UploadFile as SentFile
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from diagnet.app.answers import Answers
from diagnet.app.images import ImageStore, ServedImage
from diagnet.app.settings import ServerSettings
from diagnet.app.shapes import Corners, ImageId, MarkedMass, PredictRequest, ReportRequest, SimilarRequest
from diagnet.app.worker import Workers
from diagnet.inference.assessment import Policy

_PART = 2**16  # bytes
_BOXES = TypeAdapter(Annotated[list[Corners], "boxes"])
_PREDICT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": PredictRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "DICOM, PNG, JPEG, TIFF or PGM."},
                    "boxes": {"type": "string", "description": "JSON: [[x0, y0, x1, y1], ...]"},
                    "allow_missing_preamble": {"type": "string", "enum": ["true", "false"]},
                    "allow_for_processing": {"type": "string", "enum": ["true", "false"]},
                },
                "required": ["file", "boxes"],
            }
        },
    },
}


def score_routes(answers: Answers, images: ImageStore, workers: Workers, settings: ServerSettings) -> APIRouter:
    """Routes that take images in and say something of their masses."""
    router = APIRouter(prefix="/v1")

    @router.get("/model")
    async def model() -> dict[str, Any]:
        """What the model is, what it was trained on and how well it does."""
        return answers.model

    @router.post("/images", status_code=201)
    async def add_image(
        file: Annotated[UploadFile, File(description="DICOM, PNG, JPEG, TIFF or PGM.")],
        allow_missing_preamble: Annotated[
            bool, Form(description="Read DICOM files that lack the preamble of PS3.10.")
        ] = False,
        force: Annotated[bool, Form(description="The old name of it.", deprecated=True)] = False,
        allow_for_processing: Annotated[bool, Form(description="Read raw detector data too.")] = False,
    ) -> dict[str, Any]:
        """Take in an image; it is held until it is deleted, the server stops or nobody asks for it any more."""
        policy = Policy(
            allow_missing_preamble=allow_missing_preamble or force, allow_for_processing=allow_for_processing
        )
        return _image_json(await workers.files.run(images.add, file.file, policy, file.filename or ""))

    @router.get("/images")
    async def list_images() -> list[dict[str, Any]]:
        """All images, those of the folder given at start first. A `width` of 0: not read yet."""
        return [_image_json(shown) for shown in images.all()]

    @router.get("/images/{image}")
    async def describe_image(image: ImageId) -> dict[str, Any]:
        """One image, read if it was not yet."""
        return _image_json(await workers.line(image).run(images.described, image))

    @router.get("/images/{image}/pixels", responses={200: {"content": {"application/octet-stream": {}}}})
    async def pixels(image: ImageId, max_side: Annotated[int | None, Query(ge=1, le=20_000)] = None) -> Response:
        """Displayed grey values, 16 bits, little-endian, row by row: 0 to 65535 for [0, 1]."""
        file, (height, width) = await workers.line(image).run(images.sent, image, max_side)
        headers = {"X-Width": str(width), "X-Height": str(height), "Content-Length": str(2 * height * width)}
        return StreamingResponse(_parts(file), media_type="application/octet-stream", headers=headers)

    @router.delete("/images/{image}", status_code=204)
    async def remove_image(image: ImageId) -> Response:
        """Forget an image; a file of the folder given at start stays where it is."""
        images.remove(image)
        return Response(status_code=204)

    @router.post("/predict", openapi_extra={"requestBody": _PREDICT_BODY})
    async def predict(request: Request) -> dict[str, Any]:
        """Score marked masses of an image at hand (JSON), or of a file that is forgotten at once (multipart)."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            asked = _parsed(PredictRequest, await request.body())
            _check_number(len(asked.boxes), settings)
            found = await workers.on(asked.image, answers.predict, images.get(asked.image), asked.boxes)
        elif kind == "multipart/form-data":
            async with request.form(max_files=1, max_fields=10) as form:
                file, text = form.get("file"), form.get("boxes")
                if not isinstance(file, SentFile) or not isinstance(text, str):
                    raise HTTPException(422, "`file` and `boxes` must be given.")
                boxes = _parsed_boxes(text)
                _check_number(len(boxes), settings)
                policy = Policy(
                    allow_missing_preamble="true" in (form.get("allow_missing_preamble"), form.get("force")),
                    allow_for_processing=form.get("allow_for_processing") == "true",
                )
                shown, picture = await workers.files.run(answers.read_file, file.file, policy)
                try:
                    found = await workers.model.run(answers.predict, shown, boxes, picture)
                finally:
                    shown.path.unlink(missing_ok=True)
        else:
            raise HTTPException(415, "`Content-Type` must be application/json or multipart/form-data.")
        request.state.audit["input_sha256"] = [each["input_sha256"] for each in found["assessments"]]
        return found

    @router.post("/similar")
    async def similar(request: Request, asked: SimilarRequest) -> dict[str, Any]:
        """The training masses a mass looks like to the network, its edges in the signed graph, and a map of both."""
        found = await workers.on(asked.image, answers.similar, images.get(asked.image), asked.box, asked.n)
        request.state.audit["input_sha256"] = [found["input_sha256"]]
        return found

    @router.get("/cases/{case}/picture", responses={200: {"content": {"image/png": {}}}})
    async def case_picture(case: str) -> Response:
        """A training mass' region; synthetic neighbors are there without --data too."""
        return Response(await workers.model.run(answers.case_picture, case), media_type="image/png")

    @router.post("/saliency")
    async def saliency(request: Request, asked: MarkedMass) -> dict[str, Any]:
        """Which parts of the region the score depends on."""
        found = await workers.on(asked.image, answers.saliency, images.get(asked.image), asked.box)
        request.state.audit["input_sha256"] = [found["input_sha256"]]
        return found

    @router.post("/report", responses={200: {"content": {"application/json": {}, "application/dicom": {}}}})
    async def report(request: Request, asked: ReportRequest) -> Response:
        """A download: JSON, or a DICOM structured report (for DICOM images, with the extra `pacs`)."""
        _check_number(len(asked.boxes), settings)
        shown = images.get(asked.image)
        found, request.state.audit["input_sha256"] = await workers.on(asked.image, _report, answers, shown, asked)
        name, media_type = (
            ("report.json", "application/json") if asked.format == "json" else ("report.dcm", "application/dicom")
        )
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Notice": answers.notice}
        return Response(found, media_type=media_type, headers=headers)

    return router


def _report(answers: Answers, shown: ServedImage, asked: ReportRequest) -> tuple[bytes, list[str]]:
    with tempfile.TemporaryDirectory(prefix="diagnet-") as folder:  # mode 0700
        return answers.report(shown, asked.boxes, asked.format, Path(folder))


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while part := file.read(_PART):
            yield part


def _image_json(shown: ServedImage) -> dict[str, Any]:
    return {"id": shown.id, "name": shown.name, **shown.facts, "boxes": shown.boxes}


def _parsed(shape: type[PredictRequest], body: bytes) -> PredictRequest:
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False, include_url=False)) from None


def _parsed_boxes(text: str) -> list[Corners]:
    try:
        boxes = _BOXES.validate_python([tuple(box) for box in json.loads(text)])
    except (ValidationError, ValueError, TypeError, RecursionError):
        raise HTTPException(422, "`boxes` must be JSON: [[x0, y0, x1, y1], ...].") from None
    if not boxes:
        raise HTTPException(422, "`boxes` must hold at least one box, got none.")
    return boxes


def _check_number(n_boxes: int, settings: ServerSettings) -> None:
    if n_boxes > settings.max_boxes:
        raise HTTPException(422, f"`boxes` must be at most {settings.max_boxes}, got {n_boxes}.")
