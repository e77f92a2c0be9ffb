"""A stand-in for `diagnet serve` that keeps the page's contract with invented answers.

Run `python tests/app/page/fake_server.py` to look at the page with phantoms.
"""

import base64
import io
import json
import sys
import tempfile
import threading
import time
import urllib.parse
from dataclasses import asdict, dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diagnet.app.exam import exam_of
from diagnet.clinic.privacy import Pseudonyms
from diagnet.data.image import read_picture
from diagnet.data.phantom import make_masses
from diagnet.errors import DiagNetError
from diagnet.notice import NOTICE

PAGE = Path(__file__).parents[3] / "src" / "diagnet" / "app" / "page"
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
N_POINTS = 240
NAMES = Pseudonyms(b"k" * 32)


class Refusal(Exception):  # noqa: N818 -- what the page is told, not a fault
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass
class State:
    """What the server knows; handing it to a second server is a restart that loses nothing."""

    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)
    max_upload_bytes: int = 64 * 2**20
    token: str | None = None
    similar_takes_s: float = 0.0

    def add(self, path: Path, name: str | None = None, **known: Any) -> dict[str, Any]:
        try:
            picture = read_picture(path)
        except DiagNetError as error:
            raise Refusal(415, f"The file is not an image that can be read: {type(error).__name__}.") from None
        height, width = picture.pixels.shape
        key = f"i{len(self.images)}x{np.random.default_rng().integers(1 << 30)}"
        self.pixels[key] = np.rint(picture.pixels * 65535).astype("<u2")
        self.images[key] = {
            "id": key,
            "name": name or f"image {len(self.images) + 1}{path.suffix}",
            "width": width,
            "height": height,
            "laterality": picture.laterality,
            "view": picture.view,
            "spacing_mm": picture.spacing_mm,
            "flags": list(picture.warnings),
            "steps": list(picture.steps),
            "ends": picture.ends,
            "state": "new",
            **asdict(exam_of(path, NAMES)),
            **known,
        }
        return self.images[key]


def score(box: list[float]) -> float:
    """Invented, but the same for the same box: small boxes benign, large ones malignant."""
    return float(np.clip((box[2] - box[0]) / 150, 0.02, 0.97))


def assessment(image: dict[str, Any], box: list[float]) -> dict[str, Any]:
    value, refused = score(box), box[2] - box[0] < 12
    decision = (
        "refused" if refused else "abstained" if 0.4 < value < 0.5 else "malignant" if value >= 0.45 else "benign"
    )
    reasons = {
        "refused": "The box is too small for a mass.",
        "abstained": "The score is too near the threshold to call.",
    }
    n_malignant = round(60 * value)
    return {
        "box": box,
        "malignancy": None if refused else value,
        "raw_malignancy": None if refused else value**2,
        "threshold": 0.45,
        "decision": decision,
        "reason": reasons.get(decision, ""),
        "flags": image["flags"],
        "steps": image["steps"],
        "laterality": image["laterality"],
        "view": image["view"],
        "input_sha256": "ab" * 32,
        "model_sha256": "cd" * 32,
        "latency_ms": 42.0,
        "meaning": None
        if refused
        else {
            "n_like": 60,
            "n_malignant": n_malignant,
            "share": {"value": value, "low": max(value - 0.12, 0), "high": min(value + 0.12, 1)},
            "low_score": 0.2,
            "high_score": 0.8,
            "text": f"Of 60 masses with scores like this one (20 to 80 %), {n_malignant} were malignant:"
            f" {100 * value:.0f} %,"
            f" 95 % interval {100 * max(value - 0.12, 0):.0f} to {100 * min(value + 0.12, 1):.0f} %.",
        },
    }


