"""The queue and the worker, without a network: every step may be cut short."""

import json
import os
import threading
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

import shutil

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from clinic_parts import BOX, CANARY, Crash, crash_at, mammogram, marks
from diagnet.clinic import queue as queue_module
from diagnet.clinic import worker as worker_module
from diagnet.clinic.privacy import Pseudonyms
from diagnet.clinic.queue import Queue
from diagnet.clinic.worker import Worker, WorkerSettings
from diagnet.errors import DataError, NetworkError, NotTakenError, RunFolderError
from diagnet.inference.assessment import Policy, assess
from diagnet.inference.model import load_model
from diagnet.inference.predictive_value import HeldOut
from diagnet.run.folder import read_json, write_json


class Sink:
    """A destination that remembers; `fail` is raised by the next sends."""

    def __init__(self, fail=None, crash_after=None):
        self.taken, self.fail, self.crash_after, self.questions = {}, fail, crash_after, 0

    def send(self, result):
        if self.fail is not None:
            raise self.fail
        uid = dcmread(result).SOPInstanceUID
        self.taken[uid] = self.taken.get(uid, 0) + 1
        if self.crash_after is not None and sum(self.taken.values()) == self.crash_after:
            raise Crash

    def has(self, result):
        self.questions += 1
        return dcmread(result).SOPInstanceUID in self.taken


@pytest.fixture(scope="module")
def model(finished_run):
    return load_model(finished_run, engine="torch")


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue", max_bytes=100_000_000).opened() as found:
        yield found


def put(queue, path, kind):
    received = queue.place("incoming") / path.name
    shutil.copy(path, received)
    queue.take(received, kind, dcmread(path).SOPInstanceUID)


def put_pair(queue, folder, seed=0, boxes=(BOX,), **elements):
    image = mammogram(folder / f"image-{seed}.dcm", seed, **elements)
    put(queue, image, "images")
    put(queue, marks(folder / f"marks-{seed}.dcm", image, boxes), "marks")
    return image


def names(queue, state):
    return sorted(path.name for path in queue.place(state).iterdir())


def done(queue):
    return [json.loads(path.read_text()) for path in queue.place("done").iterdir()]


def test_marks_wait_for_their_image_and_images_for_their_marks(queue, tmp_path, model):
    image = mammogram(tmp_path / "image.dcm")
    sink, told = Sink(), []
    worker = Worker(queue, model, sink, lambda *facts: told.append(facts))
    put(queue, marks(tmp_path / "marks.dcm", image), "marks")
    worker.score_ready()
    assert len(names(queue, "marks")) == 1
    put(queue, image, "images")
    worker.score_ready()
    assert not names(queue, "marks")
    worker.send_ready()
    assert len(sink.taken) == 3
    assert sink.questions == 0
    (record,) = done(queue)
    (expected,) = assess(model, image, [BOX])
    assert record["masses"][0]["malignancy"] == expected.malignancy
    assert record["masses"][0]["input_sha256"] == expected.input_sha256
    assert [what.split()[0] for what, _ in told] == ["scored", "sent"]
    assert names(queue, "scored")  # a second reader may mark it too
    put(queue, marks(tmp_path / "more.dcm", image, [(20.0, 30.0, 90.0, 100.0)]), "marks")
    worker.score_ready()
    worker.send_ready()
    assert len(done(queue)) == 2


def test_what_was_done_is_not_done_again(queue, tmp_path, model):
    sink = Sink()
    worker = Worker(queue, model, sink, lambda *_: None)
    image = put_pair(queue, tmp_path)
    for _ in range(2):
        worker.score_ready()
        worker.send_ready()
        put(queue, image, "images")
        put(queue, marks(tmp_path / "again.dcm", image), "marks")  # the same outlines in another report
    assert set(sink.taken.values()) == {1}
    assert len(done(queue)) == 1


@pytest.mark.parametrize("step", range(48))
def test_a_crash_at_any_step_loses_nothing_and_sends_nothing_twice(tmp_path, model, monkeypatch, step):
    sink = Sink()

    with Queue(tmp_path / "queue", max_bytes=100_000_000).opened() as queue:
        put_pair(queue, tmp_path, boxes=(BOX, (20.0, 30.0, 90.0, 100.0)))
    places = (
        (queue_module, "_flush"),
        (queue_module, "write_json"),
        (worker_module, "write_structured_report"),
        (worker_module, "write_json"),
        (Queue, "mark_file"),
        (Queue, "set_scored"),
        (Sink, "send"),
    )
    with crash_at(monkeypatch, step, places), Queue(tmp_path / "queue", max_bytes=100_000_000).opened() as queue:
        worker = Worker(queue, model, sink, lambda *_: None)
        worker.score_ready()
        worker.send_ready()
    with Queue(tmp_path / "queue", max_bytes=100_000_000).opened() as queue:
        worker = Worker(queue, model, sink, lambda *_: None)
        worker.score_ready()
        worker.send_ready()
        assert list(sink.taken.values()) == [1, 1, 1]
        assert len(done(queue)) == 1
        assert not names(queue, "outbox")
        assert not names(queue, "marks")


