"""A DICOM node that takes images and marks: PS3.4, B (C-STORE) and A (C-ECHO). What it answers "stored" is on disk."""

import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    BreastTomosynthesisImageStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ComputedRadiographyImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    ExtensibleSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    MammographyCADSRStorage,
    SecondaryCaptureImageStorage,
)

from diagnet.clinic.connections import Deadlines, Places, Server
from diagnet.clinic.privacy import silenced
from diagnet.clinic.queue import Kind, Queue
from diagnet.clinic.worker import Tell
from diagnet.data.dicom import read_identity
from diagnet.errors import DiagNetError, NetworkError, SettingsError

_MARKS = (
    ComprehensiveSRStorage, Comprehensive3DSRStorage, EnhancedSRStorage, ExtensibleSRStorage, MammographyCADSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)  # fmt: skip
# Raw data and tomosynthesis are taken too: a report that says why they are refused helps more than a failed transfer.
_IMAGES = (
    DigitalMammographyXRayImageStorageForPresentation, DigitalMammographyXRayImageStorageForProcessing,
    BreastTomosynthesisImageStorage, DigitalXRayImageStorageForPresentation, ComputedRadiographyImageStorage,
    SecondaryCaptureImageStorage,
)  # fmt: skip
# PS3.4, table B.2-1, and PS3.7, annex C
_STORED, _FULL, _OTHER_OBJECT, _NOT_UNDERSTOOD, _FAULT, _TWICE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0110, 0x0111
_MAX_PDU = 131_072
_MAX_COMMAND_BYTES = 1_000_000  # what is not an object's content is held in memory
_ROOM_EVERY = 16_000_000  # bytes after which a growing object asks for room again


def kind_of(sop_class: str) -> Kind | None:
    """What an object of a SOP class is to the queue; None where it is not taken."""
    if sop_class in _MARKS:
        return "marks"
    return "images" if sop_class in _IMAGES else None


