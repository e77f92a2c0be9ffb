"""A worklist on the web: UPS-RS (PS3.18, 11) and WADO-RS (PS3.18, 10.4), of a server that may send anything.

dicomweb-client knows no UPS-RS, follows redirects and holds whole answers in memory. Here every answer has a size and a
time that it may take from the first byte to the last, and goes where it was asked for, or nowhere.
"""

import http.client
import json
import mmap
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from pydantic import SecretStr
from pydicom.dataset import Dataset

from diagnet.clinic.sockets import cut
from diagnet.clinic.workitem import Code, Input, Workitem, claim, is_uid, read_workitem, uid_of
from diagnet.errors import DataError, NetworkError, NotTakenError, SettingsError

_JSON = "application/dicom+json"
_OBJECTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_SILENCE_S = 10.0  # of a server
_ANSWER_S = 30.0  # until an answer of JSON is whole
_OBJECT_S = 300.0  # until an instance is whole
_MAX_JSON_BYTES = 4_000_000
_MAX_FOUND = 100  # workitems of one search that are looked at
_PART_BYTES = 1 << 18
_MAX_HEAD_BYTES = 16_384  # of a part of a multipart answer


class RefusedError(NotTakenError):
    """A workitem's state does not allow what was asked for: another one was faster, or it is over."""


class GoneError(NotTakenError):
    """What was asked for is not there, and will not be."""


# PS3.18, 11.7.3: 409 for a state that does not allow it; some servers answer 400.
_REFUSALS = {400: RefusedError, 409: RefusedError, 404: GoneError, 410: GoneError}
_DENIED = (401, 403)


class Worklist:
    """The worklist of one server.

    Attributes:
        url: the service's address, without /workitems.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        token: SecretStr | None = None,
        fetch_from: Sequence[str] = (),
        max_object_bytes: int = 512_000_000,
    ) -> None:
        """Know a worklist; nothing is asked yet.

        Args:
            url: such as https://archive/dicom-web.
            tls: how to speak TLS; None for the system's authorities.
            token: what the worklist's own origin is shown, and no other.
            fetch_from: other addresses that instances may be fetched from.
            max_object_bytes: of one instance.

        Raises:
            SettingsError: an address is none of http(s), or holds a name and a password.
        """
        self.url = url.rstrip("/").removesuffix("/workitems")
        self.origin = _origin(_split(self.url, "--worklist"))
        self._allowed = {self.origin, *(_origin(_split(each, "--fetch-from")) for each in fetch_from)}
        self._tls, self._token, self._max_object_bytes = tls, token, max_object_bytes
        self._socket: socket.socket | None = None
        self._is_closed = False

    def search(self, code: Code | None, station: Code | None) -> list[str]:
        """Ask which workitems are scheduled: PS3.18, 11.9.

        Returns:
            Their UIDs, at most a hundred.
        """
        wanted = {"ProcedureStepState": "SCHEDULED"}
        if code is not None:
            wanted["ScheduledWorkitemCodeSequence.CodeValue"] = code.value
        if station is not None:
            wanted["ScheduledStationNameCodeSequence.CodeValue"] = station.value
        found = self._asked("GET", f"/workitems?{urlencode(wanted)}&limit={_MAX_FOUND}", _ANSWER_S)
        uids = [uid_of(each) for each in found[:_MAX_FOUND]]
        return [uid for uid in uids if is_uid(uid)]

    def retrieve(self, uid: str) -> Workitem:
        """Ask for one workitem: PS3.18, 11.5.

        Raises:
            DataError: it cannot be used.
        """
        found = self._asked("GET", f"/workitems/{uid}", _ANSWER_S)
        if len(found) != 1:
            raise NotTakenError(f"`--worklist` must answer with one workitem, got {len(found)}")
        return read_workitem(found[0], uid)

    def change(self, uid: str, transaction: str, state: str) -> None:
        """Change a workitem's state: PS3.18, 11.7.

        Raises:
            RefusedError: its state does not allow that, or the transaction is another's.
        """
        self._asked("PUT", f"/workitems/{uid}/state", _ANSWER_S, claim(transaction, state))

    def update(self, uid: str, transaction: str, said: Dataset) -> None:
        """Change what a workitem says: PS3.18, 11.6; the query is the transaction's UID alone, as its syntax asks.

        Raises:
            RefusedError: its state does not allow that, or the transaction is another's.
        """
        self._asked("POST", f"/workitems/{uid}?{quote(transaction)}", _ANSWER_S, said)

    def fetch(self, wanted: Input, write: Callable[[bytes], None]) -> dict[str, str]:
        """Fetch an instance as the one part of a multipart answer: PS3.18, 10.4.1.

        Args:
            wanted: the instance; its address names a study, a series or itself.
            write: takes the body as it comes, with the marks between its parts.

        Returns:
            The parameters of the content type, for `cut_out`.

        Raises:
            DataError: its address is none that may be asked, or the answer is too large or no such one.
            GoneError: it is not there.
        """
        parts = _split(wanted.url, "RetrieveURL")
        root, mark, _ = parts.path.partition("/studies/")
        if not mark or _origin(parts) not in self._allowed:
            raise DataError(
                "`RetrieveURL` must be a study's, at `--worklist` or at an address of `--fetch-from`, got another."
            )
        target = f"{root}/studies/{wanted.study}/series/{wanted.series}/instances/{wanted.uid}"
        with self._open("GET", parts, target, _OBJECT_S, None, _OBJECTS) as answer:
            _check(answer.status)
            if answer.headers.get_content_type() != "multipart/related":
                raise DataError("`instance` must come as multipart/related, got another type of answer.")
            _read(answer, self._max_object_bytes, write)
            return dict(answer.headers.get_params() or [])

    def close(self) -> None:
        """End the request under way, and let no other begin."""
        self._is_closed = True
        if self._socket is not None:
            cut(self._socket)

    def _asked(self, method: str, path: str, seconds: float, body: Dataset | None = None) -> list[Any]:
        """Ask the worklist, and read a list of the DICOM JSON model; empty where there is no content."""
        content = None if body is None else json.dumps([body.to_json_dict()]).encode()
        parts = urlsplit(self.url)
        with self._open(method, parts, parts.path + path, seconds, content, _JSON) as answer:
            _check(answer.status)
            whole = bytearray()
            _read(answer, _MAX_JSON_BYTES, whole.extend)
        if method != "GET" or not whole:
            return []
        try:
            found = json.loads(whole)
        except (ValueError, RecursionError):
            raise NotTakenError("`--worklist` must answer with DICOM JSON, got something else") from None
        return found if isinstance(found, list) else [found]

    @contextmanager
    def _open(
        self, method: str, parts: SplitResult, target: str, seconds: float, body: bytes | None, accept: str
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask, and end the connection when the time for all of the answer is over; no redirect is followed."""
        headers = {"Accept": accept} | ({} if body is None else {"Content-Type": _JSON})
        if self._token is not None and _origin(parts) == self.origin:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        connection = self._connection(parts)
        over = threading.Event()
        clock: threading.Timer | None = None

        def end() -> None:
            over.set()
            if connection.sock is not None:
                cut(connection.sock)

        try:
            connection.connect()
            self._socket = connection.sock
            clock = threading.Timer(seconds, end)
            clock.daemon = True
            clock.start()
            if self._is_closed:
                raise NetworkError("`--worklist` is not asked any more")
            connection.request(method, target, body, headers)
            yield connection.getresponse()
            if over.is_set():  # an end that looks like the server's own
                raise TimeoutError
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = "no whole answer in its time" if over.is_set() else type(error).__name__
            raise NetworkError(f"`--worklist` must be a server that answers, got {reason}") from None
        finally:
            self._socket = None
            if clock is not None:
                clock.cancel()
            connection.close()

    def _connection(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=_SILENCE_S)
        return http.client.HTTPSConnection(host, parts.port, timeout=_SILENCE_S, context=self._tls)