def test_results_wait_for_an_archive_that_is_away(queue, tmp_path, model):
    sink = Sink(fail=NetworkError("`--forward` must be a DICOM node that can be reached, got no association"))
    worker = Worker(queue, model, sink, lambda *_: None)
    put_pair(queue, tmp_path)
    worker.score_ready()
    with pytest.raises(NetworkError, match="that can be reached"):
        worker.send_ready()
    assert len(names(queue, "outbox")) == 1
    sink.fail = None
    worker.send_ready()
    assert list(sink.taken.values()) == [1, 1, 1]


def test_a_result_that_is_refused_does_not_hold_up_the_others(queue, tmp_path, model):
    first = put_pair(queue, tmp_path, 1)
    put_pair(queue, tmp_path, 2)
    study = dcmread(first).StudyInstanceUID

    class Picky(Sink):
        def send(self, result):
            if dcmread(result).StudyInstanceUID == study:
                raise NotTakenError("`--forward` must take what is sent, got the status 0xA700")
            super().send(result)

    worker = Worker(queue, model, Picky(), lambda *_: None)
    worker.score_ready()
    with pytest.raises(NotTakenError, match="0xA700"):
        worker.send_ready()
    assert len(done(queue)) == 1
    assert len(names(queue, "outbox")) == 1


def test_refused_images_get_a_report_with_the_reason(queue, tmp_path, model):
    put_pair(queue, tmp_path, PresentationIntentType="FOR PROCESSING")
    worker = Worker(queue, model, Sink(), lambda *_: None)
    worker.score_ready()
    (folder,) = queue.outbox()
    assert sorted(path.name for path in folder.glob("*.dcm")) == ["1-report.dcm", "3-presentation.dcm"]
    record = json.loads((folder / "record.json").read_text())
    assert record["masses"][0]["decision"] == "refused"
    assert "FOR PROCESSING in the file" in record["masses"][0]["reason"]
    allowed = Worker(queue, model, Sink(), lambda *_: None, policy=Policy(allow_for_processing=True))
    put_pair(queue, tmp_path, 1, PresentationIntentType="FOR PROCESSING")
    allowed.score_ready()
    assert len(list(queue.outbox()[-1].glob("*.dcm"))) == 3


@pytest.mark.parametrize("is_refused", [False, True])
def test_what_is_sent_is_what_was_asked_for(queue, tmp_path, model, monkeypatch, is_refused):
    pytest.importorskip(
        "matplotlib", reason="the extra is missing: no page. Fix: pip install diagnet-mammography[report]"
    )
    said = []
    monkeypatch.setattr("diagnet.clinic.result_page.page", lambda *drawn: said.append(drawn[-1]) or b"%PDF-")
    put_pair(queue, tmp_path, **({"PresentationIntentType": "FOR PROCESSING"} if is_refused else {}))
    scores, labels = np.linspace(0, 1, 40), np.arange(40) % 3 == 0
    held_out = HeldOut(scores, labels, np.arange(40), np.arange(40), ("",) * 40)
    settings = WorkerSettings(picture=False, presentation=False, segmentation=True, pdf=True)
    worker = Worker(queue, model, Sink(), lambda *_: None, settings=settings, held_out=held_out)
    worker.score_ready()
    (folder,) = queue.outbox()
    names = sorted(path.name for path in folder.glob("*.dcm"))
    report = dcmread(folder / "1-report.dcm")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    if is_refused:
        assert names == ["1-report.dcm", "5-page.dcm"]
        assert said == [[""]]
        assert len(study.ReferencedSeriesSequence) == 1
    else:
        assert names == ["1-report.dcm", "4-segmentation.dcm", "5-page.dcm"]
        assert said[0][0].startswith("Of 20 masses with scores like this one")
        assert len(study.ReferencedSeriesSequence) == 2
        mask = dcmread(folder / "4-segmentation.dcm").pixel_array
        assert mask.sum() == mask[60:116, 40:104].sum() == 56 * 64  # of BOX


