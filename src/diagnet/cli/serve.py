"""The verb that opens the reader page: serve."""

import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diagnet.data.reading_process import SERVER_PROCESSES, read_apart, start_reading
from diagnet.errors import DataError, MissingExtraError, SettingsError

if TYPE_CHECKING:
    from diagnet.data.mass import MassSet
    from diagnet.data.prepared import Prepared


def serve(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a finished run. [default: the shipped model]", show_default=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="What RUN was trained on, for pictures of its masses.", show_default=False)
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, or a table of marked ones (.csv).", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Address; any but this machine's own needs a token.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must show.", show_default=False)
    ] = None,
    allow_unlike: Annotated[
        bool, typer.Option("--allow-unlike", help="Score regions far from all training masses too.")
    ] = False,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of reading sessions and the audit log. [default: ~/.local/state/diagnet]"),
    ] = None,
    names: Annotated[
        bool, typer.Option("--names", help="Show files by their own names, which may be patients'.")
    ] = False,
    audit_mb: Annotated[
        float, typer.Option(help="MB that the audit log may take; the oldest lines go.", min=0.001)
    ] = 100,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
) -> None:
    """Open the reader page in a browser: look, mark, understand. Nothing leaves this machine."""
    try:
        from diagnet.app.connections import Server
        from diagnet.app.server import create_app
        from diagnet.app.settings import server_settings
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("fastapi", "uvicorn", "starlette", "h11"):
            raise MissingExtraError(str(error.name), "serve") from None
        raise
    from diagnet.cli.shared import read_data
    from diagnet.clinic.report import write_structured_report
    from diagnet.config import read_run_config
    from diagnet.data.marked import find_marked
    from diagnet.inference.predictor import shipped_run

    read_apart(SERVER_PROCESSES)
    start_reading()
    settings = server_settings(host, port, token_file, allow_unlike=allow_unlike, audit_mb=audit_mb)
    listening = _bound(host, port)
    print("diagnet: loading the model and the list of images ...", file=sys.stderr, flush=True)
    run = shipped_run() if run is None else run
    masses = None if data is None else read_data(data, read_run_config(run))
    if images is not None and not images.exists():
        raise DataError(f"`--images` must be a folder or a table, got {images}, which is not there")
    shown = [] if images is None else find_marked([images])[0]
    app = create_app(
        run,
        state or Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "diagnet",
        settings=settings,
        data=masses,
        shown=shown,
        labels=None if masses is None else _labels(masses),
        write_report=write_structured_report,
        keep_names=names,
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes what it cannot read
    server = Server(app, settings)
    where = f"[{host}]" if ":" in host else host
    page = f"http://{where}:{listening.getsockname()[1]}/"
    print(f"{app.state.notice}\nReader page: {page}", flush=True)
    if not settings.is_loopback:
        print(
            f"diagnet: warning: {host} can be reached from other machines; they need the token in {token_file}, and"
            " what they send and see is not encrypted unless a proxy does that",
            file=sys.stderr,
        )
    if open_page:  # the socket listens already: the browser's request waits for the server
        import webbrowser

        webbrowser.open(page)
    server.run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket at an address; uvicorn's own way ends the program where it is taken."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"`--port` must be free, got {error.strerror}: {host}, {port}. Fix: --port 0") from None


def _labels(data: "MassSet | Prepared") -> dict[str, str]:
    """Label of each image by its real path: malignant, where any of its masses is."""
    from diagnet.data.mass import MALIGNANT
    from diagnet.data.prepared import mass_set_of

    found: dict[str, str] = {}
    for mass in mass_set_of(data).masses:
        if isinstance(mass.image, Path) and mass.label is not None:
            path = os.path.realpath(mass.image)
            found[path] = MALIGNANT if MALIGNANT in (mass.label, found.get(path)) else mass.label
    return found
