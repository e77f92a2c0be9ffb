"""The server as one app: a model, images, reading sessions, the page."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from filelock import FileLock, Timeout
from starlette.exceptions import HTTPException
from starlette.responses import Response

from diagnet.app.answers import Answers, WriteReport
from diagnet.app.audit import AuditLog
from diagnet.app.box_routes import box_routes
from diagnet.app.guard import CSRF_HEADER, Guard, is_open
from diagnet.app.images import ImageStore
from diagnet.app.problems import DOCUMENTED, tell_problems
from diagnet.app.reading import ReadingRoom
from diagnet.app.reading_routes import reading_routes
from diagnet.app.routes import score_routes
from diagnet.app.settings import ServerSettings
from diagnet.app.worker import Workers
from diagnet.clinic.privacy import Pseudonyms
from diagnet.data.marked import Marked
from diagnet.data.mass import MassSet
from diagnet.data.prepared import Prepared
from diagnet.data.reading_process import SERVER_PROCESSES
from diagnet.errors import RunFolderError
from diagnet.inference.model import load_model
from diagnet.notice import NOTICE
from diagnet.version import __version__

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".json": "application/json",
}  # fmt: skip


def create_app(
    run: Path,
    state: Path,
    *,
    settings: ServerSettings = ServerSettings(),  # noqa: B008 -- frozen, so sharing it is safe
    data: MassSet | Prepared | None = None,
    shown: Sequence[Marked] = (),
    labels: Mapping[str, str] | None = None,
    write_report: WriteReport | None = None,
    keep_names: bool = False,
) -> FastAPI:
    """Make the app for a finished run.

    Args:
        run: the run's folder.
        state: folder of reading sessions, the audit log and a key; it is made if it is not there.
        settings: address, token, limits.
        data: what the run was trained on, for pictures of its masses.
        shown: images that are there from the start, with what is marked on them.
        labels: of images by real path, for the truth of reader studies.
        write_report: writes a structured report, where that is possible.
        keep_names: show the files' own names, which may be patients'.

    Raises:
        DiagNetError: the run, the data or the state folder cannot be used, or another server has the folder.
    """
    key = _key(state)
    lock = _lock_state(state)
    model = load_model(run, engine="torch")
    model.prepare()
    images = ImageStore(
        key, max_images=settings.max_images, keep_s=3600 * settings.keep_hours, keep_names=keep_names,
        max_bytes=settings.max_uploads_mb * 2**20,
    )  # fmt: skip
    images.offer(shown, labels or {})
    answers = Answers(run, model, images, data, write_report, settings.max_upload_mb, settings.allow_unlike)
    workers = Workers(settings.max_waiting, SERVER_PROCESSES, images.is_read, images.picture)
    room = ReadingRoom(state / "reading", key, model.sha256, model.threshold)
    audit, strangers = (
        AuditLog(state / name, int(settings.audit_mb * fraction * 2**20))
        for name, fraction in (("audit.jsonl", 0.9), ("strangers.jsonl", 0.1))
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()
        images.close()
        lock.release()

    app = FastAPI(
        title="diagnet", version=__version__, description=NOTICE, lifespan=lifespan, responses=DOCUMENTED,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False,
    )  # fmt: skip

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Tell that the server runs."""
        return {"status": "ok"}

    app.include_router(score_routes(answers, images, workers, settings))
    app.include_router(box_routes(images, workers))
    app.include_router(reading_routes(room, images))

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _page_file("index.html")

    @app.get("/page/{name:path}", include_in_schema=False)
    async def page(name: str) -> Response:
        return _page_file(name)

    tell_problems(app)
    app.add_middleware(
        Guard, settings=settings, audit=audit, strangers=strangers, model_sha256=model.sha256, images=images
    )
    app.state.notice = model.notice
    described = app.openapi

    def openapi() -> dict[str, Any]:
        return _add_security(described())

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
    return app


def _page_file(name: str) -> Response:
    """Return a file of the page; a name is only looked up among those there are, never opened."""
    files = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob("*") if path.suffix in _TYPES}
    if name not in files:
        raise HTTPException(404, "There is no such page.")
    return Response(files[name].read_bytes(), media_type=_TYPES[files[name].suffix])


def _key(state: Path) -> bytes:
    """Return the secret that makes images' ids, drawn at the first start."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Pseudonyms.from_file(state / "key").key
    except OSError as error:
        raise RunFolderError(f"`--state` must be a folder that can be written, got {error.strerror}: {state}") from None


def _lock_state(state: Path) -> FileLock:
    """Take the state folder: two servers on one would write over each other's scores."""
    lock = FileLock(state / "lock", mode=0o600, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"`--state` must be one server's alone, got {state}, which another has."
            " Fix: stop the other, or --state FOLDER"
        ) from None
    return lock


def _add_security(schema: dict[str, Any]) -> dict[str, Any]:
    """Say in the OpenAPI which headers are needed."""
    schemes = schema.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer", "description": "Where the server was started with one."}
    schemes["same site"] = {"type": "apiKey", "in": "header", "name": CSRF_HEADER, "description": "1"}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            names = ([] if is_open(path) else ["token"]) + ([] if method == "get" else ["same site"])
            operation["security"] = [{name: [] for name in names}] if names else []
    return schema