def test_what_cannot_be_scored_is_kept_with_the_reason(queue, tmp_path, model):
    told = []
    worker = Worker(queue, model, Sink(), lambda *facts: told.append(facts))
    image = mammogram(tmp_path / "image.dcm")
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(marks(tmp_path / "marks.dcm", image).read_bytes()[:700])
    received = queue.place("incoming") / "bad.dcm"
    shutil.copy(bad, received)
    queue.take(received, "marks", "1.2.3")
    no_study = put_pair(queue, tmp_path, 2)
    path = queue.image(dcmread(no_study).SOPInstanceUID)
    dataset = dcmread(path)
    del dataset.StudyInstanceUID
    dataset.save_as(path)
    worker.score_ready()
    reasons = [json.loads(each.read_text())["reason"] for each in queue.place("failed").glob("*.json")]
    assert len(reasons) == 2
    assert any("`marks` must" in reason for reason in reasons)
    assert any("`StudyInstanceUID` must be a UID" in reason for reason in reasons)
    assert len(list(queue.place("failed").glob("*.dcm"))) == 2
    assert not names(queue, "marks")
    assert len(told) == 2
    assert CANARY not in str(told) + str(reasons)


def test_a_failure_is_told_once_and_tried_again_when_it_is_sent_again(queue, tmp_path, model):
    told = []
    worker = Worker(queue, model, Sink(), lambda *facts: told.append(facts))
    image = mammogram(tmp_path / "image.dcm")
    same = {keyword: dcmread(image).get(keyword) for keyword in ("PatientID", "StudyInstanceUID")}
    away = mammogram(tmp_path / "away.dcm", 1, **same)
    both = dcmread(marks(tmp_path / "marks.dcm", image))
    more = dcmread(marks(tmp_path / "more.dcm", away))
    both.ContentSequence.extend(more.ContentSequence)  # marks on two images, one of which has not come
    both.save_as(tmp_path / "both.dcm")
    broken = dcmread(image)
    del broken.StudyInstanceUID
    broken.save_as(tmp_path / "broken.dcm")
    put(queue, tmp_path / "broken.dcm", "images")
    put(queue, tmp_path / "both.dcm", "marks")
    for _ in range(3):
        worker.score_ready()
    assert len(told) == 1
    queue.image(dcmread(image).SOPInstanceUID).unlink()  # another one of the same UID would not be taken
    put(queue, image, "images")
    put(queue, away, "images")
    worker.score_ready()
    assert len(queue.outbox()) == 1
    assert len(names(queue, "failed")) == 2  # the marks and the reason
    put(queue, tmp_path / "both.dcm", "marks")
    worker.score_ready()
    assert len(queue.outbox()) == 2
    assert [name[-4:] for name in names(queue, "failed")] == [".dcm"]


def test_an_unexpected_fault_in_one_object_does_not_stop_the_others(queue, tmp_path, model, monkeypatch):
    put_pair(queue, tmp_path, 1)
    put_pair(queue, tmp_path, 2)
    worker = Worker(queue, model, Sink(), lambda *_: None)
    calls = iter(range(9))
    whole = worker_module.write_structured_report

    def faulty(*arguments):
        if next(calls) == 0:
            raise ZeroDivisionError(CANARY)
        return whole(*arguments)

    monkeypatch.setattr(worker_module, "write_structured_report", faulty)
    worker.score_ready()
    assert len(queue.outbox()) == 1
    (failed,) = queue.place("failed").glob("*.json")
    assert json.loads(failed.read_text())["reason"] == "unexpected ZeroDivisionError"


