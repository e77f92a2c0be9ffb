"""What `diagnet serve` and `diagnet listen` do on a bad day: attacks on real processes, with an innocent client beside.

    python benchmarks/attack.py --json  # some minutes; extras `serve` and `pacs`

Both run as the command line starts them, with the shipped settings; files, clients and senders are those of
tests/hostile_*.py, on loopback. Of each case: whether what is promised held (docs/server.md, docs/pacs.md), how long it
took, how long the innocent client waited at most, and the largest memory of all processes of the program. At the end
both are killed with SIGKILL: every object that was acknowledged must be there afterwards.

Bars: everything holds, the innocent client waits for 2 s at most, no object is lost.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from pydicom import dcmread  # noqa: E402
from pydicom.uid import generate_uid  # noqa: E402

import clinic_parts  # noqa: E402
import hostile_clients as clients  # noqa: E402
import hostile_files as files  # noqa: E402
import hostile_senders as senders  # noqa: E402
from served import BOX, write_served  # noqa: E402

LONGEST_WAIT_S = 2.0
REPORT = "1.2.840.10008.5.1.4.1.1.88.22"  # Enhanced SR
PATIENCE_S = 25.0  # the deadline of a file, and some
FILES = {
    "decoy in a JP2": (files.decoy_jp2, ".dcm"),
    "many items": (files.many_items, ".dcm"),
    "many items, length given": (files.many_items_in_a_length, ".dcm"),
    "deep items": (files.deep_items, ".dcm"),
    "many elements": (files.many_elements, ".dcm"),
    "many values": (files.many_values, ".dcm"),
    "tiny precincts": (files.tiny_precincts, ".dcm"),
    "two frames": (files.two_frames, ".dcm"),
    "picture of two sizes": (files.picture_of_two_sizes, ".jpg"),
    "many scans": (files.many_scans, ".jpg"),
    "many directories": (files.many_directories, ".tif"),
}


class Innocent:
    """Asks from time to time, and keeps how long it waited at most."""

    def __init__(self, ask):
        self._ask, self.longest, self._stop = ask, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self._stop.wait(0.1):
            began = time.monotonic()
            try:
                self._ask()
            except Exception:  # no answer at all is the longest wait
                self.longest = float("inf")
            self.longest = max(self.longest, time.monotonic() - began)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


class Memory(threading.Thread):
    """The largest resident memory of a process and its children together."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.largest, self.stop = pid, 0.0, threading.Event()

    def run(self):
        """Look again and again."""
        while not self.stop.wait(0.05):
            self.largest = max(self.largest, sum(map(resident, [self.pid, *children(self.pid)])))


def resident(pid):
    with suppress(OSError):
        return clients.resident_mb(pid)
    return 0.0


def children(pid):
    with suppress(OSError):
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found + [inner for each in found for inner in children(each)]
    return []


class Tried:
    """Rows of the table."""

    def __init__(self):
        self.rows = []

    @contextmanager
    def case(self, part, name, pid, ask):
        """Time a case; `held` is set by what is done inside."""
        row = {"part": part, "case": name, "held": False}
        memory, began = Memory(pid), time.monotonic()
        memory.start()
        with Innocent(ask) as innocent:
            time.sleep(0.2)
            try:
                yield row
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            time.sleep(0.2)
        memory.stop.set()
        memory.join()
        row |= {
            "seconds": round(time.monotonic() - began, 2),
            "innocent_waited_s": round(innocent.longest, 2),
            "peak_mb": round(memory.largest),
        }
        self.rows.append(row)
        print(row, file=sys.stderr, flush=True)


class Serving:
    """`diagnet serve` as a process of its own, which may be killed and started again."""

    def __init__(self, served, folder, *options):
        self.port, self.log = clinic_parts.free_port(), folder / "serve.txt"
        self.command = [
            *(
                sys.executable,
                "-m",
                "diagnet.cli",
                "serve",
                str(served.run),
                *(options or ("--images", str(served.images))),
            ),
            *("--state", str(folder / "state"), "--port", str(self.port)),
        ]

    def start(self):
        """Wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        for _ in range(600):
            with suppress(OSError):
                if clients.ask(self.port, "GET", "/healthz")[0] == 200:
                    return self
            time.sleep(0.1)
        raise RuntimeError(self.log.read_text())

    def kill(self):
        """End it without a warning."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, *arguments, **options):
        """Status and what the JSON says."""
        status, body, _ = clients.ask(self.port, *arguments, **options)
        return status, json.loads(body) if body[:1] in (b"{", b"[") else None

    def innocent(self):
        """Score a mass of an image that is open already."""
        asked = {"image": self.image, "boxes": [BOX]}
        if self.ask("POST", "/v1/predict", asked, timeout=60)[0] != 200:
            raise RuntimeError("no answer")


