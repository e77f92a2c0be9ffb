"""Who may hold a connection and for how long, before any token is seen; uvicorn has no deadline for a request."""

import asyncio
import re
import sys
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from diagnet.app.guard import Rate
from diagnet.app.problems import MEDIA_TYPE, problem
from diagnet.app.settings import ServerSettings

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

_MAX_HEAD = 16 * 2**10  # bytes
_LINGER_S = 2.0  # for the rest of a body whose answer was sent
_SWEEP_S = 1.0
_QUEUE = 2048  # connections that the system holds until they are accepted
_UNCLEAR_LINES = re.compile(rb"(?<!\r)\n|\r[^\n]|\n[ \t]")  # a bare LF, a bare CR, a folded line
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,15}[ \t]*")


class _StrictReader(h11.Connection):
    """Refuses a request that a proxy could read otherwise; h11 alone takes the first of two lengths, and a bare LF."""

    refusal = (400, "The request must be HTTP/1.1, got something else.")

    def next_event(self) -> Any:
        """Return h11's next event, or raise for a head that is not clear."""
        if self.their_state is h11.IDLE:
            head, is_whole, _ = self.trailing_data[0].partition(b"\r\n\r\n")
            if len(head) > _MAX_HEAD:  # h11 counts only what comes in several parts
                self._refuse(400, f"The head must have at most {_MAX_HEAD // 2**10} kB, got more.")
            if _UNCLEAR_LINES.search(head):
                self._refuse(400, "Lines of the head must end in CR LF and not be folded, got others.")
            framing = _FRAMING.findall(head) if is_whole else []
            if len(framing) > 1:
                self._refuse(400, "A request must tell its length once, got several (request smuggling).")
            for name, value in framing:
                if name.lower() == b"transfer-encoding":
                    self._refuse(411, "A request must tell its length as `Content-Length`, got `Transfer-Encoding`.")
                if not _LENGTH.fullmatch(value):
                    self._refuse(400, "`Content-Length` must be a number of at most 15 digits, got another.")
        return super().next_event()

    def _refuse(self, status: int, detail: str) -> None:
        self.refusal = (status, detail)
        raise h11.RemoteProtocolError(detail)


