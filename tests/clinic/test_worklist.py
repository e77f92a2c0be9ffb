"""What a worklist's server may send, and to whom our token goes."""

import json
import shutil
import ssl
import sys
import threading
import time

import pytest

pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

from pydantic import SecretStr
from pydicom.uid import generate_uid

from clinic_parts import CANARY, certificate, free_port, mammogram
from diagnet.cli.listen import Tasks, Trust, _exposure
from diagnet.clinic import worklist as worklist_module
from diagnet.clinic.workitem import MAX_INPUTS, Code, Input, read_workitem
from diagnet.clinic.worklist import GoneError, RefusedError, Worklist, cut_out
from diagnet.errors import DataError, NetworkError, NotTakenError, SettingsError
from worklist_server import CODE, WorklistServer, dripping, endless, multipart, workitem

UID = "1.2.3"
TOKEN = "a-token-of-more-than-16-letters"  # noqa: S105 -- of a server of our own


@pytest.fixture
def server():
    found = WorklistServer()
    yield found
    found.close()


def answering(server, pattern, content=b"", status=200, kind="application/dicom+json"):
    server.answers[pattern] = lambda handler: handler.say(status, content, kind)


def instance(url, uid=UID):
    return Input(uid=uid, sop_class="1.2", study="1.3", series="1.4", url=url)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b"[NaN, 1e999"])
def test_bad_json_is_no_traceback(server, content):
    answering(server, "GET .*", content)
    for ask in (lambda worklist: worklist.search(None, None), lambda worklist: worklist.retrieve(UID)):
        with pytest.raises(NotTakenError, match="must answer with DICOM JSON, got something else"):
            ask(Worklist(server.url))


@pytest.mark.parametrize("content", [b"", b"[]", b"[{}, {}]"])
def test_one_workitem_is_asked_for(server, content):
    answering(server, "GET .*", content)
    assert Worklist(server.url).search(None, None) == []
    with pytest.raises(NotTakenError, match="must answer with one workitem, got"):
        Worklist(server.url).retrieve(UID)


@pytest.mark.parametrize(
    "item",
    [
        [],
        7,
        {"00404021": 7},
        {"00404021": {"Value": 7}},
        {"00404021": {"Value": [None, 7]}},
        {"00741000": {"Value": [7]}},
    ],
)
def test_another_shape_is_an_empty_workitem(item):
    found = read_workitem(item, UID)
    assert (found.state, found.is_ready, found.inputs) == ("", False, ())


def test_huge_lists(server, tmp_path):
    uids = [generate_uid() for _ in range(300)]
    found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]
    found[3:3] = [{"00080018": {"vr": "UI", "Value": [bad]}} for bad in ("../x", "", "1" * 65, 7)]
    answering(server, "GET /workitems", json.dumps(found).encode())
    assert Worklist(server.url).search(None, None) == uids[:96]
    item = workitem([mammogram(tmp_path / "image.dcm")] * (MAX_INPUTS + 1))
    with pytest.raises(DataError, match=f"at most {MAX_INPUTS} inputs, got {MAX_INPUTS + 1}"):
        read_workitem(item, UID)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server, status):
    other = WorklistServer()

    def redirect(handler):
        handler.send_response(status)
        handler.send_header("Location", f"{other.url}/workitems")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["GET .*"] = redirect
    worklist = Worklist(server.url, token=SecretStr(TOKEN))
    with pytest.raises(NotTakenError, match=f"got HTTP status {status}"):
        worklist.search(None, None)
    with pytest.raises(NotTakenError, match=f"got HTTP status {status}"):
        worklist.fetch(instance(f"{server.url}/studies/1"), lambda _: None)
    assert other.asked == []
    other.close()


def test_an_endless_body_ends(server):
    server.answers["GET .*"] = endless
    taken = []
    with pytest.raises(DataError, match="at most 4000000 bytes, got more"):
        Worklist(server.url).search(None, None)
    with pytest.raises(DataError, match="at most 1000000 bytes, got more"):
        Worklist(server.url, max_object_bytes=1_000_000).fetch(
            instance(f"{server.url}/studies/1"), lambda part: taken.append(len(part))
        )
    assert sum(taken) <= 1_000_000


