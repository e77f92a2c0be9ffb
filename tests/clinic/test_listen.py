"""`diagnet listen` as users run it: a process of its own, told by C-STORE, killed and started again."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")
pytest.importorskip("pynetdicom", reason="the extra is missing: not run. Fix: pip install 'diagnet-mammography[pacs]'")

from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless
from pynetdicom import AE

from clinic_parts import (
    BOX,
    CANARY,
    Archive,
    Listening,
    canaries,
    certificate,
    listening,
    mammogram,
    marks,
    send,
    wait_until,
)
from diagnet.cli import main
from diagnet.clinic.listener import Listener, ListenerSettings
from diagnet.clinic.queue import Queue
from diagnet.errors import NetworkError
from diagnet.inference.assessment import assess
from diagnet.inference.model import load_model
from hostile_senders import ENDS


@pytest.fixture
def archive():
    found = Archive()
    yield found
    found.close()


def pair(folder, seed, **elements):
    image = mammogram(folder / f"{CANARY}-image-{seed}.dcm", seed, **elements)
    return [image, marks(folder / f"{CANARY}-marks-{seed}.dcm", image)]


def test_kill_9_loses_nothing_and_sends_nothing_twice(finished_run, tmp_path, archive):
    node = Listening(finished_run, tmp_path / "listen", archive.address)
    kill_at = iter((1, 5, 9, 10_000))  # within a report's sending, between two results, late
    killed, due = threading.Event(), [next(kill_at)]
    free = threading.Event()  # while objects come, the archive keeps the listener waiting: it is killed after that

    def deliver(seed):
        free.clear()
        try:
            assert send(node.port, pair(tmp_path, seed)) == [0, 0]
        finally:
            free.set()

    def on_store(number):
        free.wait(60)
        if number == due[0]:
            node.kill()  # the archive has the object; the listener never hears of it
            due[0] = next(kill_at)
            killed.set()
        return 0

    archive.on_store = on_store
    try:
        node.start()
        for seed in range(3):
            deliver(seed)
            if seed == 0:
                assert killed.wait(60)
                node.start()
                killed.clear()
        assert killed.wait(60)
        node.start()
        killed.clear()
        deliver(3)
        node.kill()  # right after its promise
        wait_until(lambda: node.process.poll() is not None)
        node.start()
        assert killed.wait(60)
        node.start()
        wait_until(lambda: len(node.done()) == 4)
        wait_until(lambda: not list((node.folder / "queue" / "marks").iterdir()))  # the other thread lets go of them
        wait_until(lambda: not list((node.folder / "queue" / "outbox").iterdir()))
    finally:
        node.stop()
    assert len(archive.taken) == 12
    assert set(archive.taken.values()) == {1}


def test_scores_limits_and_silence(finished_run, tmp_path, archive):
    """One process for all that needs no restart, because a start takes seconds."""
    options = ["--allow", "MODALITY,OTHER", "--max-object-mb", "1", "--max-associations", "3"]
    model = load_model(finished_run, engine="torch")
    with listening(finished_run, tmp_path / "listen", archive.address, *options) as node:
        # Scores are those of `assess`, in any transfer syntax.
        syntaxes = {0: None, 1: RLELossless, 2: JPEG2000Lossless}
        expected = []
        for seed, syntax in syntaxes.items():
            paths = pair(tmp_path, seed, **canaries())
            if syntax is not None:
                dataset = dcmread(paths[0])
                dataset.compress(syntax, generate_instance_uid=False)
                dataset.save_as(paths[0])
            assert send(node.port, paths) == [0, 0]
            expected += [each.malignancy for each in assess(model, paths[0], [BOX])]
        wait_until(lambda: len(node.done()) == 3)
        found = [mass["malignancy"] for record in node.done() for mass in record["masses"]]
        assert sorted(found) == sorted(expected)
        report = archive.of_class("ComprehensiveSRStorage")[0]
        assert CANARY in str(report.PatientName)  # in the study of the patient, where it belongs

        # Who may send.
        assert send(node.port, paths, calling="STRANGER") == []
        entity = AE("OTHER")
        entity.add_requested_context("1.2.840.10008.1.1")
        held = [entity.associate("127.0.0.1", node.port, ae_title="DIAGNET", evt_handlers=ENDS) for _ in range(4)]
        assert [each.is_established for each in held] == [True, True, True, False]
        assert held[0].send_c_echo().Status == 0
        for each in held[:3]:
            each.release()

        # What is too large is aborted while it comes; what is broken is refused.
        large = mammogram(tmp_path / "large.dcm", 7)
        dataset = dcmread(large)
        dataset.add_new((0x0009, 0x0010), "LO", "DIAGNET TEST")
        dataset.add_new((0x0009, 0x1001), "OB", bytes(3_000_000))
        dataset.save_as(large)
        assert send(node.port, [large]) == [None]
        other = mammogram(tmp_path / "other.dcm", 8)
        bad = tmp_path / "bad.dcm"
        shutil.copy(pair(tmp_path, 9)[1], bad)
        bad.write_bytes(bad.read_bytes()[:-2000])
        dataset = dcmread(other)
        dataset.ViewPosition = dataset.Modality = CANARY
        dataset.PresentationIntentType = "FOR PROCESSING"
        dataset.save_as(other)
        assert send(node.port, [other, marks(tmp_path / "raw.dcm", other)]) == [0, 0]
        send(node.port, [bad])
        wait_until(lambda: len(node.done()) == 4)
        wait_until(lambda: not list((node.folder / "queue" / "marks").iterdir()))
    assert set(archive.taken.values()) == {1}
    log = node.log.read_text()
    assert "aborted an association: its object is too large" in log
    assert "rejected an association" in log
    assert re.search(r"scored 1 masses in \d+ ms: refused", log)
    assert "Traceback" not in log
    assert not list((node.folder / "queue" / "incoming").iterdir())

    # Nobody's name or number is in a log, a record or a file's name.
    uids = [str(dcmread(path).SOPInstanceUID) for path in tmp_path.glob("*.dcm")]
    kept = log + json.dumps(node.done()) + " ".join(str(path.relative_to(tmp_path)) for path in node.folder.rglob("*"))
    kept += "".join(path.read_text() for path in (node.folder / "queue").rglob("*.json"))
    for secret in (CANARY, "19600102", "ACC7", *uids):
        assert secret not in kept
    assert len({record["patient"] for record in node.done()}) == 4


def test_a_full_queue_takes_nothing_more(finished_run, tmp_path, archive):
    with listening(finished_run, tmp_path / "listen", archive.address, "--max-queue-gb", "0.001") as node:
        images = [mammogram(tmp_path / f"{seed}.dcm", seed) for seed in range(14)]
        statuses = [send(node.port, [image])[0] for image in images]
        assert statuses[:8] == [0] * 8
        assert statuses[-1] == 0xA700
        assert "no room" in node.log.read_text()


# pynetdicom leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_when_certificates_are_given(finished_run, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there: TLS was not tested")
    authority = certificate(tmp_path, "authority")
    ours, theirs = certificate(tmp_path, "ours", authority), certificate(tmp_path, "theirs", authority)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*theirs)
    archive = Archive(ssl_context=server)
    options = ["--cert", str(ours[0]), "--key", str(ours[1]), "--ca", str(authority[0]), "--forward-tls"]
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority[0])
    try:
        with listening(finished_run, tmp_path / "listen", archive.address, *options) as node:
            paths = pair(tmp_path, 0)
            assert send(node.port, paths) == []  # plain text
            assert send(node.port, paths, tls_args=(client, "127.0.0.1")) in ([], [None, None])  # no certificate
            client.load_cert_chain(*theirs)
            assert send(node.port, paths, tls_args=(client, "127.0.0.1")) == [0, 0]
            wait_until(lambda: len(archive.taken) == 3)
    finally:
        archive.close()


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--forward", "nowhere"], 1, "`--forward` must be HOST:PORT:AE or an http(s) address, got 'nowhere'"),
        (["--forward", "a:70000:B"], 1, "`--forward` must be HOST:PORT:AE"),
        (["--forward", "a:1:B", "--cert", "absent.pem", "--key", "absent.key"], 1, "must be PEM files"),
        (["--forward", "a:1:B", "--cert", "absent.pem"], 2, "--cert and --key must be given together"),
        (["--forward", "a:1:B", "--ae", "LONGER THAN AN AE TITLE"], 2, "--ae must"),
    ],
)
def test_bad_options_are_told_in_one_line(finished_run, tmp_path, capsys, monkeypatch, options, code, text):
    monkeypatch.setattr("sys.argv", ["diagnet", "listen", str(finished_run), "--queue", str(tmp_path / "q"), *options])
    with pytest.raises(SystemExit, match=str(code)):
        main()
    assert text in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_a_taken_port_is_told(tmp_path):
    with socket.socket() as taken, Queue(tmp_path / "queue", max_bytes=1).opened() as queue:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ListenerSettings(port=taken.getsockname()[1])
        listener = Listener(queue, lambda: None, lambda *_: None, settings)
        with pytest.raises(NetworkError, match=r"`--port` must be free, got Address"), listener.running():
            pass


ENDED_AT_ANY_MOMENT = """
import faulthandler, os, signal, sys, threading
from diagnet.cli.listen import _signals

