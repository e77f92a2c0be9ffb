"""Load on a running server: concurrent predictions on loopback, none lost, and how long the slowest take.

    python benchmarks/serve.py RUN IMAGE --box 928,2304,1239,2575 --json

Starts `diagnet serve RUN` on a free port, sends IMAGE once, then asks for its score from many connections at a time
(default 50, ten rounds); then sends the file itself with each of 50 requests.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

CSRF = {"X-DiagNet": "1"}


def post(port, path, body, content_type):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", path, body, {**CSRF, "Content-Type": content_type})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def multipart(content, **fields):
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    head = '--x\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def load(port, path, body, content_type, n_at_once, n_rounds):
    """Ask from `n_at_once` threads, each `n_rounds` times: milliseconds of each answer, and how many are lost."""
    taken, lost, start = [], [], threading.Barrier(n_at_once)

    def ask():
        start.wait()
        for _ in range(n_rounds):
            began = time.perf_counter()
            try:
                status, content = post(port, path, body, content_type)
                is_scored = status == 200 and json.loads(content)["assessments"][0]["malignancy"] is not None
            except OSError:
                is_scored = False
            (taken if is_scored else lost).append(1000 * (time.perf_counter() - began))

    threads = [threading.Thread(target=ask) for _ in range(n_at_once)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    p50, p95, p99 = np.quantile(taken, [0.5, 0.95, 0.99]) if taken else (None,) * 3
    return {
        "answered": len(taken), "lost": len(lost), "per_second": len(taken) / seconds,
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(taken, default=None),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--box", required=True)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    box = [float(side) for side in asked.box.split(",")]
    with tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "diagnet.cli", "serve", str(asked.run), "--port", "0", "--state", state]
        began = time.perf_counter()
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            server.stdout.readline()
            port = int(server.stdout.readline().strip().rstrip("/").rsplit(":", 1)[1])
            started = time.perf_counter() - began
            content = asked.image.read_bytes()
            began = time.perf_counter()
            image = json.loads(post(port, "/v1/images", *multipart(content))[1])["id"]
            body = json.dumps({"image": image, "boxes": [box]}).encode()
            status, answer = post(port, "/v1/predict", body, "application/json")
            assert status == 200, answer
            first = 1000 * (time.perf_counter() - began)
            found = {
                "start_s": started,
                "first_score_ms": first,
                "at_once": asked.at_once,
                "held": load(port, "/v1/predict", body, "application/json", asked.at_once, asked.rounds),
                "sent": load(port, "/v1/predict", *multipart(content, boxes=json.dumps([box])), asked.at_once, 1),
            }
        finally:
            server.terminate()
            server.wait()
    if asked.json:
        print(json.dumps(found))
        return
    print(f"started in {started:.1f} s; first score {first:.0f} ms after the file was sent")
    for name in ("held", "sent"):
        each = found[name]
        print(
            f"{name}: {each['answered']} answered, {each['lost']} lost, {each['per_second']:.1f} a second,"
            f" p50 {each['p50_ms']:.0f} ms, p95 {each['p95_ms']:.0f} ms, p99 {each['p99_ms']:.0f} ms"
        )


if __name__ == "__main__":
    main()
