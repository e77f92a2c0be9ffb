"""Where results go: a DICOM node by C-STORE, or an archive's web service by STOW-RS."""

import functools
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from diagnet.clinic.privacy import silenced
from diagnet.clinic.sockets import cut
from diagnet.errors import NetworkError, NotTakenError, SettingsError

_TIMEOUT_S = 30
_ENDING_S = 10.0  # at most, for the last words of an association that we asked for
_IDLE = "Sta1"  # of pynetdicom's reader: PS3.8, table 9-1
_SUCCESS = 0x0000
_WARNINGS = (0xB000, 0xB006, 0xB007)  # stored, with a remark: PS3.4, table B.2-1
_PENDING = (0xFF00, 0xFF01)


@runtime_checkable
class Destination(Protocol):
    """Where results are sent."""

    def send(self, result: Path) -> None:
        """Send one DICOM file.

        Raises:
            NetworkError: it cannot be reached, or (NotTakenError) does not take the file.
        """

    def has(self, result: Path) -> bool:
        """Ask whether a DICOM file is there already; False where the destination does not answer such questions.

        Raises:
            NetworkError: it cannot be reached.
        """


def parse_destination(
    text: str, ae_title: str, tls: ssl.SSLContext | None = None, ca: Path | None = None
) -> Destination:
    """Read HOST:PORT:AE or an http(s) address.

    Args:
        text: such as 127.0.0.1:4242:ORTHANC or http://127.0.0.1:8042/dicom-web.
        ae_title: our own, for HOST:PORT:AE.
        tls: for HOST:PORT:AE, how to speak TLS; None for plain text.
        ca: certificates that an https address is checked with; None for the system's.

    Raises:
        SettingsError: it is neither.
    """
    if text.startswith(("http://", "https://")):
        if not urlsplit(text).hostname:
            raise SettingsError("`--forward` must be HOST:PORT:AE or an http(s) address, got one without a host")
        return WebArchive(text.rstrip("/"), ca)
    host, _, rest = text.partition(":")
    port, _, title = rest.partition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and 0 < len(title) <= 16):
        raise SettingsError(f"`--forward` must be HOST:PORT:AE or an http(s) address, got {text!r}")
    return Node(host, int(port), title, ae_title, tls)


@dataclass(frozen=True)
class Node:
    """A DICOM node that takes C-STORE: PS3.4, B."""

    host: str
    port: int
    title: str
    our_title: str
    tls: ssl.SSLContext | None = None

    def send(self, result: Path) -> None:
        """See `Destination`."""
        with silenced():
            header = _header(result)
            association = self._associated(str(header.SOPClassUID))
            try:
                status = association.send_c_store(result).get("Status")
            except (ValueError, RuntimeError) as error:
                raise NotTakenError(f"`--forward` must take what is sent, got: {type(error).__name__}") from None
            finally:
                association.release()
        if status != _SUCCESS and status not in _WARNINGS:
            answer = "no answer" if status is None else f"the status 0x{status:04X}"
            raise NotTakenError(f"`--forward` must take what is sent, got {answer}")

    def has(self, result: Path) -> bool:
        """See `Destination`; by C-FIND of the image level, PS3.4, C.6.2."""
        with silenced():
            from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find  # type: ignore[attr-defined,unused-ignore]

            header = _header(result)
            try:
                association = self._associated(Find)
            except NotTakenError:
                return False
            try:
                query = Dataset()
                query.QueryRetrieveLevel = "IMAGE"
                query.StudyInstanceUID = header.StudyInstanceUID
                query.SeriesInstanceUID = header.SeriesInstanceUID
                query.SOPInstanceUID = header.SOPInstanceUID
                answers = list(association.send_c_find(query, Find))
            finally:
                association.release()
        return any(
            status.get("Status") in _PENDING
            and found is not None
            and found.get("SOPInstanceUID") == query.SOPInstanceUID
            for status, found in answers
        )

    def _associated(self, context: str) -> Any:
        from pynetdicom import AE, evt

        entity = AE(self.our_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _TIMEOUT_S
        entity.add_requested_context(context, ExplicitVRLittleEndian)
        tls = None if self.tls is None else (self.tls, self.host)
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, end_in_time)]
        association = entity.associate(self.host, self.port, ae_title=self.title, tls_args=tls, evt_handlers=handlers)
        if not association.is_established:
            if association.rejected_contexts:
                raise NotTakenError("`--forward` must take what is sent, got no presentation context in common")
            reason = "a rejected association" if association.is_rejected else "no association"
            raise NetworkError(f"`--forward` must be a DICOM node that can be reached, got {reason}")
        return association