@pytest.mark.parametrize("where", ["head", "body", "silence"])
def test_a_slow_answer_ends_in_its_time(server, monkeypatch, where):
    def slow_body(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        dripping(handler)

    server.answers["GET .*"] = {"head": dripping, "body": slow_body, "silence": lambda _: time.sleep(15)}[where]
    monkeypatch.setattr(worklist_module, "_ANSWER_S", 0.5)
    began = time.monotonic()
    with pytest.raises(NetworkError, match="got no whole answer in its time"):
        Worklist(server.url).search(None, None)
    assert time.monotonic() - began < 5


def test_a_body_that_ends_before_its_time_is_no_answer(server):
    def short(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"[]")
        handler.close_connection = True

    server.answers["GET .*"] = short
    with pytest.raises(NetworkError, match="got IncompleteRead"):
        Worklist(server.url).search(None, None)


def test_closing_ends_the_request_under_way(server):
    server.answers["GET .*"] = lambda _: time.sleep(15)
    worklist = Worklist(server.url)
    threading.Timer(0.3, worklist.close).start()
    began = time.monotonic()
    with pytest.raises(NetworkError, match="must be a server that answers"):
        worklist.search(None, None)
    with pytest.raises(NetworkError, match="not asked any more"):
        worklist.search(None, None)
    assert time.monotonic() - began < 5


def test_what_a_status_means(server):
    for status, kind in (
        (409, RefusedError),
        (400, RefusedError),
        (404, GoneError),
        (410, GoneError),
        (500, NetworkError),
    ):
        answering(server, "PUT .*", CANARY.encode(), status)
        with pytest.raises(kind, match=rf"got HTTP status {status}$"):
            Worklist(server.url).change(UID, UID, "COMPLETED")
    answering(server, "PUT .*", b"", 401)
    with pytest.raises(NotTakenError, match="Fix: --worklist-token-file"):
        Worklist(server.url).change(UID, UID, "COMPLETED")
    with pytest.raises(NetworkError, match="got ConnectionRefusedError"):
        Worklist(f"http://127.0.0.1:{free_port()}").search(None, None)


def test_the_token_goes_to_the_worklist_alone(server):
    seen = {}

    def note(name):
        def answer(handler):
            seen[name] = handler.headers.get("Authorization")
            handler.say(404)

        return answer

    other = WorklistServer()
    server.answers["GET .*"], other.answers["GET .*"] = note("ours"), note("other")
    worklist = Worklist(server.url, token=SecretStr(TOKEN), fetch_from=[other.url])
    for each in (server, other):
        with pytest.raises(GoneError):
            worklist.fetch(instance(f"{each.url}/studies/1"), lambda _: None)
    assert seen == {"ours": f"Bearer {TOKEN}", "other": None}
    other.close()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/studies/1", "file:///etc/passwd", "http://[", "http://a@b/studies/1", "//x/studies/1", "{}/x"],
)
def test_other_addresses_are_not_asked(server, url):
    with pytest.raises(DataError, match="`RetrieveURL` must be"):
        Worklist(server.url).fetch(instance(url.format(server.url)), lambda _: None)
    assert server.asked == []


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://u:p@host/", "http://host:x/", "http://host/\r\nA: b"]
)
def test_a_bad_address_is_told_without_it(url):
    with pytest.raises(SettingsError, match=r"`--worklist` must be an .* address without a user's name, got another"):
        Worklist(url)


def test_a_part_is_cut_out(tmp_path):
    body = tmp_path / "body"
    for content in (b"", b"x", b"\r\n--a", bytes(100_000) + b"\r\n--"):
        body.write_bytes(multipart(content))
        cut_out(body, "a b/c")
        assert body.read_bytes() == content
    several = multipart(b"one", end=b"") + multipart(b"two").removeprefix(b"preamble\r\n")
    for content, boundary in (
        (several, "a b/c"),
        (multipart(b"x"), "other"),
        (multipart(b"x"), ""),
        (b"", "a b/c"),
        (multipart(b"x")[:-12], "a b/c"),
        (b"--a b/c" + b"x" * 20_000 + b"\r\n\r\n\r\n--a b/c--", "a b/c"),
    ):
        body.write_bytes(content)
        with pytest.raises(DataError, match="must come as one part"):
            cut_out(body, boundary)


def test_tls(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there: TLS was not tested")
    authority = certificate(tmp_path, "authority")
    theirs = certificate(tmp_path, "theirs", authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*theirs)
    server = WorklistServer(tls=context)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(authority[0])
    assert Worklist(server.url, tls=ours).search(None, None) == []
    with pytest.raises(NetworkError, match="got SSLCertVerificationError"):
        Worklist(server.url, tls=ssl.create_default_context()).search(None, None)
    server.close()


def test_a_code_may_have_a_scheme():
    ours = (Code(value=CODE[0], scheme=CODE[1]),)
    assert Code.parse(CODE[0]).is_in(ours)
    assert Code.parse(f"{CODE[0]}^{CODE[1]}").is_in(ours)
    assert not Code.parse(f"{CODE[0]}^OTHER").is_in(ours)
    assert not Code.parse(CODE[1]).is_in(ours)


def test_an_open_way_is_told():
    assert list(_exposure("127.0.0.1", Trust(), "http://127.0.0.1/dicom-web")) == []
    assert list(_exposure("127.0.0.1", Trust(), "https://archive/dicom-web")) == []
    (said,) = _exposure("127.0.0.1", Trust(), "http://archive/dicom-web")
    assert said == "what is asked of --worklist is not encrypted. Fix: an https address"


@pytest.mark.parametrize(
    ("options", "mode", "code", "text"),
    [
        (["http://127.0.0.1:1"], 0o600, 2, "--worklist must come with --worklist-code or --worklist-station"),
        (["ftp://x", "--worklist-code", "1"], 0o600, 1, "`--worklist` must be an http(s) address"),
        (["http://archive", "--worklist-code", "1", "TOKEN"], 0o600, 1, "must be an https address where a token goes"),
        (["https://archive", "--worklist-code", "1", "TOKEN"], 0o644, 1, "`--worklist-token-file` must be readable by"),
    ],
)
def test_bad_options_are_told_in_one_line(tmp_path, capsys, monkeypatch, options, mode, code, text):
    from diagnet.cli import main

    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(mode)
    if options[-1] == "TOKEN":
        options = [*options[:-1], "--worklist-token-file", str(token)]
    command = ["diagnet", "listen", str(tmp_path), "--forward", "a:1:B", "--queue", str(tmp_path / "q"), "--worklist"]
    monkeypatch.setattr(sys, "argv", [*command, *options])
    with pytest.raises(SystemExit, match=str(code)):
        main()
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert text in said
    assert TOKEN not in said


def test_no_worklist_by_default():
    assert Tasks().worklist == ""
