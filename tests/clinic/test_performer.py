"""Workitems of a worklist, from the search to their end, against a strict worklist of our own (worklist_server.py)."""

import os
import threading
from contextlib import contextmanager

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

import shutil

from pydicom import dcmread
from pydicom.uid import generate_uid

from clinic_parts import BOX, CANARY, Archive, Listening, Orthanc, crash_at, free_port, mammogram, marks, wait_until
from diagnet.clinic import performer as performer_module
from diagnet.clinic import worker as worker_module
from diagnet.clinic.forward import WebArchive
from diagnet.clinic.performer import Performer, PerformerSettings
from diagnet.clinic.queue import Queue
from diagnet.clinic.worker import Worker, WorkerSettings
from diagnet.clinic.workitem import Code
from diagnet.clinic.worklist import Worklist
from diagnet.errors import DiagNetError, NetworkError
from diagnet.inference.model import load_model
from worklist_server import CODE, STATION, WorklistServer, value

QUICK = {"poll_seconds": 1e-6, "step_seconds": 0.05, "code": Code.parse(f"{CODE[0]}^{CODE[1]}")}


class Sink:
    def __init__(self):
        self.taken = {}

    def send(self, result):
        uid = str(dcmread(result).SOPInstanceUID)
        self.taken[uid] = self.taken.get(uid, 0) + 1

    def has(self, result):
        return str(dcmread(result).SOPInstanceUID) in self.taken


@pytest.fixture(scope="module")
def model(finished_run):
    return load_model(finished_run, engine="torch")


@pytest.fixture
def server():
    found = WorklistServer()
    yield found
    found.close()


@contextmanager
def clinic(folder, model, server, sink, told=None, **settings):
    """A queue with its worker and its performer; their steps are the test's."""
    tell = (lambda *_: None) if told is None else (lambda *facts: told.append(" ".join(facts)))
    with Queue(folder, max_bytes=100_000_000).opened() as queue:
        worker = Worker(queue, model, sink, tell, settings=WorkerSettings(picture=False, notes=True))
        worklist = Worklist(server.url)
        yield Performer(queue, worklist, worker, "ARCHIVE", tell, PerformerSettings(**(QUICK | settings)))


def work(performer, times=4):
    for _ in range(times):
        performer.step()
        performer.worker.score_ready()
        performer.worker.send_ready()


def pair(folder, seed=0, boxes=(BOX,), **elements):
    image = mammogram(folder / f"image-{seed}.dcm", seed, **elements)
    return [image, marks(folder / f"marks-{seed}.dcm", image, boxes)]


def put(performer, path, kind):
    received = performer.queue.place("incoming") / path.name
    shutil.copy(path, received)
    assert performer.queue.take(received, kind, dcmread(path).SOPInstanceUID)


def left(performer, state="workitems"):
    return sorted(path.name for path in performer.queue.place(state).iterdir())


def test_a_workitem_is_claimed_scored_and_completed_with_its_outputs(tmp_path, model, server):
    uid, sink, told = server.add(pair(tmp_path)), Sink(), []
    other = server.add(pair(tmp_path, 1), readiness="INCOMPLETE")
    with clinic(tmp_path / "queue", model, server, sink, told, station=Code.parse(STATION[0])) as performer:
        work(performer)
        assert left(performer) == []
    assert server.history == [(uid, "IN PROGRESS"), (uid, "COMPLETED")]
    assert server.state(other) == "SCHEDULED"
    assert server.faults == []
    assert len(sink.taken) == 2
    assert server.outputs(uid) == dict.fromkeys(sink.taken, "ARCHIVE")
    assert value(server.performed(uid)["00404019"]["Value"][0], "00080100") == CODE[0]
    assert value(server.performed(uid)["00404028"]["Value"][0], "00080100") == STATION[0]
    said = "\n".join(told)
    assert "claimed a workitem" in said
    assert "ended a workitem: COMPLETED, 2 results" in said
    assert CANARY not in said
    assert not any(each in said for each in (uid, *server.objects))


@pytest.mark.parametrize("are_scored", [False, True], ids=["waiting", "scored before"])
def test_what_the_queue_has_is_not_fetched(tmp_path, model, server, are_scored):
    paths, sink = pair(tmp_path), Sink()
    with clinic(tmp_path / "queue", model, server, sink) as performer:
        for path, kind in zip(paths, ("images", "marks"), strict=True):
            put(performer, path, kind)
        if are_scored:
            work(performer)
        uid = server.add(paths)
        work(performer)
    assert server.state(uid) == "COMPLETED"
    assert set(server.outputs(uid)) == set(sink.taken)
    assert set(sink.taken.values()) == {1}
    assert not any(path.startswith("/studies") for _, path in server.asked)