def attack_serve(tried, folder):
    served = write_served(folder)
    server = Serving(served, folder).start()
    images = [each["id"] for each in server.ask("GET", "/v1/images")[1]]
    read = [each for each in images if server.ask("GET", f"/v1/images/{each}")[0] == 200]
    server.image = next(each for each in read if server.ask("GET", f"/v1/images/{each}")[1]["laterality"] == "L")

    def case(name):
        return tried.case("serve", name, server.process.pid, server.innocent)

    for name, (make, ending) in FILES.items():
        path = make(folder / f"hostile{ending}")
        with case(f"upload: {name}") as row:
            body, kind = clients.multipart(path.read_bytes())
            status, image = server.ask("POST", "/v1/images", body, timeout=PATIENCE_S, **kind)
            if status == 201:  # read when it is asked for
                status = server.ask("GET", f"/v1/images/{image['id']}/pixels", timeout=PATIENCE_S)[0]
                server.ask("DELETE", f"/v1/images/{image['id']}")
            row["held"], row["answer"] = 400 <= status < 500, status
    for name, said in (("nothing", b""), ("half a head", b"GET / HTTP/1.1\r\nHo")):
        with case(f"150 connections that say {name}") as row, clients.many(150, clients.sent, server.port, said):
            time.sleep(3)
            row["held"] = True  # the innocent one tells
    with case("20 uploads that stop") as row, clients.many(20, clients.upload, server.port, 100_000_000):
        time.sleep(3)
        row["held"] = True
    with (
        case("a head of one letter at a time") as row,
        clients.sent(server.port, b"GET / HTTP/1.1\r\nX: ") as connection,
    ):
        row["held"] = clients.drip(connection, 60) is not None
    with case("16 slow readers of pixels") as row:
        with clients.many(16, clients.reader_of, server.port, f"/v1/images/{server.image}/pixels"):
            time.sleep(3)
        row["held"] = True
    for kinds, expected in ((clients.UNCLEAR, 400), (clients.CHUNKED, 411)):
        for name, request in kinds.items():
            with case(f"request: {name}") as row:
                row["held"] = clients.answer_to(server.port, request) == (expected, True)
    with case("a second server on one state") as row:
        other = subprocess.run(
            [*server.command[:-1], str(clinic_parts.free_port())],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        row["held"] = other.returncode != 0 and "Traceback" not in other.stderr
    said = server.log.read_text()
    server.kill()
    lost = lose_readings(tried, served, folder)
    return lost, said


def lose_readings(tried, served, folder):
    """Kill a server in the middle of a study of four readers; acknowledged scores that are gone afterwards."""
    server = Serving(served, folder / "study", "--images", str(served.table))
    (folder / "study").mkdir()
    server.start()
    with tried.case("serve", "kill -9 while four readers score", server.process.pid, lambda: None) as row:
        begun = [server.ask("POST", "/v1/reading", {"reader": f"R{k}"})[1] for k in range(4)]
        acknowledged = []

        def read(session):
            for number, image in enumerate(session["cases"]):
                given = {"image": image, "box": [4, 4, 20, 20], "stage": "without", "score": number, "seconds": 1}
                with suppress(OSError):
                    if server.ask("POST", f"/v1/reading/{session['id']}/scores", given)[0] == 200:
                        acknowledged.append((session["id"], image, number))

        readers = [threading.Thread(target=read, args=[session]) for session in begun]
        for reader in readers:
            reader.start()
        while len(acknowledged) < 20 and any(reader.is_alive() for reader in readers):
            time.sleep(0.01)
        server.kill()
        for reader in readers:
            reader.join()
        server.start()
        kept = {
            (session["id"], each["image"], each["score"])
            for session in begun
            for each in server.ask("GET", f"/v1/reading/{session['id']}")[1]["scores"]
        }
        lost = len({*acknowledged} - kept)
        row |= {"held": lost == 0, "acknowledged": len(acknowledged), "lost": lost}
    server.kill()
    return lost


def attack_listen(tried, folder):
    served = write_served(folder)
    archive = clinic_parts.Archive()
    node = clinic_parts.Listening(served.run, folder / "listen", archive.address).start()

    def innocent():
        if senders.echo(node.port, patience=60) == float("inf"):
            raise RuntimeError("no answer")

    def case(name):
        return tried.case("listen", name, node.process.pid, innocent)

    def close(connections):
        for each in connections:
            with suppress(OSError):
                each.close() if hasattr(each, "close") else each.abort()

    for name, make in (("silent", senders.silent), ("half a request", senders.half_request)):
        with case(f"70 connections: {name}") as row:
            held = make(node.port, 70)
            time.sleep(3)
            close(held)
            row["held"] = True
    for name in ("idle", "half a PDU", "a byte from time to time"):
        with case(f"8 associations: {name}") as row:
            held = senders.idle(node.port, 8)
            if name == "half a PDU":
                senders.half_pdu(held)
            if name == "a byte from time to time":
                with senders.trickling(held):
                    time.sleep(6)
            else:
                time.sleep(6)
            close(held)
            row["held"] = True
    with case("a PDU of 4 GB") as row:
        (held,) = senders.idle(node.port, 1)
        row["held"] = not senders.huge_pdu(held)
        close([held])
    with case("a PDU that is no DICOM") as row:
        held = senders.idle(node.port, 1)
        senders.malformed_pdu(held[0])
        time.sleep(1)
        close(held)
        row["held"] = True
    stored = {
        "decoy in a JP2": files.decoy_jp2,
        "marks of many items": files.marks_of_many_items,
        "a state of many items": files.state_of_many_items,
    }
    for name, make in stored.items():
        with case(f"stored: {name}") as row:
            path = with_identity(make(folder / "hostile.dcm"))
            row["answer"] = str(senders.store(node.port, path, negotiated=None))
            time.sleep(2)
            row["held"] = node.process.poll() is None
    with case("one UID, other content") as row:
        first = clinic_parts.mammogram(folder / "first.dcm", seed=1)
        other = dcmread(first)
        other.PatientID = "ANOTHER"
        other.save_as(folder / "other.dcm")
        statuses = [senders.store(node.port, path) for path in (first, folder / "other.dcm")]
        row["held"], row["answer"] = statuses[0] == 0 and statuses[1] != 0, str(statuses)
    with case("another AE title, another SOP class") as row:
        path = clinic_parts.mammogram(folder / "lie.dcm", seed=2)
        answers = senders.store(node.port, path, title="ELSE"), senders.store(node.port, path, negotiated=REPORT)
        row["held"], row["answer"] = answers[0] == "rejected" and answers[1] != 0, str(answers)
    lost = 0
    with tried.case("listen", "kill -9 while objects come", node.process.pid, lambda: None) as row:
        paths = [clinic_parts.mammogram(folder / f"kept{k}.dcm", seed=10 + k) for k in range(24)]
        acknowledged = []

        def sending():
            for path in paths:
                with suppress(Exception):
                    if clinic_parts.send(node.port, [path]) == [0]:
                        acknowledged.append(path)

        thread = threading.Thread(target=sending)
        thread.start()
        while len(acknowledged) < 8 and thread.is_alive():
            time.sleep(0.01)
        node.kill()
        thread.join()
        node.start()
        kept = {dcmread(p, force=True, stop_before_pixels=True).get("SOPInstanceUID") for p in queued(node)}
        lost = sum(dcmread(path, stop_before_pixels=True).SOPInstanceUID not in kept for path in acknowledged)
        row["held"], row["acknowledged"], row["lost"] = lost == 0, len(acknowledged), lost
    node.stop()
    archive.close()
    return lost, node.log.read_text()


def with_identity(path):
    """Give an object the elements that a sender needs to send it at all."""
    dataset = dcmread(path)
    dataset.SOPClassUID = dataset.get("SOPClassUID") or REPORT
    dataset.SOPInstanceUID = dataset.get("SOPInstanceUID") or generate_uid()
    dataset.save_as(path)
    return path


def queued(node):
    return [path for path in (node.folder / "queue").rglob("*") if path.is_file() and path.stat().st_size > 1000]


ATTACKS = {"serve": attack_serve, "listen": attack_listen}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ATTACKS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    tried, lost, traces = Tried(), 0, 0
    for attack in [ATTACKS[asked.only]] if asked.only else ATTACKS.values():
        with tempfile.TemporaryDirectory() as folder:
            gone, said = attack(tried, Path(folder))
            lost, traces = lost + gone, traces + said.count("Traceback")
    rows = tried.rows
    found = {
        "tried": len(rows),
        "held": sum(row["held"] for row in rows),
        "longest_wait_s": max(row["innocent_waited_s"] for row in rows),
        "peak_mb": max(row["peak_mb"] for row in rows),
        "lost": lost,
        "tracebacks": traces,
        "not_held": [row["case"] for row in rows if not row["held"]],
    }
    print(json.dumps({**found, "cases": rows} if asked.json else found, indent=1))
    sys.exit(found["held"] < len(rows) or found["longest_wait_s"] > LONGEST_WAIT_S or lost > 0)


if __name__ == "__main__":
    main()
