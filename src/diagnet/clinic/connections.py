"""The connections of a listener: whoever is silent, slow or half-way keeps nobody else out.

pynetdicom shakes hands with TLS where it accepts, reads a PDU of any size for any time, and counts a silent
connection as an association. Here each connection shakes hands in a thread of its own, everything has a deadline, and
where all places are taken the one that is silent or slow gives its place to the next.
"""

import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pynetdicom.ae import ApplicationEntity
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from diagnet.clinic.sockets import cut
from diagnet.clinic.worker import Tell

_MAX_BEGINNING = 64  # connections that have not asked for an association; one more, and the oldest goes
_MAX_PDU_BYTES = 1 << 20  # of what we offer, 128 kB; senders are a few bytes off, not eight times
_SILENT_S = 1.0  # who says nothing for so long gives its place, where another one asks for it
_LEAST_RATE = 10_000.0  # bytes a second; who is slower gives its place too
_RATE_S = 5.0  # over how long that is measured
_LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)  # PS3.8, 9.3.4: transient, presentation related


@dataclass(eq=False, slots=True)
class Connection:
    """One connection. All times are of the monotonic clock."""

    socket: socket.socket
    begun: float
    association: Any = None
    has_place: bool = False
    is_cut: bool = False
    is_served: bool = False  # an object of it is being taken: it waits for us
    pdu_begun: float | None = None  # when the PDU under way began
    heard: float = 0.0  # when its last PDU was whole
    since: float = 0.0  # since when its bytes are counted
    n_bytes: int = 0

    def holds(self) -> bool:
        """Tell whether it takes one of the places."""
        held = self.association
        return self.has_place and not self.is_cut and held.is_alive() and not (held.is_released or held.is_aborted)

    def is_slow(self, now: float) -> bool:
        """Tell whether it may be asked to give its place."""
        if self.is_served or now - self.since < _SILENT_S:
            return False
        return now - self.heard > _SILENT_S or self.n_bytes / (now - self.since) < _LEAST_RATE

    def count(self, n_bytes: int) -> None:
        """Note a whole PDU."""
        self.heard = time.monotonic()
        if self.heard - self.since > _RATE_S:
            self.since, self.n_bytes = self.heard - _SILENT_S, 0
        self.n_bytes += n_bytes
        self.pdu_begun = None

    def cut(self) -> None:
        """End it, whatever thread waits for it; the socket is closed by who owns it."""
        self.is_cut = True
        cut(self.socket)

    def stop(self) -> None:
        """End the threads of its association at their next turn; they would wait for a state that does not come."""
        if self.association is not None:
            self.association._kill = self.association.dul._kill_thread = True


@dataclass(frozen=True)
class Deadlines:
    """How long a connection may take, in seconds."""

    beginning: float  # from the connection to an association: TLS and its request
    pdu: float  # one PDU, from its first byte to its last
    silence: float  # nothing at all


@dataclass
class Places:
    """How many associations there may be, and who hears of their end."""

    n_places: int
    deadlines: Deadlines
    tell: Tell
    ended: Callable[[Any], None]  # an association is over; nothing more comes of it
    connections: list[Connection] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, client: socket.socket) -> None:
        """Note a new connection; where too many have only begun, the oldest of them goes."""
        client.settimeout(self.deadlines.silence)
        with self.lock:
            beginning = [each for each in self.connections if not each.has_place and not each.is_cut]
            if len(beginning) >= _MAX_BEGINNING:
                beginning[0].cut()
            self.connections.append(Connection(client, time.monotonic()))

    def of(self, client: socket.socket) -> Connection:
        """The connection of a socket."""
        with self.lock:
            return next(each for each in self.connections if each.socket is client)

    def of_association(self, association: Any) -> Connection:
        """The connection of an association."""
        with self.lock:
            return next(each for each in self.connections if each.association is association)

    def requested(self, event: Any) -> None:
        """Give a place to an association, or reject it."""
        connection, now = self.of_association(event.assoc), time.monotonic()
        with self.lock:
            holders = [each for each in self.connections if each.holds()]
            slow = min((each for each in holders if each.is_slow(now)), key=lambda each: each.heard, default=None)
            is_full = len(holders) >= self.n_places
            if is_full and slow is not None:
                slow.cut()
            if not is_full or slow is not None:
                connection.has_place = True
                connection.since = connection.heard = now
        if is_full and slow is not None:
            self.tell("ended a silent or slow association: another one needed its place", "")
        elif is_full:
            self.tell("rejected an association: all places are taken", "")
            event.assoc.acse.send_reject(*_LOCAL_LIMIT_EXCEEDED)
            event.assoc.kill()

    def tidy(self) -> None:
        """End what is over its deadline, and let go of what has ended."""
        now, limits = time.monotonic(), self.deadlines
        with self.lock:
            for each in self.connections:
                begins_long = not each.has_place and now - each.begun > limits.beginning
                is_stuck = each.pdu_begun is not None and now - each.pdu_begun > limits.pdu
                if (begins_long or is_stuck) and not each.is_cut:
                    each.cut()
            over = [each for each in self.connections if _is_over(each)]
            self.connections = [each for each in self.connections if each not in over]
        for each in over:
            each.socket.close()  # pynetdicom leaves it open where the other side was faster
            if each.association is not None:
                self.ended(each.association)

    def end(self) -> None:
        """End all, and wait for their threads: nothing of theirs may come after."""
        with self.lock:
            left = [each for each in self.connections if not each.is_cut]
        for each in left:
            if each.association is not None and each.pdu_begun is None:
                each.association.abort(block=False)  # says so to the other side
        time.sleep(0.05 if left else 0.0)
        for each in left:
            each.cut()
            each.stop()
        for each in left:
            if each.association is not None:
                each.association.join(timeout=5.0)
        self.tidy()