def test_inputs_without_an_address_come_by_c_store(tmp_path, model, server):
    paths = pair(tmp_path)
    uid = server.add(paths, by_address=False)
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        work(performer)
        assert server.state(uid) == "IN PROGRESS"
        for path, kind in zip(paths, ("images", "marks"), strict=True):
            put(performer, path, kind)
        work(performer)
    assert server.state(uid) == "COMPLETED"
    assert len(server.outputs(uid)) == 2


def no_marks(folder, server):
    return server.add(pair(folder)[:1])


def raw_image(folder, server):
    return server.add(pair(folder, PresentationIntentType="FOR PROCESSING"))


def absent(folder, server):
    uid = server.add(pair(folder))
    server.objects.clear()
    return uid


def another_object(folder, server):
    uid = server.add(pair(folder))
    server.objects = dict.fromkeys(server.objects, pair(folder, 5)[0])
    return uid


def another_patient(folder, server):
    paths = pair(folder)
    dataset = dcmread(paths[1])
    dataset.PatientID = "somebody else"
    dataset.save_as(paths[1])
    return server.add(paths)


def another_study(folder, server):
    uid = server.add(pair(folder))
    for group in server.items[uid]["00404021"]["Value"]:
        group["0020000D"]["Value"] = [generate_uid()]
    server.answers["GET /studies/.*"] = lambda handler: handler.say(
        *handler._instance(
            next(
                f"/studies/1/series/1/instances/{each}" for each in server.objects if handler.path.endswith(f"/{each}")
            )
        )
    )
    return uid


def no_dicom(folder, server):
    uid = server.add(pair(folder))
    server.answers["GET /studies/.*"] = lambda handler: handler.say(200, b"<html>", "text/html")
    return uid


@pytest.mark.parametrize(
    ("make", "code", "why"),
    [
        (no_marks, "110523", "`inputs` must hold marks, got none"),
        (raw_image, "110513", "for processing"),
        (absent, "110523", "HTTP status 404"),
        (another_object, "110521", "must be the one that was asked for"),
        (another_patient, "110513", "must be of the patient of their image"),
        (another_study, "110521", "must be of the studies"),
        (no_dicom, "110521", "multipart/related"),
    ],
)
def test_what_cannot_be_scored_is_canceled_with_the_reason(tmp_path, model, server, make, code, why):
    uid = make(tmp_path, server)
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        work(performer)
        assert left(performer) == []
        assert left(performer, "incoming") == []
    assert server.history == [(uid, "IN PROGRESS"), (uid, "CANCELED")]
    found, said = server.why(uid)
    assert found == code
    assert why in said.lower() or why in said
    assert CANARY not in said


def test_marks_that_failed_before_are_tried_again(tmp_path, model, server):
    image, outlines = pair(tmp_path)
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        put(performer, outlines, "marks")
        work(performer, 1)
        (path,) = performer.queue.waiting_marks()
        performer.worker._fail_marks(path, "`image` must come to its marks, got none in the time that they are kept")
        uid = server.add([image, outlines])
        work(performer)
    assert server.state(uid) == "COMPLETED"


def test_marks_that_were_mended_are_scored(tmp_path, model, server):
    image, outlines = pair(tmp_path)
    mended = outlines.read_bytes()
    dataset = dcmread(outlines)
    dataset.PatientID = "somebody else"
    dataset.save_as(outlines)
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        put(performer, image, "images")
        put(performer, outlines, "marks")
        work(performer, 1)
        assert performer.queue.waiting_marks() == []
        outlines.write_bytes(mended)
        uid = server.add([image, outlines])
        work(performer)
    assert server.state(uid) == "COMPLETED"


def test_results_that_never_come_are_canceled_in_time(tmp_path, model, server):
    uid = server.add(pair(tmp_path), by_address=False)
    with clinic(tmp_path / "queue", model, server, Sink(), wait_hours=1.0) as performer:
        work(performer)
        (path,) = performer.queue.place("workitems").iterdir()
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 3500))
        work(performer)
        assert server.state(uid) == "IN PROGRESS"
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 200))
        work(performer)
    assert server.why(uid)[0] == "110533"


