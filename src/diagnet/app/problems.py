"""Errors as the client sees them: application/problem+json (RFC 9457), one line each, no trace and no path."""

import errno
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from diagnet.errors import DiagNetError, MissingExtraError, printable

MEDIA_TYPE = "application/problem+json"
_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
}
DOCUMENTED: dict[int | str, dict[str, Any]] = {
    code: {"description": HTTPStatus(code).phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
    for code in (400, 401, 403, 404, 405, 409, 410, 411, 413, 415, 421, 422, 429, 500, 503, 507)
}


def problem(status: int, detail: str, *, kind: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Answer with an error.

    Args:
        status: HTTP's number.
        detail: what must hold, and what came.
        kind: of the error, for programs; the status' own name by default.
        headers: of the answer.
    """
    title = HTTPStatus(status).phrase
    name = kind or title.lower().replace(" ", "-")
    body = {"type": f"urn:diagnet:problem:{name}", "title": title, "status": status, "detail": _one_line(detail)}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def refused(detail: str, kind: str = "refused-input") -> HTTPException:
    """Refuse what a client sent, though it is well formed."""
    return Refusal(422, detail, kind)


class Refusal(HTTPException):
    """An error with a kind that programs may tell apart."""

    def __init__(self, status: int, detail: str, kind: str) -> None:
        super().__init__(status, detail)
        self.kind = kind


def missing_here(error: MissingExtraError) -> str:
    """Tell a client what the server lacks, without the command that names a path of the server's."""
    return f"The server must have its extra `{error.extra}` for this, which is not installed."


def tell_problems(app: FastAPI) -> None:
    """Turn whatever the app raises on purpose into problems; the guard turns the rest."""

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 -- for the type checker; it is registered for no other
        kind = error.kind if isinstance(error, Refusal) else ""
        return problem(error.status_code, str(error.detail), kind=kind, headers=error.headers)

    async def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError | ValidationError)  # noqa: S101 -- as above
        return problem(422, described(error), kind="invalid-request")

    async def on_system(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return problem(507, "The server's disk is full: nothing of this was kept.")
        raise error

    async def on_diagnet(request: Request, error: Exception) -> JSONResponse:
        # Other texts may name a file, and its name a patient; images have theirs replaced before they come here.
        if isinstance(error.__cause__, OSError):  # atomic.py tells so of a disk that is full
            return await on_system(request, error.__cause__)
        if isinstance(error, MissingExtraError):
            return problem(422, missing_here(error), kind="missing-extra")
        return problem(422, "It must be readable for the server, got a file that is not.", kind="unusable-input")

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(ValidationError, on_invalid)
    app.add_exception_handler(DiagNetError, on_diagnet)
    app.add_exception_handler(OSError, on_system)


def described(error: RequestValidationError | ValidationError) -> str:
    """Say where a request is wrong, in the schema's own names: the client's names and values could be anything."""
    found = []
    for each in error.errors()[:5]:
        where = "a name" if each["type"] == "extra_forbidden" else f"`{'.'.join(map(str, each['loc']))}`"
        found.append(f"{where}: {each['msg']}")
    return "; ".join(found)


def _one_line(text: str) -> str:
    return printable(text)[:1000]
