"""A DICOM node that takes images and marks: PS3.4, B (C-STORE) and A (C-ECHO). What it answers "stored" is on disk."""

import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydicom import dcmread
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

from diagnet.clinic.privacy import silenced
from diagnet.clinic.queue import Queue
from diagnet.clinic.worker import Tell
from diagnet.errors import NetworkError, SettingsError

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
_STORED, _FULL, _OTHER_OBJECT, _NOT_UNDERSTOOD, _FAULT = 0x0000, 0xA700, 0xA900, 0xC000, 0x0110  # PS3.4, table B.2-1
_MAX_PDU = 131_072


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
        self._received: dict[Any, int] = {}  # bytes of the object that an association is sending

    @contextmanager
    def running(self) -> Iterator["Listener"]:
        """Listen until the block ends; an object under way then is aborted, and its sender knows that it was not taken.

        Raises:
            NetworkError: the port is taken.
        """
        from pynetdicom import AE, _config, evt
        from pynetdicom.sop_class import Verification  # type: ignore[attr-defined,unused-ignore]

        with silenced():
            _config.LOG_HANDLER_LEVEL = "none"
            _config.STORE_RECV_CHUNKED_DATASET = True  # objects go to disk as they come, not through memory
            before, tempfile.tempdir = tempfile.tempdir, str(self.queue.place("incoming"))
            entity = AE(self.settings.ae_title)
            entity.maximum_associations = self.settings.max_associations
            entity.maximum_pdu_size = _MAX_PDU
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self.settings.timeout_seconds
            entity.require_calling_aet = list(self.settings.allow)
            entity.add_supported_context(Verification, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
            for sop_class in (*_IMAGES, *_MARKS):
                entity.add_supported_context(sop_class, AllTransferSyntaxes)
            handlers: list[Any] = [
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_PDU_RECV, self._count),
                (evt.EVT_DIMSE_RECV, self._forget),
                (evt.EVT_CONN_CLOSE, self._closed),
                (evt.EVT_REJECTED, lambda _: self.tell("rejected an association", "")),
            ]
            address = (self.settings.bind, self.settings.port)
            try:
                server = entity.start_server(address, block=False, evt_handlers=handlers, ssl_context=self.tls)
            except OSError as error:
                tempfile.tempdir = before
                raise NetworkError(f"`--port` must be free, got {error.strerror}: {address[0]}:{address[1]}") from None
            self.port = server.server_address[1] if server is not None else address[1]
            try:
                yield self
            finally:
                entity.shutdown()
                tempfile.tempdir = before
                _config.STORE_RECV_CHUNKED_DATASET = False

    def _store(self, event: Any) -> int:
        """Take one object; its answer is the status of the C-STORE response."""
        try:
            status = self._taken(event)
        except Exception as error:  # its text may quote the object
            self.tell(f"refused an object: {type(error).__name__}", "")
            return _FAULT
        if status == _STORED:
            self.arrived()
        return status

    def _taken(self, event: Any) -> int:
        path: Path = event.dataset_path
        uid, sop_class = UID(event.request.AffectedSOPInstanceUID), event.request.AffectedSOPClassUID
        size = path.stat().st_size
        if size > self.settings.max_object_bytes or not self.queue.has_room(0):  # the object is on the disk already
            self.tell("refused an object: no room, or it is too large", self.queue.name(uid))
            return _FULL
        try:
            header = dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
        except Exception:  # pydicom raises whatever a broken object makes it meet
            self.tell("refused an object: it cannot be read", self.queue.name(uid))
            return _NOT_UNDERSTOOD
        if not uid.is_valid or header.get("SOPInstanceUID") != uid:
            self.tell("refused an object: it is another one than announced", self.queue.name(uid))
            return _OTHER_OBJECT
        kind: Literal["marks", "images"] = "marks" if sop_class in _MARKS else "images"
        self.queue.take(path, kind, uid)
        what = "marks" if kind == "marks" else "an image, which is scored when its marks are there"
        self.tell(f"took {what}, {size} bytes", self.queue.name(uid))
        return _STORED

    def _count(self, event: Any) -> None:
        """Abort an association whose object grows too large, before it fills the disk."""
        items = getattr(event.pdu, "presentation_data_value_items", None)
        if items is None:
            return
        size = sum(len(item.presentation_data_value) for item in items)
        total = self._received[event.assoc] = self._received.get(event.assoc, 0) + size
        if total - size <= self.settings.max_object_bytes < total:
            self.tell("aborted an association: its object is too large", "")
            threading.Thread(target=event.assoc.abort, daemon=True).start()  # waits for the thread we are in

    def _forget(self, event: Any) -> None:
        self._received.pop(event.assoc, None)

    def _closed(self, event: Any) -> None:
        """Remove what an ended association left half-sent; pynetdicom leaves its file."""
        self._forget(event)
        message: Any = getattr(event.assoc.dimse, "message", None)
        if getattr(message, "_data_set_path", None) is not None:
            message._data_set_file.close()
            message._data_set_path.unlink(missing_ok=True)


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
