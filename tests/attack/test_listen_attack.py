"""What a silent, slow, half-way or lying sender does to `diagnet listen`, and a full disk, and a clock that jumps."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

from pydicom import dcmread
from pydicom.uid import CTImageStorage, DigitalMammographyXRayImageStorageForPresentation, EnhancedSRStorage

import hostile_senders as hostile
from clinic_parts import BOX, mammogram, marks, wait_until
from diagnet.cli.listen import Trust, _exposure
from diagnet.clinic import queue as queue_module
from diagnet.clinic import worker as worker_module
from diagnet.clinic.connections import Connection, Deadlines, Places
from diagnet.clinic.listener import Incoming, Listener, ListenerSettings, server_tls
from diagnet.clinic.marks import read_marks
from diagnet.clinic.privacy import Pseudonyms
from diagnet.clinic.queue import Queue
from diagnet.clinic.worker import Worker, WorkerSettings
from diagnet.errors import RefusedInputError
from diagnet.inference.assessment import Policy

# pynetdicom, as a sender, leaves a socket to the garbage collector where the listener closed it first.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WAIT = 8.0  # seconds of a busy machine; benchmarks/attack.py holds an innocent sender's wait to 2 s
QUICK = {"beginning_seconds": 1.0, "pdu_seconds": 1.5, "timeout_seconds": 3.0}


@pytest.fixture
def told():
    return []


@pytest.fixture
def listen(tmp_path, told):
    """Start a listener; a test that leaves a thread's traceback fails, as pytest turns it into an error."""
    running = []

    def start(tls=None, queue_settings=None, **settings):
        queue = Queue(tmp_path / "queue", **{"max_bytes": 100_000_000} | (queue_settings or {})).opened()
        taken = queue.__enter__()
        settings = ListenerSettings(port=0, **settings)
        listener = Listener(taken, lambda: None, lambda what, _: told.append(what), settings, tls).running()
        running.extend((listener, queue))
        return listener.__enter__()

    yield start
    for each in running:
        each.__exit__(None, None, None)


def names(queue, state):
    return sorted(path.name for path in queue.place(state).iterdir())