def test_a_full_disk_makes_the_worker_wait(queue, tmp_path, model, monkeypatch):
    put_pair(queue, tmp_path)
    worker = Worker(queue, model, Sink(), lambda *_: None)

    def full(*_):
        raise RunFolderError("`out` must be writable, got: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "write_structured_report", full)
        with pytest.raises(RunFolderError, match="No space left"):
            worker.score_ready()
    assert len(names(queue, "marks")) == 1
    assert not names(queue, "failed")
    worker.score_ready()
    assert len(queue.outbox()) == 1


def test_what_waits_too_long_goes_and_is_told(queue, tmp_path, model):
    told = []
    image, alone = mammogram(tmp_path / "image.dcm"), mammogram(tmp_path / "alone.dcm", 1)
    put(queue, marks(tmp_path / "marks.dcm", image), "marks")
    put(queue, alone, "images")
    for state in ("marks", "images"):
        for path in queue.place(state).iterdir():
            os.utime(path, (1, 1))
    settings = WorkerSettings(keep_hours=1.0)
    worker = Worker(queue, model, Sink(), lambda *facts: told.append(facts), settings=settings)
    worker.score_ready()
    assert not names(queue, "images")
    assert len(names(queue, "failed")) == 2
    assert len(told) == 2


def test_scored_images_make_room(tmp_path, model):
    with Queue(tmp_path / "queue", max_bytes=700_000).opened() as queue:
        worker = Worker(queue, model, Sink(), lambda *_: None)
        put_pair(queue, tmp_path, 1)
        worker.score_ready()
        worker.send_ready()
        assert names(queue, "scored")
        assert queue.has_room(600_000)
        assert names(queue, "scored")
        assert queue.has_room(650_000)
        assert not names(queue, "scored")
        assert not queue.has_room(800_000)


def test_files_that_go_meanwhile_do_no_harm(queue):
    """Results leave while an object asks for room."""
    stop, faults = threading.Event(), []

    def churn():
        number = 0
        while not stop.is_set():
            folder = queue.place("outbox") / f"job{number % 7}"
            folder.mkdir()
            for name in ("a.dcm", "b.dcm"):
                (folder / name).write_bytes(b"x")
                (queue.place("incoming") / f"{number}{name}").write_bytes(b"x")
            for name in ("a.dcm", "b.dcm"):
                (queue.place("incoming") / f"{number}{name}").unlink()
            shutil.rmtree(folder)
            number += 1

    def ask():
        try:
            for _ in range(400):
                queue.has_room(10)
                queue.sweep()
                queue.outbox()
        except OSError as error:
            faults.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    ask()
    stop.set()
    thread.join()
    assert faults == []


def test_one_listener_has_a_queue_and_nobody_else_may_look(queue):
    with (
        pytest.raises(RunFolderError, match=r"`--queue` must belong to one listener"),
        Queue(queue.folder, max_bytes=1).opened(),
    ):
        pass
    assert queue.folder.stat().st_mode & 0o777 == 0o700
    assert (queue.folder / "key").stat().st_mode & 0o777 == 0o600


def test_file_names_and_records_do_not_tell_of_the_patient(queue, tmp_path, model):
    image = put_pair(queue, tmp_path)
    worker = Worker(queue, model, Sink(), lambda *_: None)
    worker.score_ready()
    worker.send_ready()
    header = dcmread(image)
    kept = "".join(str(path.relative_to(queue.folder)) for path in queue.folder.rglob("*")) + json.dumps(done(queue))
    for secret in (CANARY, header.SOPInstanceUID, header.StudyInstanceUID, "19600102", "ACC7"):
        assert secret not in kept
    assert done(queue)[0]["patient"] == queue.pseudonyms.of(header.PatientID)


def test_a_keyed_hash_needs_its_key(tmp_path):
    first, again = Pseudonyms.from_file(tmp_path / "a" / "key"), Pseudonyms.from_file(tmp_path / "a" / "key")
    other = Pseudonyms.from_file(tmp_path / "b" / "key")
    assert first.of("P1") == again.of("P1") != other.of("P1")
    assert first.of("P1") != first.of("P2")
    assert first.of("P1", "hospital") != first.of("P1")
    assert first.of("") == ""
    assert len(first.of("P1")) == 32
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(DataError, match=r"`key` must hold at least 32 bytes, got 3"):
        Pseudonyms.from_file(tmp_path / "short")
    with pytest.raises(DataError, match=r"`key` must be a readable, writable file"):
        Pseudonyms.from_file(tmp_path)


def test_a_file_is_flushed_before_it_takes_its_place_and_the_folders_after_it(queue, monkeypatch):
    received = queue.place("incoming") / "image.dcm"
    received.write_bytes(b"pixels")
    known = {received.stat().st_ino: "the file"}
    known |= {queue.place(state).stat().st_ino: state for state in ("incoming", "images")}
    done, flush, replace = [], os.fsync, Path.replace

    def flushed(handle):
        done.append(f"flush {known[os.fstat(handle).st_ino]}")
        flush(handle)

    def replaced(path, target):
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    queue.take(received, "images", "1.2.3")
    assert done[:2] == ["flush the file", "rename"]
    assert sorted(done[2:]) == ["flush images", "flush incoming"]
    assert queue.image("1.2.3").read_bytes() == b"pixels"


def test_the_longest_waiting_scored_image_makes_room_and_no_more_than_needed(tmp_path):
    with Queue(tmp_path / "queue", max_bytes=10_000).opened() as queue:
        for uid, age in (("1.1", 20), ("1.2", 30), ("1.3", 10)):
            path = queue.place("scored") / f"{queue.name(uid)}.dcm"
            path.write_bytes(bytes(3000))
            os.utime(path, (1_000_000 - age, 1_000_000 - age))
        assert queue.has_room(3000)
        assert [queue.image(uid) is not None for uid in ("1.1", "1.2", "1.3")] == [True, False, True]


@settings(deadline=None)  # it writes files
@given(st.dictionaries(st.text(), st.text()))
@example({"reason": "a\r\u2028\x7f\U0001f600"})
def test_records_of_any_text_are_read_back(tmp_path_factory, record):
    with Queue(tmp_path_factory.mktemp("any") / "queue", max_bytes=1000).opened() as queue:
        queue.set_failed("a", record)
        assert read_json(queue.place("failed") / "a.json") == record
        folder = queue.place("outbox") / "b"
        folder.mkdir()
        write_json(folder / "record.json", record)
        queue.set_done(folder)
        assert done(queue) == [record]