def _is_over(connection: Connection) -> bool:
    if connection.association is None:
        return connection.socket.fileno() < 0
    return connection.association.ident is not None and not connection.association.is_alive()


class _Handler(RequestHandler):
    """Makes an association that keeps to the deadlines, and that no peer can bring down with a traceback."""

    server: "Server"

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        places = self.server.places
        connection = places.of(self.request)
        connection.association = association
        reader, machine = association.dul.socket, association.dul.state_machine
        read, act = reader.recv, machine.do_action

        def recv(n_bytes: int) -> Any:
            if n_bytes > _MAX_PDU_BYTES:
                raise OSError("a PDU larger than any that was agreed")  # ends the connection, pynetdicom's way
            is_header = connection.pdu_begun is None
            if is_header:
                connection.pdu_begun = time.monotonic()
            found = read(n_bytes)
            if not is_header and len(found) == n_bytes:
                connection.count(n_bytes)
            return found

        def do_action(event: str) -> None:
            try:
                act(event)
            except Exception as error:  # its text may quote what was sent
                places.tell(f"ended an association: {type(error).__name__} in what it sent", "")
                connection.cut()
                connection.stop()

        reader.recv, machine.do_action = recv, do_action
        return association


class Server(ThreadedAssociationServer):
    """Accepts connections, and does nothing else in the thread that accepts."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # of connections that are not accepted yet; with 5, a burst waits for seconds

    def __init__(
        self, entity: ApplicationEntity, address: tuple[str, int], handlers: list[Any], places: Places, tls: Any
    ) -> None:
        self.places, self.tls = places, tls
        super().__init__(
            entity,
            address,
            entity.ae_title,
            entity.supported_contexts,
            evt_handlers=handlers,
            request_handler=_Handler,
        )

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, without a word to it."""
        client, address = self.socket.accept()  # type: ignore[union-attr,unused-ignore]
        self.places.begin(client)
        return client, address

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, wait for the first byte, and only then make an association of it."""
        connection = self.places.of(request)
        try:
            if self.tls is not None:
                with self.places.lock:  # wrapping empties the plain socket, which would look like one that was closed
                    request = self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                    connection.socket = request
                request.settimeout(self.places.deadlines.beginning)
                request.do_handshake()
                request.settimeout(self.places.deadlines.silence)
            if self.tls is None or not request.pending():
                select.select([request], [], [], self.places.deadlines.beginning)
            if connection.is_cut:
                request.close()
            else:
                self.finish_request(request, client_address)
        except Exception:  # of TLS, or of a connection that is gone; whoever waits for an answer must hear of it
            self.places.tell("ended a connection: it did not become an association", "")
            connection.cut()
            request.close()

    def service_actions(self) -> None:
        """Tidy up, twice a second or so; pynetdicom would collect garbage here while others wait."""
        self.places.tidy()

    def shutdown(self) -> None:
        """Stop accepting, end all connections."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()
        self.places.end()