def close(connections):
    for each in connections:
        each.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there: TLS was not tested")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-x509"]
    command += ["-days", "2", "-keyout", str(key), "-out", str(cert), "-subj", "/CN=t", "-addext"]
    subprocess.run([*command, "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


def test_silent_connections_hold_up_neither_tls_nor_the_end(listen, certificate):
    node = listen(tls=server_tls(*certificate, None))
    connections = hostile.silent(node.port, 20)
    assert hostile.echo(node.port, context=hostile.tls_client(certificate[0])) < WAIT
    close(connections)


def test_a_connection_whose_tls_only_begins_is_not_taken_for_a_closed_one(listen, certificate):
    class Slow(ssl.SSLContext):
        """Connections are tidied up while one of them is wrapped."""

        def wrap_socket(self, plain, **settings):
            wrapped = super().wrap_socket(plain, **settings)
            tidying = threading.Thread(target=node.places.tidy)
            tidying.start()
            tidying.join(0.5)  # it may have to wait until this is over
            return wrapped

    context = Slow(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    node = listen(tls=context)
    assert hostile.echo(node.port, context=hostile.tls_client(certificate[0])) < WAIT


def test_the_listener_ends_at_once_while_somebody_is_silent(tmp_path, certificate):
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        settings = ListenerSettings(port=0)
        listener = Listener(queue, lambda: None, lambda *_: None, settings, server_tls(*certificate, None))
        with listener.running():
            connections = hostile.silent(listener.port, 5)
            time.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < WAIT
    close(connections)


def test_the_listener_ends_at_once_while_associations_are_idle_or_half_way(tmp_path):
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        with Listener(queue, lambda: None, lambda *_: None, ListenerSettings(port=0)).running() as listener:
            held = hostile.idle(listener.port, 4)
            hostile.half_pdu(held[:2])
            time.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < WAIT
    for each in held:
        each.abort()


@pytest.mark.parametrize(("builder", "n"), [(hostile.silent, 70), (hostile.half_request, 20)])
def test_connections_that_only_begin_take_no_place_and_go_in_time(listen, builder, n):
    # A busy machine has time to begin them all before the first one goes.
    node = listen(max_associations=2, beginning_seconds=12.0, pdu_seconds=12.0)
    connections = builder(node.port, n)  # 70 are more than may begin at one time
    wait_until(lambda: sum(not each.is_cut for each in node.places.connections) >= min(n, 64), 30)
    assert hostile.echo(node.port) < WAIT
    wait_until(lambda: not node.places.connections, 60)
    close(connections)


@pytest.mark.parametrize("attack", ["idle", "half a PDU", "a byte from time to time"])
def test_idle_and_slow_associations_give_their_places(listen, told, attack):
    # They may be asked after one second and end by themselves after six: a busy machine asks late.
    node = listen(max_associations=3, beginning_seconds=1.0, pdu_seconds=6.0, timeout_seconds=6.0)
    held = hostile.idle(node.port, 3)
    assert all(each.is_established for each in held)
    if attack == "half a PDU":
        hostile.half_pdu(held)
    if attack == "a byte from time to time":
        with hostile.trickling(held):
            assert hostile.echo(node.port) < WAIT
    else:
        assert hostile.echo(node.port) < WAIT
    assert "ended a silent or slow association: another one needed its place" in told
    wait_until(lambda: not node.places.connections, 30)  # the others, without being asked
    for each in held:
        each.abort()


@pytest.mark.parametrize(
    ("heard", "n_bytes", "is_served", "keeps"),
    [(0.1, 10_000_000, False, True), (2.0, 10_000_000, False, False), (0.1, 100, False, False), (2.0, 100, True, True)],
    ids=["it sends", "it is silent", "it sends a byte from time to time", "it waits for us"],
)
def test_who_sends_or_waits_for_us_keeps_its_place(told, heard, n_bytes, is_served, keeps):
    rejected = []
    association = SimpleNamespace(is_alive=lambda: True, is_released=False, is_aborted=False)
    late = SimpleNamespace(acse=SimpleNamespace(send_reject=lambda *_: rejected.append(1)), kill=lambda: None)
    places = Places(1, Deadlines(5.0, 10.0, 60.0), lambda what, _: told.append(what), lambda _: None)
    now = time.monotonic()
    with socket.socket() as first, socket.socket() as second:
        holder = Connection(first, now - 4, association, has_place=True, is_served=is_served, since=now - 3.0)
        holder.heard, holder.n_bytes = now - heard, n_bytes
        places.connections = [holder, Connection(second, now, late)]
        places.requested(SimpleNamespace(assoc=late))
        assert holder.is_cut is not keeps
        assert rejected == [1] * keeps
        assert places.connections[1].has_place is not keeps


def test_a_pdu_of_gigabytes_is_not_read(listen):
    node = listen()
    (association,) = hostile.idle(node.port, 1)
    assert not hostile.huge_pdu(association)
    assert hostile.echo(node.port) < WAIT
    association.abort()


def test_what_is_no_dicom_ends_its_own_association_only(listen, told):
    node = listen()
    (association,) = hostile.idle(node.port, 1)
    hostile.malformed_pdu(association)
    wait_until(lambda: any("in what it sent" in each for each in told), 30)
    assert hostile.echo(node.port) < WAIT
    association.abort()


def test_a_full_disk_is_answered_and_what_is_sent_later_is_taken(listen, tmp_path, monkeypatch):
    node, image = listen(queue_settings={"keep_free_bytes": 1_000_000}), mammogram(tmp_path / "image.dcm")
    with monkeypatch.context() as patch:
        patch.setattr(queue_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=999_999))
        assert hostile.store(node.port, image) == 0xA700
    assert names(node.queue, "incoming") == []
    assert hostile.store(node.port, image) == 0


def test_a_disk_that_fills_while_an_object_comes_is_answered(listen, tmp_path, monkeypatch):
    node, image = listen(), mammogram(tmp_path / "image.dcm")
    opened = Incoming.__init__

    def begin(self, *arguments):
        opened(self, *arguments)
        self._to.close()
        self._to = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 -- closed by the listener

    with monkeypatch.context() as patch:
        patch.setattr(Incoming, "__init__", begin)
        assert hostile.store(node.port, image) == 0xA700
        assert hostile.echo(node.port) < WAIT
    assert names(node.queue, "incoming") == []
    assert hostile.store(node.port, image) == 0


def test_a_growing_object_asks_for_room_again(tmp_path):
    answers = iter([True, False])
    incoming = Incoming(tmp_path, lambda: next(answers))
    incoming.write(bytes(15_000_000))
    assert not incoming.is_refused
    incoming.write(bytes(2_000_000))
    assert incoming.is_refused
    assert list(tmp_path.iterdir()) == []


def test_half_objects_leave_nothing(listen):
    node = listen()
    hostile.half_object(node.port, DigitalMammographyXRayImageStorageForPresentation, 300_000, n=4)
    wait_until(lambda: names(node.queue, "incoming") == [], 30)


def test_leftovers_go_at_the_start_and_by_their_age(tmp_path):
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        pass
    left = [queue.place(state) / name for state in ("outbox", "failed", "done") for name in (".a.tmp",)]
    left += [queue.place("incoming") / "b.dcm", queue.folder / ".key.x.tmp"]
    for path in left:
        path.write_bytes(b"x")
        os.utime(path, (2e9, 2e9))  # the clock was wrong
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        assert not any(path.exists() for path in left)
        left[0].write_bytes(b"x")
        queue.sweep()
        assert left[0].exists()
        os.utime(left[0], (1, 1))
        queue.sweep()
        assert not left[0].exists()


def test_a_full_failed_folder_is_told_to_who_sends_marks(listen, tmp_path, told):
    node = listen(queue_settings={"max_failed": 2})
    image = mammogram(tmp_path / "image.dcm")
    sent = marks(tmp_path / "marks.dcm", image)
    for name in ("a", "b"):
        node.queue.set_failed(name, {"reason": "a test"})
    assert hostile.store(node.port, sent) == 0xA700
    assert any("`failed` in the queue is full" in each for each in told)
    assert hostile.store(node.port, image) == 0  # an image never lies there
    (node.queue.place("failed") / "a.json").unlink()
    assert hostile.store(node.port, sent) == 0


def test_a_large_failed_folder_is_full_too(tmp_path):
    with Queue(tmp_path / "queue", max_bytes=1, max_failed_bytes=100).opened() as queue:
        assert not queue.failed_is_full()
        (queue.place("failed") / "a.dcm").write_bytes(bytes(100))
        assert queue.failed_is_full()


@pytest.mark.parametrize("jump", [400 * 86400.0, -400 * 86400.0])
def test_a_clock_that_jumps_removes_nothing(tmp_path, monkeypatch, jump):
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(queue_module, "time", clock)
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        kept = [queue.place(state) / "a.dcm" for state in ("images", "marks", "scored", "failed")]
        for path in kept:
            path.write_bytes(b"x")
        clock.time = lambda: time.time() + jump
        worker_of(queue)._expire()
        assert all(path.exists() for path in kept)
        assert all(abs(path.stat().st_mtime - clock.time()) < 60 for path in kept)  # their ages are what they were
        ran = time.monotonic() + 169 * 3600
        clock.time, clock.monotonic = (lambda: time.time() + jump + 169 * 3600), (lambda: ran)
        assert queue.expired("images", 168 * 3600.0) == kept[:1]  # time in which it ran counts


def test_what_failed_is_kept_for_its_time(tmp_path, monkeypatch):
    began = time.monotonic()
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(queue_module, "time", clock)
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        queue.set_failed("a", {"reason": "a test"})
        for hours, left in ((719, ["a.json"]), (721, [])):
            clock.time = lambda hours=hours: time.time() + 3600 * hours
            clock.monotonic = lambda hours=hours: time.monotonic() + 3600 * hours
            worker_of(queue)._expire()
            assert names(queue, "failed") == left
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("bind", "cert", "n_notices"),
    [("127.0.0.1", None, 0), ("::1", None, 0), ("0.0.0.0", None, 1), ("0.0.0.0", Path("c"), 0)],  # noqa: S104
)
def test_an_address_that_others_reach_in_the_open_is_told(bind, cert, n_notices):
    notices = list(_exposure(bind, Trust(cert=cert)))
    assert len(notices) == n_notices
    assert not notices or "nothing is encrypted" in notices[0]


def test_time_in_which_no_listener_ran_does_not_count(tmp_path, monkeypatch):
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr(queue_module, "time", clock)
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        (queue.place("images") / "a.dcm").write_bytes(b"x")
    clock.time = lambda: time.time() + 1000 * 3600
    with Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        assert queue.expired("images", 168 * 3600.0) == []


def test_the_first_content_of_a_uid_stays(listen, tmp_path, told):
    node = listen()
    first, other = mammogram(tmp_path / "a.dcm"), mammogram(tmp_path / "b.dcm", 1)
    dataset = dcmread(other)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dcmread(first).SOPInstanceUID
    dataset.save_as(other)
    assert hostile.store(node.port, first) == 0
    kept = [path.read_bytes() for path in node.queue.place("images").iterdir()]
    assert hostile.store(node.port, other) == 0x0111
    assert "refused an object: another object with the same UID came before it" in told
    assert hostile.store(node.port, first) == 0  # the same again is success again
    assert [path.read_bytes() for path in node.queue.place("images").iterdir()] == kept
    assert names(node.queue, "incoming") == []


def test_a_lying_sop_class_and_another_title_are_refused(listen, tmp_path, told):
    node, image = listen(), mammogram(tmp_path / "image.dcm")
    assert hostile.store(node.port, image, negotiated=EnhancedSRStorage) == 0xA900
    assert hostile.store(node.port, image, negotiated=CTImageStorage) == "rejected" or names(node.queue, "images") == []
    assert hostile.store(node.port, image, title="OTHER") == "rejected"
    assert names(node.queue, "images") == names(node.queue, "marks") == []
    assert "refused an object: its SOP class is another one than agreed" in told


def test_another_title_is_taken_where_that_is_asked_for(listen, tmp_path):
    assert hostile.store(listen(any_title=True).port, mammogram(tmp_path / "image.dcm"), title="OTHER") == 0


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PatientID": "ANOTHER"}, "`marks` must be of the patient of their image, got another patient's."),
        ({"IssuerOfPatientID": "THERE"}, "`marks` must be of the patient of their image, got another patient's."),
        ({"StudyInstanceUID": "1.2.3"}, "`marks` must be of the study of their image, got another study's."),
    ],
)
def test_marks_of_another_patient_or_study_are_refused(tmp_path, elements, reason):
    whose = mammogram(tmp_path / "a.dcm", IssuerOfPatientID="HERE")
    found = read_marks(marks(tmp_path / "marks.dcm", whose))
    image = dcmread(whose)
    found.require_same(image)
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    with pytest.raises(RefusedInputError, match=reason):
        found.require_same(image)