faulthandler.dump_traceback_later(60, exit=True)
for line in range(20):  # the line of the wait, counted from its beginning, at which the signal comes
    signals, left = _signals(), [line]

    def count(*_):
        if left[0] == 0:
            signal.raise_signal(signal.SIGTERM)
        left[0] -= 1
        return count

    late = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGTERM))
    late.start()
    sys.settrace(count)
    assert signals.get() == signal.SIGTERM
    sys.settrace(None)
    late.join()
print("ended")
"""


def test_a_signal_ends_it_at_any_moment_of_its_wait():
    done = subprocess.run([sys.executable, "-c", ENDED_AT_ANY_MOMENT], capture_output=True, text=True)
    assert done.stdout == "ended\n", done.stderr


def test_many_images_at_four_associations(finished_run, tmp_path, archive):
    """A small version of benchmarks/listen.py."""
    n_images = 24
    pairs = [pair(tmp_path, seed) for seed in range(n_images)]
    statuses = [[] for _ in range(4)]
    with listening(finished_run, tmp_path / "listen", archive.address, "--no-picture", "--no-presentation") as node:
        resident, began = [], time.monotonic()
        senders = [
            threading.Thread(
                target=lambda k=k: statuses[k].extend(send(node.port, [path for each in pairs[k::4] for path in each]))
            )
            for k in range(4)
        ]
        for sender in senders:
            sender.start()
        while len(node.done()) < n_images:
            status = Path(f"/proc/{node.process.pid}/status")
            if status.exists():  # Linux
                resident.append((len(node.done()), int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])))
            assert time.monotonic() - began < 100, f"{statuses} {node.log.read_text()}"
            time.sleep(0.05)
        seconds = time.monotonic() - began
        for sender in senders:
            sender.join()
    print(f"{n_images / seconds:.1f} images a second at 4 associations")
    assert [code for each in statuses for code in each] == [0] * 2 * n_images
    assert len(archive.taken) == n_images
    assert set(archive.taken.values()) == {1}
    assert all(mass["malignancy"] is not None for record in node.done() for mass in record["masses"])
    early = [kb for n, kb in resident if n_images / 4 <= n < n_images / 2]
    late = [kb for n, kb in resident if n >= 3 * n_images / 4]
    assert not early or not late or max(late) < 1.1 * max(early)