class _Connection(H11Protocol):
    """One client's connection, with its deadlines.

    Attributes:
        address: of the client.
        since: when its present phase began, seconds of the event loop.
        is_known: whether a request on it had the token, where the server has one.
    """

    def __init__(self, table: "Connections", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conn: _StrictReader = _StrictReader(h11.SERVER, _MAX_HEAD)
        self.app_state = {**self.app_state, "connection": self}
        self._table, self._limits = table, table.settings
        self.address, self.is_known = "", False
        self._phase, self.since = "head", self.loop.time()
        self._seen = self._moved = self.since
        self._n_bytes = 0
        self._unread_since: float | None = None  # nothing was taken of the answer since then
        self._paused_since: float | None = None  # the answer has waited for its reader, on and off, since then

    @property
    def is_silent(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Join the others, one of which may have to go."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else "none"
        self._table.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free this connection's place in the table once its socket is closed."""
        self._table.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; what is no HTTP never ends in a trace."""
        self._moved = self.loop.time()
        self._n_bytes += len(data)
        try:
            super().data_received(data)
        except h11.ProtocolError:  # it went wrong where there can be no answer any more
            self.transport.abort()

    def handle_events(self) -> None:
        """Do as uvicorn does, and note where the request stands."""
        super().handle_events()
        state = self.conn.their_state
        phase = "body" if state is h11.SEND_BODY else "answer"
        if state is h11.IDLE:
            phase = "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"
        if phase != self._phase:
            self._phase, self.since, self._n_bytes, self._paused_since = phase, self.loop.time(), 0, None

    def on_response_complete(self) -> None:
        """Begin to count anew for a body whose answer was sent before it came."""
        self.since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 -- uvicorn's own words
        """Say what is wrong with a request, as all other refusals do, and close."""
        status, detail = self.conn.refusal
        answer = problem(status, detail)
        headers = [("content-type", MEDIA_TYPE), ("content-length", str(len(answer.body))), ("connection", "close")]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """Note since when the client has read nothing of an answer."""
        super().pause_writing()
        self._paused_since = self._paused_since or self.loop.time()

    def resume_writing(self) -> None:
        """Note that the client has read again, which ends its time limit."""
        super().resume_writing()
        self._unread_since = None

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client has let the server wait too long; asked about once a second."""
        limits, since_seen, self._seen = self._limits, now - self._seen, now
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        if self._unread_since is not None and now - self._unread_since > limits.unread_s:
            return True
        if self._paused_since is not None and now - self._paused_since > limits.answer_s:
            return True
        if self._phase == "head":
            return now - self.since > limits.head_s
        if self._phase != "body":
            return False  # uvicorn closes idle ones
        if self.is_silent:
            return now - self.since > _LINGER_S
        if self.flow.read_paused:  # the server is the one that lets wait
            self.since, self._moved = self.since + since_seen, now
        taken = now - self.since
        too_slow = self._n_bytes < limits.min_bytes_per_second * (taken - limits.silence_s)
        return too_slow or now - self._moved > limits.silence_s or taken > limits.body_s


class Connections:
    """All connections there are. Where they are too many, a new one replaces the one silent for longest.

    Args:
        settings: of the server.
        max_connections: at a time.
    """

    def __init__(self, settings: ServerSettings, max_connections: int) -> None:
        self.settings, self._max = settings, max_connections
        self._max_silent = min(settings.max_silent, max(max_connections // 2, 1))
        self._all: dict[_Connection, None] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def make(self, **kwargs: Any) -> _Connection:
        """Make the protocol of one connection, for uvicorn."""
        return _Connection(self, **kwargs)

    def admit(self, connection: _Connection) -> None:
        """Let a connection in; one that is silent goes where there are too many, of this address or at all."""
        self._all[connection] = None
        if self._sweep is None:
            self._sweep = connection.loop.call_later(_SWEEP_S, self._close_overdue, connection.loop)
        if len(self._all) <= min(self._max, self._max_silent):
            return
        silent = [each for each in self._all if each.is_silent and each is not connection]
        nameless = [each for each in silent if each.address == connection.address and not each.is_known]
        if len(nameless) >= self._max_silent:
            self._drop(min(nameless, key=lambda each: each.since))
        elif len(self._all) > self._max:
            self._drop(min(silent, key=lambda each: (each.is_known, each.since), default=connection))

    def forget(self, connection: _Connection) -> None:
        """Take note that a connection has ended."""
        self._all.pop(connection, None)

    def _drop(self, connection: _Connection) -> None:
        self.forget(connection)
        connection.transport.abort()

    def _close_overdue(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = loop.call_later(_SWEEP_S, self._close_overdue, loop) if self._all else None
        for each in [each for each in self._all if each.is_overdue(loop.time())]:
            self._drop(each)


class Server(uvicorn.Server):
    """uvicorn, with deadlines and limits for whoever connects.

    Args:
        app: what answers.
        settings: address and limits.
    """

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        max_connections = _n_affordable(settings.max_connections)
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=Connections(settings, max_connections).make,  # type: ignore[arg-type]  # it is only called
                backlog=max(max_connections // 8, 1),  # as many are accepted before any of them is looked at
                log_config=None,
                log_level="critical",  # uvicorn's own lines are traces, and a line for each bad request
                access_log=False,
                server_header=False,
                timeout_keep_alive=10,
                proxy_headers=False,
                ws="none",
                timeout_graceful_shutdown=5,
            )
        )

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen; what goes wrong in the event loop is one line, and seldom."""
        told = Rate(1 / 60, 1)

        def tell(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            kind = type(context.get("exception")).__name__
            if told.allows(kind):
                print(f"diagnet: error: {kind}: {context['message']}", file=sys.stderr)

        asyncio.get_running_loop().set_exception_handler(tell)
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_QUEUE)


def _n_affordable(wanted: int) -> int:
    """Return how many connections there can be, with open files left over for everything else."""
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4 * wanted:
        soft = 4 * wanted if hard == resource.RLIM_INFINITY else min(4 * wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft // 4), 1)
