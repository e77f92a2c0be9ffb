"""The verb that stands between the archive and a model: listen."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from diagnet.cli.options import grouped
from diagnet.cli.runs import Engine
from diagnet.cli.shared import Json, Quiet
from diagnet.data.reading_process import SERVER_PROCESSES, read_apart, start_reading

if TYPE_CHECKING:
    import ssl

    from diagnet.clinic.forward import Destination
    from diagnet.clinic.listener import ListenerSettings
    from diagnet.clinic.performer import Performer
    from diagnet.clinic.queue import Queue
    from diagnet.clinic.worker import Worker
    from diagnet.clinic.worklist import Worklist
    from diagnet.inference.model import Model

Tell = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where images and marks come in, from whom, and where they wait."""

    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 11112
    ae: Annotated[str, typer.Option(help="Our AE title.")] = "DIAGNET"
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1"
    queue: Annotated[Path, typer.Option(help="Folder of the queue; it holds patients' data.")] = Path("diagnet-queue")
    allow: Annotated[
        str, typer.Option(help="AE titles that may send, AE,AE,... [default: all]", show_default=False)
    ] = ""
    any_title: Annotated[bool, typer.Option("--any-title", help="Also take what is sent to other AE titles.")] = False


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
    keep_free_mb: Annotated[int, typer.Option(help="Disk space that is kept free.", min=0)] = 200
    keep_hours: Annotated[float, typer.Option(help="How long images and marks wait for each other.", min=0.01)] = 168.0
    max_failed: Annotated[int, typer.Option(help="Most files in QUEUE/failed; then marks are refused.", min=1)] = 1000
    keep_failed_hours: Annotated[float, typer.Option(help="How long what failed is kept.", min=0.01)] = 720.0