def test_one_patients_marks_make_nothing_in_anothers_study(tmp_path, monkeypatch):
    whose, other = mammogram(tmp_path / "a.dcm"), mammogram(tmp_path / "b.dcm", 1)
    dataset = dcmread(other)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dcmread(whose).SOPInstanceUID
    dataset.save_as(other)
    monkeypatch.setattr(worker_module, "assess", lambda *_: pytest.fail("it was scored"))
    with Queue(tmp_path / "queue", max_bytes=10_000_000).opened() as queue:
        for path, kind in ((other, "images"), (marks(tmp_path / "marks.dcm", whose), "marks")):
            received = queue.place("incoming") / path.name
            shutil.copy(path, received)
            assert queue.take(received, kind, dcmread(path).SOPInstanceUID)
        worker_of(queue).score_ready()
        assert queue.outbox() == []
        (record,) = queue.place("failed").glob("*.json")
        assert "another patient's" in json.loads(record.read_text())["reason"]


def worker_of(queue):
    """A worker that needs no trained model, because it scores nothing."""
    worker = Worker.__new__(Worker)
    worker.queue, worker.model, worker.tell = queue, SimpleNamespace(sha256="a"), lambda *_: None
    worker.policy, worker.settings, worker._marks = Policy(), WorkerSettings(), {}
    worker._arrived, worker._scored, worker._stop = threading.Event(), threading.Event(), threading.Event()
    return worker