def similar(box: list[float], n: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(N_POINTS) % 2
    places = rng.normal(0, 1, (N_POINTS, 2)) + np.where(labels[:, None], 1.2, -1.2)
    here = np.array([3 * score(box) - 1.5, 0.2])
    order = np.argsort(np.hypot(*(places - here).T))
    near = {label: [int(k) for k in order if labels[k] == code] for label, code in (("benign", 0), ("malignant", 1))}
    names = ("benign", "malignant")
    called = names[score(box) >= 0.45]
    nearest = "benign" if 0.5 < score(box) < 0.6 else called
    disagreement = f"The model says {called}, but 4 of the 5 nearest training masses are {nearest}."
    found = {
        label: [
            {
                "case": f"m{k}",
                "distance": float(np.hypot(*(places[k] - here)) / 4),
                "label": label,
                "label_source": "biopsy" if k % 3 else "",
                "malignancy": None if k % 4 else 0.5,
            }
            for k in near[label][:n]
        ]
        for label in names
    }
    return {
        **found,
        "nearest_label": nearest,
        "disagreement": None if called == nearest else disagreement,
        "map": {
            "points": [
                {
                    "case": f"m{k}",
                    "x": float(places[k, 0]),
                    "y": float(places[k, 1]),
                    "label": names[labels[k]],
                    "kind": "positive" if k % 17 == 0 else "original",
                }
                for k in range(N_POINTS)
            ],
            "here": {"x": float(here[0]), "y": float(here[1])},
            "attracting": [f"m{near[called][0]}"],
            "repelling": [f"m{k}" for k in near["benign" if called == "malignant" else "malignant"][:4]],
        },
        "notice": NOTICE,
    }


def saliency(box: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    half = 0.8 * max(x1 - x0, y1 - y0)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    rows, columns = np.mgrid[-1:1:32j, -1:1:32j]
    values = np.exp(-6 * ((columns - 0.2) ** 2 + (rows + 0.1) ** 2))
    return {
        "region": [x - half, y - half, x + half, y + half],
        "size": 32,
        "values": base64.b64encode((255 * values).astype(np.uint8).tobytes()).decode(),
        "method": "Occlusion: what covering a patch changes in the score",
        "notice": NOTICE,
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeServer"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def answer(self, verb: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        try:
            self.route(verb, url.path, dict(urllib.parse.parse_qsl(url.query)), body)
        except Refusal as refusal:
            problem = {"type": "about:blank", "title": "Refused", "status": refusal.status, "detail": str(refusal)}
            self.send(json.dumps(problem).encode(), "application/problem+json", refusal.status)
        except ConnectionError:  # the page was closed, or the test took the server away
            self.close_connection = True

    def send(self, body: bytes, kind: str = "application/json", status: int = 200, **headers: object) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def say(self, value: object, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status=status)

    def route(self, verb: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self.server.state
        if path == "/" or path.startswith("/page/"):
            file = PAGE / ("index.html" if path == "/" else Path(path).name)
            if not file.is_file():
                raise Refusal(404, "There is no such page.")
            self.send(file.read_bytes(), KINDS[file.suffix])
            return
        if path == "/healthz":
            self.say({"status": "ok"})
            return
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            raise Refusal(401, "The token is missing or wrong.")
        if verb != "GET" and self.headers.get("X-DiagNet") != "1":
            raise Refusal(403, "The header X-DiagNet is missing.")
        parts = path.removeprefix("/v1/").split("/")
        given = json.loads(body) if self.headers.get("Content-Type", "").startswith("application/json") else {}
        if "image" in given and given["image"] not in state.images:
            raise Refusal(404, "There is no such image.")
        match [verb, *parts]:
            case ["GET", "model"]:
                self.say(self.model())
            case ["GET", "images"]:
                self.say(list(state.images.values()))
            case ["POST", "images"]:
                self.say(self.upload(body), 201)
            case ["GET", "images", key, "pixels"] if key in state.images:
                step = -(-max(state.pixels[key].shape) // int(query.get("max_side", 1 << 20)))
                shown = np.ascontiguousarray(state.pixels[key][::step, ::step])
                height, width = shown.shape
                self.send(shown.tobytes(), "application/octet-stream", X_Width=width, X_Height=height)
            case ["DELETE", "images", key] if key in state.images:
                del state.images[key], state.pixels[key]
                self.send(b"", status=204)
            case ["POST", "predict"]:
                found = [assessment(state.images[given["image"]], box) for box in given["boxes"]]
                self.say({"assessments": found, "notice": NOTICE})
            case ["POST", "similar"]:
                time.sleep(state.similar_takes_s)
                self.say(similar(given["box"], given["n"]))
            case ["POST", "saliency"]:
                self.say(saliency(given["box"]))
            case ["POST", "box"]:
                self.say({"box": [given["x"] - 30, given["y"] - 20, given["x"] + 30, given["y"] + 20]})
            case ["GET", "cases", case, "picture"]:
                self.send(self.server.picture(case), "image/png")
            case ["POST", "report"] if given["format"] == "json":
                self.say({"assessments": [assessment(state.images[given["image"]], b) for b in given["boxes"]]})
            case ["POST", "report"]:
                raise Refusal(422, "A structured report needs a DICOM file as its source.")
            case ["POST", "reading"]:
                if any(study["reader"] == given["reader"] for study in state.readings.values()):
                    raise Refusal(409, "A reader of this code has begun.")
                order = np.random.default_rng(given.get("seed", 0)).permutation(list(state.images)).tolist()
                key = f"study{len(state.readings)}"
                state.readings[key] = {"id": key, "reader": given["reader"], "cases": order, "next": 0, "scores": []}
                self.say(state.readings[key], 201)
            case [verb, "reading", key, *rest] if key in state.readings:
                self.reading(state.readings[key], rest, given)
            case _:
                raise Refusal(404, "There is no such route.")

    def model(self) -> dict[str, Any]:
        return {
            "name": "invented",
            "version": "0.0",
            "model_sha256": "cd" * 32,
            "classes": ["benign", "malignant"],
            "threshold": 0.45,
            "operating_point": "sensitivity 0.9",
            "roi": {"size": 64, "padding_factor": 1.6, "square": True},
            "n_training": {"benign": 120, "malignant": 120},
            "auc": {"value": 0.81, "low": 0.74, "high": 0.87},
            "has_cases": True,
            "limits": {"max_upload_bytes": self.server.state.max_upload_bytes},
            "notice": NOTICE,
        }

    def upload(self, body: bytes) -> dict[str, Any]:
        state = self.server.state
        if len(body) > state.max_upload_bytes + 1000:
            raise Refusal(413, "The file is too large.")
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        part = message_from_bytes(kind + body).get_payload()[0]  # type: ignore[index]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{Path(part.get_filename() or '').suffix}"
            path.write_bytes(part.get_payload(decode=True))
            return state.add(path)

    def reading(self, study: dict[str, Any], rest: list[str], given: dict[str, Any]) -> None:
        scores = study["scores"]
        if rest == ["scores"]:
            before = any(s["image"] == given["image"] and s["stage"] == "without" for s in scores)
            if given["stage"] == "with" and not before:
                raise Refusal(409, "The case must first be read without the model.")
            scores.append(given)
            study["next"] += given["stage"] == "with"
            self.say(study, 201)
        elif rest == ["imrmc.csv"]:
            rows = [f"{study['reader']},{s['image']},{s['stage']},{s['score']}" for s in scores]
            self.send("\n".join(["readerID,caseID,modalityID,score", *rows, ""]).encode(), "text/csv")
        else:
            self.say(study)


class FakeServer(ThreadingHTTPServer):
    """Serves until `stop`; the same state may then be served again at the same port."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, state: State, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = state
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.open: set[Any] = set()
        masses, _ = make_masses(8, rng=np.random.default_rng(1))
        self.masses = [Image.fromarray((np.clip(mass, 0, 1) * 255).astype(np.uint8)) for mass in masses]
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def picture(self, case: str) -> bytes:
        out = io.BytesIO()
        self.masses[int(case.removeprefix("m")) % len(self.masses)].save(out, "PNG")
        return out.getvalue()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for request in list(self.open):  # kept-alive connections would go on answering
            super().shutdown_request(request)
        self.thread.join()


if __name__ == "__main__":
    from phantoms import write_phantoms

    with tempfile.TemporaryDirectory() as name:
        state = State()
        for path in [*write_phantoms(Path(name)), *map(Path, sys.argv[1:])]:
            state.add(path)
        print(FakeServer(state, 8765).url)
        threading.Event().wait()
