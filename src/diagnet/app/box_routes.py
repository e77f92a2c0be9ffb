"""The route that turns a click inside a mass into its box."""

from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException

from diagnet.app.images import ImageStore, ServedImage
from diagnet.app.shapes import Click
from diagnet.app.worker import Workers
from diagnet.data.mammogram import Mammogram
from diagnet.inference.one_click import box_at


def box_routes(images: ImageStore, workers: Workers) -> APIRouter:
    """Routes that help to mark a mass."""
    router = APIRouter(prefix="/v1")

    @router.post("/box")
    async def box(asked: Click) -> dict[str, Any]:
        """Suggest the box of the mass that a click lies in: no finding, and no score."""
        shown = images.get(asked.image)
        return {"box": list(await workers.on(asked.image, lambda: _box(shown, images.picture(asked.image), asked)))}

    return router


def _box(shown: ServedImage, picture: Mammogram, asked: Click) -> tuple[float, ...]:
    height, width = picture.pixels.shape
    if not (0 <= asked.x < width and 0 <= asked.y < height):
        raise HTTPException(422, f"`x`, `y` must lie in the image of {width} x {height} pixels.")
    return box_at(picture, asked.x, asked.y, shown.original_size)
