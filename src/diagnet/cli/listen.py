"""The verb that stands between the archive and a model: listen."""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagnet.cli.options import grouped
from diagnet.cli.runs import Engine
from diagnet.cli.shared import Json, Quiet
from diagnet.data.reading_process import SERVER_PROCESSES, read_apart, start_reading

if TYPE_CHECKING:
    import ssl

    from diagnet.clinic.forward import Destination
    from diagnet.clinic.listener import ListenerSettings
    from diagnet.inference.model import Model

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where images and marks come in, from whom, and where they wait."""

    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 11112
    ae: Annotated[str, typer.Option(help="Our AE title.")] = "DIAGNET"
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1"
    queue: Annotated[Path, typer.Option(help="Folder of the queue; it holds patients' data.")] = Path("diagnet-queue")
    allow: Annotated[
        str, typer.Option(help="AE titles that may send, AE,AE,... [default: all]", show_default=False)
    ] = ""
    any_title: Annotated[
        bool, typer.Option("--any-title", help="Take what is sent to another AE title than ours too.")
    ] = False


@dataclass(frozen=True, slots=True)
class Trust:
    """Who we are to peers, and which peers we believe."""

    cert: Annotated[Path | None, typer.Option(help="Our certificate (PEM): speak TLS.")] = None
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None
    ca: Annotated[Path | None, typer.Option(help="Authorities (PEM): peers must have a certificate of theirs.")] = None
    forward_tls: Annotated[bool, typer.Option("--forward-tls", help="Speak TLS with HOST:PORT:AE too.")] = False


@dataclass(frozen=True, slots=True)
class Results:
    """What is scored, by what, and what is sent of it."""

    picture: Annotated[bool, typer.Option(help="Send a secondary capture picture beside the report.")] = True
    presentation: Annotated[bool, typer.Option(help="Send a presentation state beside the report.")] = True
    segmentation: Annotated[bool, typer.Option(help="Send a segmentation of what was marked.")] = False
    pdf: Annotated[bool, typer.Option(help="Send a page that people read (encapsulated PDF).")] = False
    allow_for_processing: Annotated[
        bool, typer.Option("--allow-for-processing", help="Score raw detector data too.")
    ] = False
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Score regions far from all training masses too.")
    ] = False
    engine: Annotated[
        Engine, typer.Option(case_sensitive=False, help="What scores; torch, as in predict, gives its scores.")
    ] = Engine.torch


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken, and how long it waits."""

    max_associations: Annotated[int, typer.Option(help="Associations at one time.", min=1)] = 8
    max_object_mb: Annotated[int, typer.Option(help="Size of one object.", min=1)] = 512
    max_queue_gb: Annotated[float, typer.Option(help="Size of the queue.", min=0.001)] = 20.0
    keep_free_mb: Annotated[int, typer.Option(help="Room on the disk that is never used.", min=0)] = 200
    keep_hours: Annotated[float, typer.Option(help="How long images and marks wait for each other.", min=0.01)] = 168.0
    max_failed: Annotated[int, typer.Option(help="Files in QUEUE/failed; then marks are not taken.", min=1)] = 1000
    keep_failed_hours: Annotated[float, typer.Option(help="How long what failed is kept.", min=0.01)] = 720.0


