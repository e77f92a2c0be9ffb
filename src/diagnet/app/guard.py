"""What stands before every route: who may ask, how often and how much; and what every answer carries."""

import hmac
import ipaddress
import sys
import time
import traceback
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diagnet.app.audit import AuditLog
from diagnet.app.images import ImageStore
from diagnet.app.problems import problem
from diagnet.app.settings import ServerSettings, is_loopback

CSRF_HEADER = "X-DiagNet"  # a page of another site cannot set it without being allowed to (CORS), which nobody is
_SAFE = ("GET", "HEAD", "OPTIONS")
_MAX_ADDRESSES = 10_000  # remembered for the rates
_DRAINED = 4  # times the limit that is read and thrown away, so that a browser sees the answer and no broken pipe
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; object-src 'none';"
        " frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Rate:
    """A bucket of tokens for each address: `burst` at once, then `per_second`."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, address: str) -> bool:
        """Take one from the address' bucket, if there is one."""
        now = time.monotonic()
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._per_second)
        is_allowed = left >= 1
        self._buckets[address] = (left - is_allowed, now)
        oldest = next(iter(self._buckets))  # one that is full again needs no memory
        if len(self._buckets) > _MAX_ADDRESSES or now - self._buckets[oldest][1] > self._burst / self._per_second:
            del self._buckets[oldest]
        return is_allowed


class Guard:
    """ASGI middleware around the whole app; its order: host, token, rate, cross-site, size, room for a file.

    Args:
        app: what it stands before.
        settings: of the server.
        audit: where each request leaves a line.
        strangers: the same for requests without the token, so that they cannot push the others out of a full log.
        model_sha256: of the model that scores.
        images: where files go.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings, audit: AuditLog, strangers: AuditLog, model_sha256: str,
        images: ImageStore,
    ) -> None:  # fmt: skip
        self._app, self._settings, self._audit, self._model_sha256 = app, settings, audit, model_sha256
        self._strangers, self._images = strangers, images
        self._token = None if settings.token is None else settings.token.get_secret_value().encode()
        self._rate = Rate(settings.requests_per_second, settings.burst)
        self._wrong_tokens = Rate(settings.wrong_tokens_per_minute / 60, settings.wrong_tokens_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one ASGI request against token, host and limits, then pass it on and log it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        began, status = time.perf_counter(), 0
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})["audit"] = facts

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        limited, is_known = _Limited(receive, self._limit(scope)), self._is_known(Headers(scope=scope))
        try:
            refusal = self._refusal(scope, is_known)
            if refusal is None and limited.announced(Headers(scope=scope)) > limited.limit:
                await limited.drain()
                refusal = too_large(limited.limit)
            if refusal is not None:
                await refusal(scope, receive, answer)
            elif _brings_file(scope):
                with self._images.expected(limited.announced(Headers(scope=scope)), scope["path"] == "/v1/images"):
                    await self._app(scope, limited, answer)
            else:
                await self._app(scope, limited, answer)
        except HTTPException as error:  # there is no room for what comes
            if status == 0:
                await problem(error.status_code, error.detail, headers=error.headers)(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception as error:  # a crash of ours: the client learns that, and nothing else
            where = traceback.extract_tb(error.__traceback__)[-1]
            print(f"diagnet: error: {type(error).__name__} in {where.name}, line {where.lineno}", file=sys.stderr)
            if status == 0:
                await problem(500, "Something went wrong in the server; its log has a line.")(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            taken = round(1000 * (time.perf_counter() - began), 1)
            (self._audit if is_known else self._strangers).write(
                {"method": _method(scope), "route": route, "status": status, "latency_ms": taken}
                | (facts | {"model_sha256": self._model_sha256} if facts else {})
            )

    def _refusal(self, scope: Scope, is_known: bool) -> Response | None:
        headers = Headers(scope=scope)
        address = _network((scope.get("client") or ("none", 0))[0])
        if self._settings.is_loopback and not _is_own_host(headers.get("host", "")):
            return problem(421, "`Host` must be this machine's own name, got another (DNS rebinding).")
        # Behind a proxy all have one address: whoever has the token does not wait for those who guess it.
        if not self._rate.allows(f"{address} known" if is_known else address):
            return problem(429, "Too many requests from this address.", headers={"Retry-After": "1"})
        if "connection" in scope["state"]:
            scope["state"]["connection"].is_known |= is_known
        if not is_known and not is_open(scope["path"]):
            if headers.get("authorization") and not self._wrong_tokens.allows(address):
                return problem(429, "Too many wrong tokens from this address.", headers={"Retry-After": "60"})
            return problem(
                401,
                "`Authorization` must be Bearer with this server's token.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        is_own_page = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        if not is_own_page and not (scope["method"] in _SAFE and is_open(scope["path"])):  # others may link to the page
            return problem(403, "Requests from pages of other sites are not answered.", kind="cross-site")
        if scope["method"] not in _SAFE:
            origin = headers.get("origin")
            if headers.get(CSRF_HEADER) != "1":
                return problem(403, f"`{CSRF_HEADER}: 1` must be among the headers.", kind="cross-site")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                return problem(403, "`Origin` must be this server's own.", kind="cross-site")
        return None

    def _is_known(self, headers: Headers) -> bool:
        """Tell whether a request has the token, or needs none."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # Latin-1 is how headers come; bytes, as compare_digest takes no other letters than ASCII in text.
        return self._token is None or (
            scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        )

    def _limit(self, scope: Scope) -> int:
        """Bytes that a request may have: little, where it holds no file."""
        if _brings_file(scope):
            return self._settings.max_upload_mb * 2**20 + self._settings.max_body_kb * 2**10
        return self._settings.max_body_kb * 2**10


class _Limited:
    """A request's body, up to a number of bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self.limit, self._n_bytes = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self.limit:
            if message.get("more_body"):
                await self.drain()
            raise HTTPException(413, _too_large(self.limit))
        return message

    def announced(self, headers: Headers) -> int:
        """Bytes that the client announces, the limit where it does not."""
        length = headers.get("content-length", "")
        return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else self.limit

    async def drain(self) -> None:
        """Read the rest of a body that is too large and discard it, up to a limit."""
        while self._n_bytes <= _DRAINED * self.limit:
            message = await self._receive()
            self._n_bytes += len(message.get("body", b""))
            if message["type"] != "http.request" or not message.get("more_body"):
                return


def is_open(path: str) -> bool:
    """Tell whether a path needs no token: health, and the page's own files, which hold nothing of anybody's."""
    return path in ("/", "/healthz") or path.startswith("/page/")


def too_large(limit: int) -> Response:
    """Return status 413 and the number of bytes a request may hold."""
    return problem(413, _too_large(limit))


def _too_large(limit: int) -> str:
    return (
        f"A request must have at most {limit // 2**20} MB, got more."
        if limit >= 2**20
        else (f"A request without a file must have at most {limit // 2**10} kB, got more.")
    )


def _is_own_host(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _network(address: str) -> str:
    """Return whose address it is: of IPv6, where one client has 2^64 of them, the first half."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address) or found.ipv4_mapped:
        return address
    return str(int(found) >> 64)


def _brings_file(scope: Scope) -> bool:
    return Headers(scope=scope).get("content-type", "").lower().startswith("multipart/form-data")


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH") else "other"