@dataclass(frozen=True, slots=True)
class Tasks:
    """The worklist that says what is to be scored, and what of it is ours."""

    worklist: Annotated[
        str, typer.Option(help="Worklist (UPS-RS) to claim tasks from, https://.../dicom-web.", show_default=False)
    ] = ""
    worklist_code: Annotated[
        str, typer.Option(help="Scheduled workitem code of our tasks, VALUE or VALUE^SCHEME.", show_default=False)
    ] = ""
    worklist_station: Annotated[
        str, typer.Option(help="Scheduled station name code of our tasks, likewise.", show_default=False)
    ] = ""
    worklist_token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token for --worklist.", show_default=False)
    ] = None
    worklist_seconds: Annotated[float, typer.Option(help="Between two looks at the worklist.", min=0.1)] = 30.0
    fetch_from: Annotated[
        str, typer.Option(help="Other servers that inputs may be fetched from, URL,URL,...", show_default=False)
    ] = ""


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
    tasks: Tasks,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Receive mammograms by DICOM, score marked masses, send reports.

    Images and marks come by C-STORE, or as the tasks of a worklist say. It runs until interrupted.
    """
    from diagnet.clinic.source import require_pacs

    require_pacs()
    from diagnet.clinic.listener import Listener
    from diagnet.clinic.queue import Queue
    from diagnet.clinic.result_page import require_report
    from diagnet.clinic.worker import Worker, WorkerSettings
    from diagnet.inference.assessment import Policy
    from diagnet.inference.predictive_value import find_held_out
    from diagnet.inference.predictor import shipped_run

    read_apart(SERVER_PROCESSES)
    start_reading()
    _check(forward, place, trust, tasks)
    worklist = _worklist(tasks, trust, limits) if tasks.worklist else None
    if results.pdf:
        require_report()
    destination = _destination(forward, place, trust)
    settings, tls = _listener_settings(place, limits), _server_tls(trust)
    model = _ready_model(run, results.engine)
    held_out = find_held_out(run or shipped_run()) if results.pdf else None
    tell, signals = _teller(quiet=quiet, as_json=as_json), _signals()
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
                notes=worklist is not None,
            ),
            held_out=held_out,
        )
        performer = None if worklist is None else _performer(queue, worklist, worker, destination, tell, tasks)
        with Listener(queue, worker.wake, tell, settings, tls).running() as listener:
            worker.start()
            if performer is not None:
                performer.start()
            for notice in _exposure(place.host, trust, tasks.worklist):
                tell(notice, "")
            tell(f"listening on {place.host}:{listener.port} as {place.ae}. {model.notice}", "")
            signals.get()
        if performer is not None:
            performer.stop()
        worker.stop()
    tell("stopped", "")


def _check(forward: str, place: Place, trust: Trust, tasks: Tasks) -> None:
    """Refuse options that do not go together."""
    if (trust.cert is None) != (trust.key is None):
        raise typer.BadParameter("--cert and --key must be given together.")
    if not 0 < len(place.ae.strip()) <= 16:
        raise typer.BadParameter("--ae must be an AE title of 1 to 16 characters.")
    speaks_tls = (
        trust.cert is not None
        or trust.forward_tls
        or any(each.startswith("https://") for each in (forward, tasks.worklist))
    )
    if trust.ca is not None and not speaks_tls:
        raise typer.BadParameter("--ca must come with --cert and --key, --forward-tls or an https address.")
    if tasks.worklist and not (tasks.worklist_code or tasks.worklist_station):
        raise typer.BadParameter("--worklist must come with --worklist-code or --worklist-station: which are ours?")


def _exposure(bind: str, trust: Trust, worklist: str = "") -> Iterator[str]:
    """What the start says where others can reach us, or read along, in the open."""
    from diagnet.app.settings import is_loopback

    if worklist.startswith("http://") and not is_loopback(urlsplit(worklist).hostname or ""):
        yield "what is asked of --worklist is not encrypted. Fix: an https address"

    if not is_loopback(bind) and trust.cert is None:
        yield f"others can reach {bind}, and nothing is encrypted. Fix: --cert and --key, and --ca for known peers"


def _destination(forward: str, place: Place, trust: Trust) -> "Destination":
    """Where results go."""
    from diagnet.clinic.forward import parse_destination
    from diagnet.clinic.listener import client_tls

    tls = client_tls(trust.cert, trust.key, trust.ca) if trust.forward_tls else None
    return parse_destination(forward, place.ae, tls, trust.ca if forward.startswith("https://") else None)


def _worklist(tasks: Tasks, trust: Trust, limits: Limits) -> "Worklist":
    """The worklist, and how we come to it."""
    from diagnet.app.settings import is_loopback, read_token
    from diagnet.clinic.listener import client_tls
    from diagnet.clinic.worklist import Worklist
    from diagnet.errors import SettingsError

    file = tasks.worklist_token_file
    found = Worklist(
        tasks.worklist,
        tls=client_tls(trust.cert, trust.key, trust.ca),
        token=None if file is None else read_token(file, "--worklist-token-file"),
        fetch_from=[each.strip() for each in tasks.fetch_from.split(",") if each.strip()],
        max_object_bytes=1_000_000 * limits.max_object_mb,
    )
    scheme, host, _ = found.origin
    if file is not None and scheme == "http" and not is_loopback(host):
        raise SettingsError("`--worklist` must be an https address where a token goes to another machine, got http")
    return found


def _performer(
    queue: "Queue", worklist: "Worklist", worker: "Worker", destination: "Destination", tell: Tell, tasks: Tasks
) -> "Performer":
    from diagnet.clinic.forward import Node, WebArchive
    from diagnet.clinic.performer import Performer, PerformerSettings
    from diagnet.clinic.workitem import Code

    where = destination.url if isinstance(destination, WebArchive) else ""
    where = destination.title if isinstance(destination, Node) else where
    settings = PerformerSettings(
        code=Code.parse(tasks.worklist_code) if tasks.worklist_code else None,
        station=Code.parse(tasks.worklist_station) if tasks.worklist_station else None,
        poll_seconds=tasks.worklist_seconds,
        step_seconds=min(5.0, tasks.worklist_seconds),
    )
    return Performer(queue, worklist, worker, where, tell, settings)


def _listener_settings(place: Place, limits: Limits) -> "ListenerSettings":
    from diagnet.clinic.listener import ListenerSettings

    return ListenerSettings(
        ae_title=place.ae,
        bind=place.host,
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
    from diagnet.inference.predictor import load_model

    model = load_model(run, engine=engine.value)
    _ = model.malignant_class  # refused before anything is received
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


def _signals() -> "SimpleQueue[int]":
    """The signals that end us, as they come; no event, whose lock the thread that waits may hold when one comes."""
    come: SimpleQueue[int] = SimpleQueue()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, _: come.put(number))
    return come