def cut_out(body: Path, boundary: str) -> None:
    """Leave of a multipart body its only part: RFC 2046, 5.1.

    Raises:
        DataError: it is none, or has several parts.
    """
    fault = DataError("`instance` must come as one part, got another answer.")
    if not boundary or len(boundary) > 70 or not body.stat().st_size:
        raise fault
    mark = b"--" + boundary.encode("ascii", "replace")
    with body.open("r+b") as file, mmap.mmap(file.fileno(), 0) as whole:
        begin = whole.find(mark)
        head = whole.find(b"\r\n\r\n", begin, begin + _MAX_HEAD_BYTES)
        end = whole.find(b"\r\n" + mark, head + 2)
        if begin < 0 or head < 0 or end < 0 or whole[end + 2 + len(mark) : end + 4 + len(mark)] != b"--":
            raise fault
        length = max(0, end - head - 4)
        whole.move(0, head + 4, length)
        whole.flush()
    with body.open("r+b") as file:
        file.truncate(length)


def _read(answer: http.client.HTTPResponse, limit: int, write: Callable[[bytes], None]) -> None:
    """Read a body to its end.

    Raises:
        DataError: it is larger than the limit, known beforehand or not.
    """
    left = limit
    while (answer.length or 0) <= left:
        part = answer.read(min(_PART_BYTES, left + 1))
        left -= len(part)
        if not part or left < 0:
            break
        write(part)
    if left < 0 or (answer.length or 0) > left:
        raise DataError(f"`answer` must have at most {limit} bytes, got more.")
    if answer.length:  # http.client does not tell of a body that ended before its time
        raise http.client.IncompleteRead(b"")


def _check(status: int) -> None:
    """Tell what is no success: PS3.18, 8.5."""
    if 200 <= status < 300:
        return
    said = f"`--worklist` must do what is asked, got HTTP status {status}"
    if status in _DENIED:
        raise NotTakenError(f"{said}. Fix: --worklist-token-file, or the rights of its token")
    raise _REFUSALS.get(status, NotTakenError)(said)


def _split(url: str, name: str) -> SplitResult:
    """Take an address apart; its text is told in no error, because it may hold anything."""
    with suppress(ValueError):
        parts = urlsplit(url)
        port = parts.port  # raises where it is no number
        plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme in ("http", "https") and parts.hostname and parts.username is None and port != 0 and plain:
            return parts
    fault = f"`{name}` must be an http(s) address without a user's name, got another"
    raise SettingsError(fault) if name.startswith("--") else DataError(f"{fault}.")


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}[parts.scheme]