class ListenerSettings(BaseModel):
    """Who may send what, and how much."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: str = Field("DIAGNET", min_length=1, max_length=16, description="Our AE title.")
    bind: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(11112, ge=0, lt=65536, description="Port to listen on; 0 for a free one.")
    allow: tuple[str, ...] = Field((), description="AE titles that may send; empty for all.")
    max_associations: int = Field(8, ge=1, description="Associations at one time; more are rejected.")
    max_object_bytes: int = Field(512_000_000, ge=1, description="Size of one object; a larger one is aborted.")
    timeout_seconds: float = Field(60.0, gt=0, description="Silence after which an association is aborted.")
    beginning_seconds: float = Field(5.0, gt=0, description="From a connection to its association, TLS included.")
    pdu_seconds: float = Field(10.0, gt=0, description="Longest time of one PDU, from its first byte to its last.")
    any_title: bool = Field(False, description="Take objects that are sent to another AE title than ours too.")


class Incoming:
    """One object as it comes, in a file of `incoming`, as pynetdicom asks of a temporary file.

    A request to store does not tell its object's size. So there must be room before its first byte is written, and
    again after every few megabytes; where there is none, the rest is read and thrown away, and the answer is A700.
    """

    def __init__(self, folder: Path, has_room: Callable[[], bool]) -> None:
        self.path, self.file, self.has_room = folder / f"{uuid.uuid4().hex}.dcm", self, has_room
        self.name = str(self.path)
        self.is_refused, self._unasked, self._to = False, _ROOM_EVERY, None
        with suppress(OSError):  # refused below
            if has_room():
                self._to = self.path.open("xb", buffering=0)
        if self._to is None:
            self.discard()

    def write(self, data: bytes) -> None:
        """Write a part; never raises, because that would end the thread that reads for all of the association."""
        if self._to is None:
            return
        self._unasked -= len(data)
        try:
            if self._unasked < 0:
                self._unasked = _ROOM_EVERY
                if not self.has_room():
                    self.discard()
                    return
            left = memoryview(data)
            while left:
                left = left[self._to.write(left) :]
        except OSError:
            self.discard()

    def flush(self) -> None:
        """Do nothing: what was written is not held back."""

    def close(self) -> None:
        """Close the file; what is in it stays."""
        if self._to is not None:
            self._to.close()

    def discard(self) -> None:
        """Remove what came, and take no more of it."""
        self.is_refused = True
        self.close()
        self._to = None
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


class Listener:
    """Takes objects into a queue and says so to `arrived`.

    Attributes:
        port: the one it listens on, once started.
    """

    def __init__(
        self,
        queue: Queue,
        arrived: Callable[[], None],
        tell: Tell,
        settings: ListenerSettings,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.queue, self.arrived, self.tell, self.settings, self.tls = queue, arrived, tell, settings, tls
        self.port = settings.port
        deadlines = Deadlines(settings.beginning_seconds, settings.pdu_seconds, settings.timeout_seconds)
        self.places = Places(settings.max_associations, deadlines, tell, self._ended)
        self._received: dict[Any, int] = {}  # bytes of the object that an association is sending
        self._incoming: dict[Any, list[Incoming]] = {}  # by the thread that reads for an association

    @contextmanager
    def running(self) -> Iterator["Listener"]:
        """Listen until the block ends; an object under way then is aborted, and its sender knows that it was not taken.

        Raises:
            NetworkError: the port is taken.
        """
        from pynetdicom import AE, _config, dimse_messages, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined,unused-ignore]

        with silenced():
            _config.LOG_HANDLER_LEVEL = "none"
            entity = AE(self.settings.ae_title)
            entity.maximum_pdu_size = _MAX_PDU
            entity.dimse_timeout = entity.network_timeout = self.settings.timeout_seconds
            entity.acse_timeout = self.settings.beginning_seconds
            entity.maximum_associations = 1_000_000  # `Places` counts them
            entity.require_calling_aet = list(self.settings.allow)
            entity.require_called_aet = not self.settings.any_title
            entity.add_supported_context(Verification, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
            for sop_class in (*_IMAGES, *_MARKS):
                entity.add_supported_context(sop_class, AllTransferSyntaxes)
            handlers: list[Any] = [
                (evt.EVT_REQUESTED, self.places.requested),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_PDU_RECV, self._count),
                (evt.EVT_DIMSE_RECV, self._forget),
                (evt.EVT_REJECTED, lambda _: self.tell("rejected an association", "")),
            ]
            address = (self.settings.bind, self.settings.port)
            try:
                server = Server(entity, address, handlers, self.places, self.tls)
            except OSError as error:
                raise NetworkError(f"`--port` must be free, got {error.strerror}: {address[0]}:{address[1]}") from None
            self.port = server.server_address[1]
            _config.STORE_RECV_CHUNKED_DATASET = True  # objects go to disk as they come, not through memory
            library: Any = dimse_messages
            whose, library.NamedTemporaryFile = library.NamedTemporaryFile, self._begin_object
            threading.Thread(target=server.serve_forever, name="accepting", daemon=True).start()
            try:
                yield self
            finally:
                server.shutdown()
                library.NamedTemporaryFile = whose
                _config.STORE_RECV_CHUNKED_DATASET = False

    def _begin_object(self, **_: Any) -> Incoming:
        """Make the file of an object; called by the thread that reads for its association."""
        found = Incoming(self.queue.place("incoming"), lambda: self.queue.has_room(0))
        mine = self._incoming.setdefault(threading.current_thread(), [])
        mine[:] = [each for each in mine if each.path.exists()] + [found]
        return found

    def _store(self, event: Any) -> int:
        """Take one object; its answer is the status of the C-STORE response."""
        connection = self.places.of_association(event.assoc)
        connection.is_served = True
        try:
            status = self._taken(event)
        except Exception as error:  # its text may quote the object
            self.tell(f"refused an object: {type(error).__name__}", "")
            return _FULL if isinstance(error, OSError) else _FAULT
        finally:
            connection.count(0)
            connection.is_served = False
        if status == _STORED:
            self.arrived()
        return status

    def _taken(self, event: Any) -> int:
        uid, sop_class = UID(event.request.AffectedSOPInstanceUID), event.request.AffectedSOPClassUID
        kind: Kind = kind_of(sop_class) or "images"
        refusal, status = self._refusal(event, uid, kind)
        path: Path = event.dataset_path
        size = 0 if status == _FULL else path.stat().st_size
        if not refusal and not self.queue.take(path, kind, uid):
            refusal, status = "another object with the same UID came before it", _TWICE
        if refusal:
            self.tell(f"refused an object: {refusal}", self.queue.name(uid))
            return status
        what = "marks" if kind == "marks" else "an image, which is scored when its marks are there"
        self.tell(f"took {what}, {size} bytes", self.queue.name(uid))
        return _STORED

    def _refusal(self, event: Any, uid: UID, kind: str) -> tuple[str, int]:
        """Why an object is not taken, with its status; "" where it is."""
        path: Path = event.dataset_path
        if event.request._dataset_file.is_refused or path.stat().st_size > self.settings.max_object_bytes:
            return "no room, or it is too large", _FULL
        if not self.queue.has_room(0):  # the object is on the disk already
            return "no room, or it is too large", _FULL
        if kind == "marks" and self.queue.failed_is_full():
            return "`failed` in the queue is full. Fix: look at what lies there, and remove it", _FULL
        try:
            own_uid, own_class = read_identity(path)
        except DiagNetError:
            return "it cannot be read", _NOT_UNDERSTOOD
        if not uid.is_valid or own_uid != uid:
            return "it is another one than announced", _OTHER_OBJECT
        if not own_class == event.request.AffectedSOPClassUID == event.context.abstract_syntax:
            return "its SOP class is another one than agreed", _OTHER_OBJECT
        return "", _STORED

    def _count(self, event: Any) -> None:
        """Abort an association whose object grows too large, before it fills the disk or the memory."""
        items = getattr(event.pdu, "presentation_data_value_items", None)
        if items is None:
            return
        size = sum(len(item.presentation_data_value) for item in items)
        total = self._received[event.assoc] = self._received.get(event.assoc, 0) + size
        is_object = getattr(event.assoc.dimse.message, "_data_set_file", None) is not None
        limit = self.settings.max_object_bytes if is_object else _MAX_COMMAND_BYTES
        if total > limit >= total - size:
            self.tell("aborted an association: its object is too large", "")
            threading.Thread(target=event.assoc.abort, daemon=True).start()  # waits for the thread we are in

    def _forget(self, event: Any) -> None:
        self._received.pop(event.assoc, None)

    def _ended(self, association: Any) -> None:
        """Remove what an ended association left half-sent, or unanswered."""
        self._received.pop(association, None)
        for each in self._incoming.pop(association.dul, []):
            each.discard()


def server_tls(cert: Path, key: Path, ca: Path | None) -> ssl.SSLContext:
    """TLS as a server: our certificate, and with `ca` only peers with a certificate of theirs.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, cert, key, ca)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext:
    """TLS as a client: the peer's certificate is checked by `ca`, else by the system's authorities.

    Raises:
        SettingsError: a file cannot be used.
    """
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, cert, key, ca)
    return context


def _load(context: ssl.SSLContext, cert: Path | None, key: Path | None, ca: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # PS3.15, B.9 (BCP 195)
    try:
        if cert is not None:
            context.load_cert_chain(cert, key)
        if ca is not None:
            context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(
            f"`--cert`, `--key` and `--ca` must be PEM files that belong together, got: {reason}"
        ) from None
