import http.server
import json
import socket
import struct
import threading

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

from pydicom import dcmread

from clinic_parts import CANARY, Archive, assessed, free_port, mammogram
from diagnet.clinic import forward
from diagnet.clinic.forward import Node, WebArchive, parse_destination
from diagnet.clinic.report import write_structured_report
from diagnet.errors import NetworkError, NotTakenError, SettingsError


@pytest.fixture
def report(tmp_path):
    write_structured_report((assessed(),), mammogram(tmp_path / "image.dcm"), tmp_path / "report.dcm")
    return tmp_path / "report.dcm"


@pytest.fixture
def archive(request):
    found = Archive(**getattr(request, "param", {}))
    yield found
    found.close()


def test_a_node_takes_a_result_and_knows_it_then(archive, report):
    node = parse_destination(archive.address, "DIAGNET")
    assert not node.has(report)
    node.send(report)
    assert node.has(report)
    assert list(archive.taken.values()) == [1]


@pytest.mark.parametrize("archive", [{"answers_find": False}], indirect=True)
def test_a_node_that_answers_no_questions_is_taken_not_to_have_it(archive, report):
    node = parse_destination(archive.address, "DIAGNET")
    node.send(report)
    assert not node.has(report)


@pytest.mark.parametrize("archive", [{"on_store": lambda _: 0xA700}], indirect=True)
def test_a_refusal_has_its_status(archive, report):
    with pytest.raises(NotTakenError, match="got the status 0xA700"):
        parse_destination(archive.address, "DIAGNET").send(report)


@pytest.mark.parametrize("archive", [{"on_store": lambda _: 0xB000}], indirect=True)
def test_a_remark_is_no_refusal(archive, report):
    parse_destination(archive.address, "DIAGNET").send(report)


def test_an_archive_of_other_classes_does_not_take_it(report):
    archive = Archive()
    archive.entity.supported_contexts = []
    archive.server.contexts = []
    with pytest.raises(NotTakenError, match="no presentation context in common"):
        parse_destination(archive.address, "DIAGNET").send(report)
    archive.close()


def test_nobody_there(report):
    with pytest.raises(NetworkError, match="a DICOM node that can be reached, got no association"):
        Node("127.0.0.1", free_port(), "ARCHIVE", "DIAGNET").send(report)
    with pytest.raises(NetworkError, match="an archive that can be reached, got ConnectionError"):
        WebArchive(f"http://127.0.0.1:{free_port()}/dicom-web").send(report)


def half_a_pdu(kind):
    return bytes([kind, 0]) + struct.pack(">L", 1000) + bytes(10)


def test_an_archive_that_stops_in_the_middle_of_its_answer_is_not_waited_for(report, monkeypatch):
    def stall(_, event):
        event.assoc.dul.socket.socket.sendall(half_a_pdu(4))
        held.wait(60)
        return 0

    held = threading.Event()
    monkeypatch.setattr(Archive, "_store", stall)
    monkeypatch.setattr(forward, "_TIMEOUT_S", 1)
    archive = Archive()
    with pytest.raises(NotTakenError, match="got no answer"):
        parse_destination(archive.address, "DIAGNET").send(report)
    held.set()
    archive.close()


def test_a_node_that_stops_in_the_middle_of_its_greeting_is_not_waited_for(report, monkeypatch):
    monkeypatch.setattr(forward, "_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            client, _ = server.accept()
            with client:
                client.sendall(half_a_pdu(2))
                held.wait(60)

        held = threading.Event()
        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(NetworkError, match="got no association"):
            Node("127.0.0.1", server.getsockname()[1], "ARCHIVE", "DIAGNET").send(report)
        held.set()
        thread.join(10)


def test_an_archive_on_the_web_that_refuses(report):
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_error(409, CANARY)

        def do_GET(self):
            self.send_error(501)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(NotTakenError, match=r"got HTTP status 409$"):
            WebArchive(f"http://127.0.0.1:{server.server_address[1]}/dicom-web").send(report)
        assert not WebArchive(f"http://127.0.0.1:{server.server_address[1]}/dicom-web").has(report)
        server.shutdown()


@pytest.mark.parametrize(
    "text", ["", "host", "host:port:AE", "host:0:AE", "host:104:", "host:104:" + "A" * 17, "http://"]
)
def test_other_addresses_are_told(text):
    with pytest.raises(SettingsError, match=r"`--forward` must be HOST:PORT:AE or an http\(s\) address"):
        parse_destination(text, "DIAGNET")


def test_addresses():
    assert parse_destination("archive:104:PACS", "DIAGNET") == Node("archive", 104, "PACS", "DIAGNET")
    assert parse_destination("https://archive/dicom-web/", "DIAGNET") == WebArchive("https://archive/dicom-web")


def test_a_node_that_names_another_result_does_not_have_this_one(report):
    class Careless(Archive):
        def _find(self, event):
            event.identifier.SOPInstanceUID = "1.2.3"
            yield 0xFF00, event.identifier
            yield 0x0000, None

    archive = Careless()
    assert not parse_destination(archive.address, "DIAGNET").has(report)
    archive.close()


def test_an_archive_on_the_web_has_a_result_only_if_it_names_it(report):
    named = []

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in named]
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        archive = WebArchive(f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
        assert not archive.has(report)
        named.append("1.2.3")
        assert not archive.has(report)
        named.append(str(dcmread(report).SOPInstanceUID))
        assert archive.has(report)
        server.shutdown()