def test_somebody_who_is_faster_keeps_it(tmp_path, model, server):
    uid, told = server.add(pair(tmp_path)), []

    def claim_first(method, path, _):
        if (method, path) == ("GET", f"/workitems/{uid}") and server.state(uid) == "SCHEDULED":
            server.items[uid]["00741000"]["Value"] = ["IN PROGRESS"]
            server.transactions[uid] = generate_uid()

    server.after = claim_first
    with clinic(tmp_path / "queue", model, server, Sink(), told) as performer:
        work(performer)
        assert left(performer) == []
    assert "left a workitem to somebody who was faster" in "\n".join(told)
    assert server.history == []
    assert not any(path.startswith("/studies") for _, path in server.asked)


def test_two_performers_do_no_workitem_twice(tmp_path, model, server):
    uids = [server.add(pair(tmp_path, seed)) for seed in range(6)]
    sinks = Sink(), Sink()
    barrier = threading.Barrier(2, timeout=20)

    def perform(number):
        with clinic(tmp_path / f"queue-{number}", model, server, sinks[number]) as performer:
            barrier.wait()
            work(performer)

    threads = [threading.Thread(target=perform, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(server.history) == sorted((uid, state) for uid in uids for state in ("IN PROGRESS", "COMPLETED"))
    assert not set(sinks[0].taken) & set(sinks[1].taken)
    assert len(sinks[0].taken) + len(sinks[1].taken) == 12


@pytest.mark.parametrize("step", range(30))
def test_a_crash_at_any_step_goes_on(tmp_path, model, server, monkeypatch, step):
    uid, sink = server.add(pair(tmp_path)), Sink()

    places = (
        (performer_module, "write_json"),
        (Worklist, "change"),
        (Worklist, "update"),
        (Worklist, "fetch"),
        (Queue, "take"),
        (Queue, "note"),
        (Queue, "set_done"),
        (worker_module, "read_marks"),
    )
    with crash_at(monkeypatch, step, places), clinic(tmp_path / "queue", model, server, sink) as performer:
        work(performer)
    with clinic(tmp_path / "queue", model, server, sink) as performer:
        work(performer)
        assert left(performer) == []
    assert server.history == [(uid, "IN PROGRESS"), (uid, "COMPLETED")]
    assert set(server.outputs(uid)) == set(sink.taken)
    assert list(sink.taken.values()) == [1, 1]


def test_kill_9_goes_on(finished_run, tmp_path, server):
    archive = Archive()
    options = ("--worklist", server.url, "--worklist-code", CODE[0], "--worklist-seconds", "0.2", "--no-picture")
    node = Listening(finished_run, tmp_path / "listen", archive.address, *options)
    states, killed = iter(("IN PROGRESS", "COMPLETED")), threading.Event()
    due = [next(states)]

    def kill(_, path, status):
        if path.endswith("/state") and status == 200 and server.history[-1][1] == due[0]:
            due[0] = next(states, "")
            node.kill()  # the worklist has it; the performer never hears of it
            killed.set()

    server.after = kill
    uid = server.add(pair(tmp_path))
    try:
        for _ in range(2):
            node.start()
            assert killed.wait(60)
            killed.clear()
        node.start()
        wait_until(lambda: not list((node.folder / "queue" / "workitems").iterdir()), 30)
        assert any(each.startswith("ended a workitem: COMPLETED, 2 results") for each in node.events())
        log = node.log.read_text()
    finally:
        node.stop()
        archive.close()
    assert server.history == [(uid, "IN PROGRESS"), (uid, "COMPLETED")]
    assert set(server.outputs(uid)) == set(archive.taken)
    assert set(archive.taken.values()) == {1}
    assert CANARY not in log
    assert not any(each in log for each in (uid, *server.objects))


def test_inputs_come_from_orthanc_and_results_go_there(tmp_path, model, server):
    if shutil.which("Orthanc") is None or not Orthanc.PLUGIN.exists():
        pytest.skip("Orthanc is not there: not run. Fix: apt-get install orthanc orthanc-dicomweb")
    paths, orthanc = pair(tmp_path), Orthanc(tmp_path / "orthanc", free_port())
    try:
        for path in paths:
            orthanc.get("/instances", path.read_bytes())
        uid = server.add(paths, address=f"{orthanc.url}/dicom-web")
        archive = WebArchive(f"{orthanc.url}/dicom-web")
        with clinic(tmp_path / "queue", model, server, archive) as performer:
            performer.worklist = Worklist(server.url, fetch_from=[orthanc.url])
            performer.where = archive.url
            work(performer)
        outputs, there = server.outputs(uid), orthanc.instances()
        assert server.state(uid) == "COMPLETED"
        assert len(outputs) == 2
        assert set(outputs) <= set(there)
        for address in outputs.values():
            orthanc.get(address.removeprefix(orthanc.url) + "/metadata")
    finally:
        orthanc.close()


def test_a_worklist_that_is_away_is_asked_again(tmp_path, model, server):
    uid = server.add(pair(tmp_path))
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        for pattern in ("GET /workitems", f"PUT /workitems/{uid}/state", "GET /studies/.*", "POST .*"):
            server.answers = {pattern: lambda handler: handler.say(503)}
            for _ in range(2):
                with pytest.raises(NetworkError, match="got HTTP status 503"):
                    work(performer)
            performer.worker.score_ready()
            performer.worker.send_ready()
        server.answers = {}
        work(performer)
    assert server.history == [(uid, "IN PROGRESS"), (uid, "COMPLETED")]


def test_an_end_by_the_manager_is_taken(tmp_path, model, server):
    uid, told = server.add(pair(tmp_path)), []
    with clinic(tmp_path / "queue", model, server, Sink(), told) as performer:
        performer.step()
        server.items[uid]["00741000"]["Value"] = ["CANCELED"]
        work(performer)
        assert left(performer) == []
    assert "ended a workitem: it is CANCELED without us" in "\n".join(told)


def test_a_worklist_that_does_not_know_our_filters_gives_no_other_work(tmp_path, model, server):
    uid, told = server.add(pair(tmp_path)), []
    server.answers["GET /workitems"] = lambda handler: handler.say(*handler._search("limit=100"))
    with clinic(tmp_path / "queue", model, server, Sink(), told, code=Code.parse(f"{CODE[0]}^OTHER")) as performer:
        work(performer)
    assert server.state(uid) == "SCHEDULED"
    assert sum("passed over a workitem: it is not scheduled for us" in each for each in told) == 1


def test_codes_of_any_length_are_said_again_and_logged_nowhere(tmp_path, model, server, caplog):
    uid = server.add(pair(tmp_path))
    (code,) = server.items[uid]["00404018"]["Value"]
    code["00080104"]["Value"] = [f"{CANARY} " * 20]
    code["00080102"]["Value"] = ["LONGER-THAN-ANY-SCHEME"]
    with clinic(tmp_path / "queue", model, server, Sink(), code=None, station=Code.parse(STATION[0])) as performer:
        work(performer)
    assert server.state(uid) == "COMPLETED"
    assert server.performed(uid)["00404019"]["Value"][0]["00080102"]["Value"] == ["LONGER-THAN-ANY-SCHEME"]
    assert CANARY not in caplog.text


def test_one_bad_workitem_does_not_hold_up_the_next(tmp_path, model, server):
    bad, good = server.add(pair(tmp_path)), server.add(pair(tmp_path, 1))
    server.items[bad]["00404021"]["Value"][0]["00081199"]["Value"][0]["00081155"]["Value"] = ["../../" + CANARY]
    told = []
    with clinic(tmp_path / "queue", model, server, Sink(), told) as performer:
        work(performer)
    assert (server.state(bad), server.state(good)) == ("SCHEDULED", "COMPLETED")
    assert "passed over a workitem: `workitem` must name its inputs by UIDs" in "\n".join(told)
    assert CANARY not in "\n".join(told)


def test_only_so_many_are_claimed_at_a_time(tmp_path, model, server):
    for seed in range(3):
        server.add(pair(tmp_path, seed), by_address=False)
    with clinic(tmp_path / "queue", model, server, Sink(), max_claimed=2) as performer:
        performer.step()
        performer.step()
    assert len(server.history) == 2


def test_a_full_queue_waits(tmp_path, model, server):
    uid = server.add(pair(tmp_path))
    with clinic(tmp_path / "queue", model, server, Sink()) as performer:
        performer.queue.max_bytes = 1000
        with pytest.raises(DiagNetError, match="`--queue` must have room"):
            work(performer)
        assert left(performer, "incoming") == []
        performer.queue.max_bytes = 100_000_000
        work(performer)
    assert server.state(uid) == "COMPLETED"