class Killed(BaseException):
    """The process ends here."""


def test_marks_that_end_the_program_are_tried_three_times(tmp_path, monkeypatch):
    image, tries = mammogram(tmp_path / "image.dcm"), []

    def kill(*_):
        tries.append(1)
        raise Killed

    monkeypatch.setattr(worker_module, "assess", kill)
    for number in range(5):
        with Queue(tmp_path / "queue", max_bytes=10_000_000).opened() as queue:
            if number == 0:
                for path, kind in ((image, "images"), (marks(tmp_path / "marks.dcm", image, [BOX]), "marks")):
                    received = queue.place("incoming") / path.name
                    shutil.copy(path, received)
                    queue.take(received, kind, dcmread(path).SOPInstanceUID)
            try:
                worker_of(queue).score_ready()
            except Killed:
                continue
    assert len(tries) == 3
    reasons = [json.loads(path.read_text())["reason"] for path in queue.place("failed").glob("*.json")]
    assert reasons == ["`marks` must not end the program, got 3 ends while they were worked on."]
    assert names(queue, "marks") == names(queue, "attempts") == []


def test_an_empty_key_is_made_anew(tmp_path):
    (tmp_path / "key").write_bytes(b"")
    said = []
    key = Pseudonyms.from_file(tmp_path / "key", said.append).key
    assert len(key) == 32
    assert Pseudonyms.from_file(tmp_path / "key").key == key
    assert len(said) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_leaves_no_half_of_a_key(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Exception, match="No space left on device"):
            Pseudonyms.from_file(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
