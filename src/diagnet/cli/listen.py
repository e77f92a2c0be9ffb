"""The verb that stands between the archive and a model: listen."""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from diagnet.cli.runs import Engine
from diagnet.cli.shared import Json, Quiet


def listen(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    forward: Annotated[
        str, typer.Option(help="Where results go: HOST:PORT:AE, or http(s)://.../dicom-web.", show_default=False)
    ],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 11112,
    ae: Annotated[str, typer.Option(help="Our AE title.")] = "DIAGNET",
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    queue: Annotated[Path, typer.Option(help="Folder of the queue; it holds patients' data.")] = Path("diagnet-queue"),
    allow: Annotated[
        str, typer.Option(help="AE titles that may send, AE,AE,... [default: all]", show_default=False)
    ] = "",
    cert: Annotated[Path | None, typer.Option(help="Our certificate (PEM): speak TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    ca: Annotated[Path | None, typer.Option(help="Authorities (PEM): peers must have a certificate of theirs.")] = None,
    forward_tls: Annotated[bool, typer.Option("--forward-tls", help="Speak TLS with HOST:PORT:AE too.")] = False,
    picture: Annotated[bool, typer.Option(help="Send a secondary capture picture beside the report.")] = True,
    presentation: Annotated[bool, typer.Option(help="Send a presentation state beside the report.")] = True,
    allow_for_processing: Annotated[
        bool, typer.Option("--allow-for-processing", help="Score raw detector data too.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(case_sensitive=False, help="What scores; torch, as in predict, gives its scores.")
    ] = Engine.torch,
    max_associations: Annotated[int, typer.Option(help="Associations at one time.", min=1)] = 8,
    max_object_mb: Annotated[int, typer.Option(help="Size of one object.", min=1)] = 512,
    max_queue_gb: Annotated[float, typer.Option(help="Size of the queue.", min=0.001)] = 20.0,
    keep_hours: Annotated[float, typer.Option(help="How long images and marks wait for each other.", min=0.01)] = 168.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Take mammograms and marks by C-STORE, score the marked masses, send reports on; until interrupted."""
    from diagnet.clinic.source import require_pacs

    require_pacs()
    from diagnet.clinic.forward import parse_destination
    from diagnet.clinic.listener import Listener, ListenerSettings, client_tls, server_tls
    from diagnet.clinic.queue import Queue
    from diagnet.clinic.worker import Worker, WorkerSettings
    from diagnet.errors import RunFolderError
    from diagnet.inference.assessment import Policy
    from diagnet.inference.model import load_model
    from diagnet.notice import NOTICE
    from diagnet.run.folder import now

    if (cert is None) != (key is None):
        raise typer.BadParameter("--cert and --key must be given together.")
    if not 0 < len(ae.strip()) <= 16:
        raise typer.BadParameter("--ae must be an AE title of 1 to 16 characters.")
    if ca is not None and cert is None and not (forward_tls or forward.startswith("https://")):
        raise typer.BadParameter("--ca must come with --cert and --key, --forward-tls or an https address.")

    def tell(what: str, which: str) -> None:
        if as_json:
            print(json.dumps({"time": now(), "event": what, "of": which}), flush=True)
        elif not quiet:
            print(f"{now()} {which[:12]:<12} {what}", file=sys.stderr, flush=True)

    titles = tuple(title.strip() for title in allow.split(",") if title.strip())
    destination = parse_destination(
        forward, ae, client_tls(cert, key, ca) if forward_tls else None, ca if forward.startswith("https://") else None
    )
    settings = ListenerSettings(
        ae_title=ae,
        bind=bind,
        port=port,
        allow=titles,
        max_associations=max_associations,
        max_object_bytes=1_000_000 * max_object_mb,
    )
    tls = server_tls(cert, key, ca) if cert is not None and key is not None else None
    model = load_model(run, engine=engine.value)
    if "malignant" not in model.classes:
        raise RunFolderError(f"`RUN` must know the class malignant, got the classes {', '.join(model.classes)}")
    model.prepare()
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with Queue(queue, max_bytes=int(1e9 * max_queue_gb)).opened() as opened:
        worker = Worker(
            opened,
            model,
            destination,
            tell,
            policy=Policy(allow_for_processing=allow_for_processing),
            settings=WorkerSettings(picture=picture, presentation=presentation, keep_hours=keep_hours),
        )
        with Listener(opened, worker.wake, tell, settings, tls).running() as listener:
            worker.start()
            tell(f"listening on {bind}:{listener.port} as {ae}. {NOTICE}", "")
            stop.wait()
        worker.stop()
    tell("stopped", "")
