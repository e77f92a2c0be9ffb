"""A small worklist of our own, strict about PS3.18, 11 and PS3.4, CC.1.1; no server at hand speaks UPS-RS.

It serves the inputs by WADO-RS too. What is not as the standard has it is refused, and kept in `faults`.
"""

import http.server
import json
import re
import threading
import time
from urllib.parse import parse_qs, unquote, urlsplit

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

CODE = ("110004", "DCM", "Computer Aided Detection")
STATION = ("STATION1", "99TEST", "Station")
TAG = {
    "ProcedureStepState": "00741000",
    "ScheduledWorkitemCodeSequence.CodeValue": ("00404018", "00080100"),
    "ScheduledStationNameCodeSequence.CodeValue": ("00404025", "00080100"),
}


def code(value, scheme, meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def workitem(paths, url="", *, readiness="READY", patient="CANARYNAME"):
    """A scheduled workitem with files as its inputs; their address is the server's where one is given."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = "1.2.840.10008.5.1.4.34.6.1", generate_uid()
    item.ProcedureStepState, item.InputReadinessState = "SCHEDULED", readiness
    item.PatientName = item.PatientID = patient
    item.ProcedureStepLabel = "Score masses"
    item.ScheduledWorkitemCodeSequence = [code(*CODE)]
    item.ScheduledStationNameCodeSequence = [code(*STATION)]
    item.InputInformationSequence = []
    for path in paths:
        header = dcmread(path, stop_before_pixels=True)
        group, instance = Dataset(), Dataset()
        instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
        group.TypeOfInstances = "DICOM"
        group.StudyInstanceUID, group.SeriesInstanceUID = header.StudyInstanceUID, header.SeriesInstanceUID
        group.ReferencedSOPSequence = [instance]
        way = Dataset()
        if url:
            way.RetrieveURL = f"{url}/studies/{header.StudyInstanceUID}"
            group.WADORSRetrievalSequence = [way]
        else:
            way.RetrieveAETitle = "ARCHIVE"
            group.DICOMRetrievalSequence = [way]
        item.InputInformationSequence.append(group)
    return item.to_json_dict()


def value(item, tag):
    return (item.get(tag, {}).get("Value") or [None])[0]


class WorklistServer(http.server.ThreadingHTTPServer):
    """Attributes: items by UID; objects by UID (path); asked (method and path); faults; `answers`, instead of ours."""

    daemon_threads = True

    def __init__(self, token=None, tls=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.items, self.transactions, self.objects = {}, {}, {}
        self.asked, self.faults, self.answers, self.token = [], [], {}, token
        self.history, self.lock, self.after = [], threading.Lock(), lambda *_: None
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_address[1]}/dicom-web"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_):
        """A client that was killed, or had enough, is no fault."""

    def add(self, paths, *, by_address=True, address="", **changes):
        """Schedule a workitem, and serve its inputs, where no other address does."""
        item = workitem(paths, (address or self.url) if by_address else "", **changes)
        for path in paths if by_address else []:
            self.objects[str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path
        uid = value(item, "00080018")
        self.items[uid] = item
        return uid

    def state(self, uid):
        return value(self.items[uid], "00741000")

    def performed(self, uid):
        return value(self.items[uid], "00741216")

    def outputs(self, uid):
        """SOP Instance UIDs of the outputs, each with how it is had."""
        found = {}
        for each in self.performed(uid)["00404033"].get("Value", []):
            way = value(each, "0040E021") or value(each, "0040E025")
            (address,) = (way.get("00080054") or way.get("00081190"))["Value"]
            found[value(value(each, "00081199"), "00081155")] = address
        return found

    def why(self, uid):
        """Code and text of the reason for which a workitem was canceled."""
        now = value(self.items[uid], "00741002")
        return value(value(now, "0074100E"), "00080100"), value(now, "00741238")

    def close(self):
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve("GET")

    def do_PUT(self):
        self._serve("PUT")

    def do_POST(self):
        self._serve("POST")

    def _serve(self, method):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/dicom-web")
        server.asked.append((method, path))
        for pattern, answer in server.answers.items():
            if re.fullmatch(pattern, f"{method} {path}"):
                answer(self)
                return
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self.say(401)
            return
        with server.lock:
            status, content, kind = self._answer(method, path, parts.query, body)
        if status >= 400:
            server.faults.append((method, status))
        server.after(method, path, status)
        self.say(status, content, kind)

    def say(self, status, content=b"", kind="application/dicom+json"):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if content:
            self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, method, path, query, body):
        if path.startswith("/studies/") and method == "GET":
            return self._instance(path)
        if "json" not in (self.headers.get("Accept") or ""):
            return 406, b"", ""
        if path == "/workitems" and method == "GET":
            return self._search(query)
        found = re.fullmatch(r"/workitems/([0-9.]+)(/state)?", path)
        if not found or found[1] not in self.server.items:
            return 404, b"", ""
        uid = found[1]
        if method == "GET":
            shown = {tag: each for tag, each in self.server.items[uid].items() if tag != "00081195"}  # PS3.18, 11.5.3.3
            return 200, json.dumps([shown]).encode(), "application/dicom+json"
        if self.headers.get("Content-Type") != "application/dicom+json":
            return 415, b"", ""
        (said,) = json.loads(body)
        if found[2]:
            return (self._change(uid, said) if method == "PUT" else 405), b"", ""
        return (self._update(uid, said, unquote(query)) if method == "POST" else 405), b"", ""

    def _search(self, query):
        found = list(self.server.items.values())
        wanted = {key: each for key, (each,) in parse_qs(query).items()}
        limit = int(wanted.pop("limit", 1000))
        for key, each in wanted.items():
            tag = TAG[key]
            if isinstance(tag, str):
                found = [item for item in found if value(item, tag) == each]
            else:
                found = [item for item in found if value(value(item, tag[0]), tag[1]) == each]
        keys = ("00080016", "00080018", "00741000", "00404041")
        shown = [{tag: item[tag] for tag in keys} for item in found[:limit]]
        return (200, json.dumps(shown).encode(), "application/dicom+json") if shown else (204, b"", "")

    def _change(self, uid, said):
        """PS3.4, table CC.1.1-2: who may lead a workitem from which state to which."""
        item, server = self.server.items[uid], self.server
        transaction, wanted, state = value(said, "00081195"), value(said, "00741000"), value(item, "00741000")
        if not transaction or not UID(transaction).is_valid or wanted not in ("IN PROGRESS", "COMPLETED", "CANCELED"):
            return 400
        if wanted == "IN PROGRESS":
            if state != "SCHEDULED":
                return 409
            server.transactions[uid] = transaction
        elif state != "IN PROGRESS" or server.transactions[uid] != transaction or not self._is_final(item, wanted):
            return 409
        item["00741000"]["Value"] = [wanted]
        server.history.append((uid, wanted))
        return 200

    def _is_final(self, item, wanted):
        """PS3.4, table CC.2.5-3: what a workitem must say before it ends."""
        performed, now = value(item, "00741216") or {}, value(item, "00741002") or {}
        if wanted == "CANCELED":
            return bool(value(now, "00404052") and value(value(now, "0074100E") or {}, "00080100"))
        needed = all(value(performed, tag) for tag in ("00404028", "00404019", "00404050", "00404051"))
        return needed and "00404033" in performed

    def _update(self, uid, said, transaction):
        item = self.server.items[uid]
        if value(item, "00741000") != "IN PROGRESS" or "00741000" in said:
            return 409
        if self.server.transactions[uid] != transaction or value(said, "00081195") != transaction:
            return 409
        item.update({tag: each for tag, each in said.items() if tag != "00081195"})
        return 200

    def _instance(self, path):
        found = re.fullmatch(r"/studies/([0-9.]+)/series/([0-9.]+)/instances/([0-9.]+)", path)
        if not found or found[3] not in self.server.objects:
            return 404, b"", ""
        if "multipart/related" not in (self.headers.get("Accept") or ""):
            return 406, b"", ""
        content = self.server.objects[found[3]].read_bytes()
        return 200, multipart(content), 'multipart/related; type="application/dicom"; boundary="a b/c"'


def multipart(content, boundary=b"a b/c", end=b"--"):
    return b"preamble\r\n--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n--%b%b\r\n" % (
        boundary,
        content,
        boundary,
        end,
    )


def endless(handler):
    """A body that does not end."""
    handler.send_response(200)
    handler.send_header("Content-Type", 'multipart/related; boundary="a b/c"')
    handler.send_header("Connection", "close")
    handler.end_headers()
    end = time.monotonic() + 15
    while time.monotonic() < end:
        handler.wfile.write(b" " * 100_000)


def dripping(handler):
    """A head that comes letter by letter."""
    end = time.monotonic() + 15
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while time.monotonic() < end:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)