def end_in_time(event: Any) -> None:
    """Let an association that we ask for end in some seconds, whatever the other side does: for EVT_CONN_OPEN.

    pynetdicom's own `kill` waits until its reader is idle. A node that stops in the middle of a PDU keeps it from that
    for ever, and with it whoever sends.
    """
    association = event.assoc
    reader, line = association.dul, association.dul.socket.socket

    def kill() -> None:
        association._reactor_checkpoint.set()
        association._kill = association._is_paused = True
        association.is_established = False
        end = time.monotonic() + _ENDING_S
        while reader.is_alive() and reader.state_machine.current_state != _IDLE and time.monotonic() < end:
            time.sleep(0.01)
        reader._kill_thread = True
        cut(line)  # wakes a reader that waits
        if reader.is_alive() and reader is not threading.current_thread():
            reader.join(_ENDING_S)
        line.close()  # pynetdicom leaves it open where the other side was faster

    association.kill = kill


@dataclass(frozen=True)
class WebArchive:
    """An archive's DICOMweb service: PS3.18, 10.5 (STOW-RS) and 10.6 (QIDO-RS)."""

    url: str
    ca: Path | None = None

    def send(self, result: Path) -> None:
        """See `Destination`."""
        with silenced():
            answer = self._ask(lambda client: client.store_instances([dcmread(result)]))
        if answer.get("FailedSOPSequence"):
            raise NotTakenError("`--forward` must take what is sent, got a refusal")

    def has(self, result: Path) -> bool:
        """See `Destination`."""
        with silenced():
            header = _header(result)
            wanted = {"SOPInstanceUID": header.SOPInstanceUID}
            try:
                found = self._ask(
                    lambda client: client.search_for_instances(header.StudyInstanceUID, search_filters=wanted)
                )
            except NotTakenError:
                return False
        return any(str(header.SOPInstanceUID) in str(each.get("00080018")) for each in found)

    def _ask(self, ask: Any) -> Any:
        """Ask the archive; what goes wrong is told without its text, which may quote what was sent."""
        import requests
        from dicomweb_client.api import DICOMwebClient

        with requests.Session() as session:
            if self.ca is not None:
                session.verify = str(self.ca)
            session.request = functools.partial(session.request, timeout=_TIMEOUT_S)  # type: ignore[method-assign,unused-ignore]
            try:
                client = DICOMwebClient(self.url, session=session)
                client.set_http_retry_params(retry=False)
                return ask(client)
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else "no status"
                raise NotTakenError(f"`--forward` must take what is sent, got HTTP status {status}") from None
            except (requests.RequestException, OSError) as error:
                reason = type(error).__name__
                raise NetworkError(f"`--forward` must be an archive that can be reached, got {reason}") from None


def result_reference(path: Path) -> dict[str, str]:
    """Read the UIDs by which a result is referred to: of the result, its SOP class, study and series."""
    with silenced():
        header = _header(path)
    return {
        "uid": str(header.SOPInstanceUID),
        "sop_class": str(header.SOPClassUID),
        "study": str(header.StudyInstanceUID),
        "series": str(header.SeriesInstanceUID),
    }


def _header(path: Path) -> Dataset:
    tags = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
    return dcmread(path, specific_tags=list(tags), stop_before_pixels=True)
