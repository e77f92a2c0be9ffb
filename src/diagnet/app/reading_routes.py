"""The routes of reader studies."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from diagnet.app.images import ImageStore
from diagnet.app.reading import ReadingRoom
from diagnet.app.shapes import ImageId, ReadingRequest, ScoreRequest


def reading_routes(room: ReadingRoom, images: ImageStore) -> APIRouter:
    """Routes of reading sessions; their ids look as images' do."""
    router = APIRouter(prefix="/v1/reading")

    @router.post("")
    async def begin(asked: ReadingRequest) -> dict[str, Any]:
        """Begin a session of a reader's own on the images at hand: those of the folder, where there is one."""
        shown = images.all()  # those that cannot be read too: which ones were opened so far must not matter
        given = [each for each in shown if not each.is_uploaded]
        return room.begin(asked.reader, asked.seed, {each.id: each.is_malignant for each in given or shown})

    @router.get("/{session}")
    async def session(session: ImageId) -> dict[str, Any]:
        """A session with its cases in order, its scores and the place of the next case."""
        return room.session(session)

    @router.post("/{session}/scores")
    async def score(session: ImageId, given: ScoreRequest) -> dict[str, Any]:
        """Write down a score: without the model first, then with it; none is ever changed."""
        return room.score(session, given)

    @router.get("/{session}/imrmc.csv", responses={200: {"content": {"text/csv": {}}}})
    async def imrmc(session: ImageId) -> Response:
        """The session's scores for iMRMC."""
        headers = {"Content-Disposition": 'attachment; filename="imrmc.csv"'}
        return Response(room.as_imrmc(session), media_type="text/csv", headers=headers)

    return router