@grouped
def listen(
    *,
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run. [default: the shipped model]", show_default=False)
    ] = None,
    forward: Annotated[
        str, typer.Option(help="Where results go: HOST:PORT:AE, or http(s)://.../dicom-web.", show_default=False)
    ],
    place: Place,
    trust: Trust,
    results: Results,
    limits: Limits,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Receive mammograms by DICOM, score marked masses, send reports.

    Images and marks come by C-STORE. It runs until interrupted.
    """
    from diagnet.clinic.source import require_pacs

    require_pacs()
    from diagnet.clinic.listener import Listener
    from diagnet.clinic.queue import Queue
    from diagnet.clinic.result_page import require_report
    from diagnet.clinic.worker import Worker, WorkerSettings
    from diagnet.inference.assessment import Policy
    from diagnet.inference.predictive_value import read_held_out
    from diagnet.inference.predictor import shipped_run

    read_apart(SERVER_PROCESSES)
    start_reading()
    _check(forward, place, trust)
    if results.pdf:
        require_report()
    destination = _destination(forward, place, trust)
    settings, tls = _listener_settings(place, limits), _server_tls(trust)
    model = _ready_model(run, results.engine)
    folder = run or shipped_run()
    held_out = read_held_out(folder) if results.pdf and (folder / "predictions.csv").exists() else None
    tell, stop = _teller(quiet=quiet, as_json=as_json), _stopped_by_signals()
    room = Queue(
        place.queue,
        max_bytes=int(1e9 * limits.max_queue_gb),
        keep_free_bytes=1_000_000 * limits.keep_free_mb,
        max_failed=limits.max_failed,
    )
    with room.opened() as queue:
        for notice in queue.notices:
            tell(notice, "")
        worker = Worker(
            queue,
            model,
            destination,
            tell,
            policy=Policy(allow_for_processing=results.allow_for_processing, allow_unlike=results.allow_unlike),
            settings=WorkerSettings(
                picture=results.picture,
                presentation=results.presentation,
                segmentation=results.segmentation,
                pdf=results.pdf,
                keep_hours=limits.keep_hours,
                keep_failed_hours=limits.keep_failed_hours,
            ),
            held_out=held_out,
        )
        with Listener(queue, worker.wake, tell, settings, tls).running() as listener:
            worker.start()
            for notice in _exposure(place.bind, trust):
                tell(notice, "")
            tell(f"listening on {place.bind}:{listener.port} as {place.ae}. {model.notice}", "")
            stop.wait()
        worker.stop()
    tell("stopped", "")


def _check(forward: str, place: Place, trust: Trust) -> None:
    """Refuse options that do not go together."""
    if (trust.cert is None) != (trust.key is None):
        raise typer.BadParameter("--cert and --key must be given together.")
    if not 0 < len(place.ae.strip()) <= 16:
        raise typer.BadParameter("--ae must be an AE title of 1 to 16 characters.")
    speaks_tls = trust.cert is not None or trust.forward_tls or forward.startswith("https://")
    if trust.ca is not None and not speaks_tls:
        raise typer.BadParameter("--ca must come with --cert and --key, --forward-tls or an https address.")


def _exposure(bind: str, trust: Trust) -> Iterator[str]:
    """What the start says where others can reach us in the open."""
    from diagnet.app.settings import is_loopback

    if not is_loopback(bind) and trust.cert is None:
        yield f"others can reach {bind}, and nothing is encrypted. Fix: --cert and --key, and --ca for known peers"


def _destination(forward: str, place: Place, trust: Trust) -> "Destination":
    """Where results go."""
    from diagnet.clinic.forward import parse_destination
    from diagnet.clinic.listener import client_tls

    tls = client_tls(trust.cert, trust.key, trust.ca) if trust.forward_tls else None
    return parse_destination(forward, place.ae, tls, trust.ca if forward.startswith("https://") else None)


def _listener_settings(place: Place, limits: Limits) -> "ListenerSettings":
    from diagnet.clinic.listener import ListenerSettings

    return ListenerSettings(
        ae_title=place.ae,
        bind=place.bind,
        port=place.port,
        any_title=place.any_title,
        allow=tuple(title.strip() for title in place.allow.split(",") if title.strip()),
        max_associations=limits.max_associations,
        max_object_bytes=1_000_000 * limits.max_object_mb,
    )


def _server_tls(trust: Trust) -> "ssl.SSLContext | None":
    from diagnet.clinic.listener import server_tls

    return None if trust.cert is None or trust.key is None else server_tls(trust.cert, trust.key, trust.ca)


def _ready_model(run: Path | None, engine: Engine) -> "Model":
    """A model that can score at once, and knows what malignant is."""
    from diagnet.errors import RunFolderError
    from diagnet.inference.predictor import load_model

    model = load_model(run, engine=engine.value)
    if "malignant" not in model.classes:
        raise RunFolderError(f"`RUN` must know the class malignant, got the classes {', '.join(model.classes)}")
    model.prepare()
    return model


def _teller(*, quiet: bool, as_json: bool) -> Tell:
    """Tell what happens as it happens: for machines, for people, or not at all."""
    from diagnet.run.folder import now

    def tell(what: str, which: str) -> None:
        with suppress(OSError):  # a full disk takes no log, but nothing stops for that
            if as_json:
                print(json.dumps({"time": now(), "event": what, "of": which}), flush=True)
            elif not quiet:
                print(f"{now()} {which[:12]:<12} {what}", file=sys.stderr, flush=True)

    return tell


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    return stop
