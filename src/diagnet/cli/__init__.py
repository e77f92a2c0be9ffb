"""The command line: one verb per job; imports late so that --help is instant."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from diagnet.cli import docs, doctor, listen, masses, predict, runs, serve, settings, study
from diagnet.cli.options import taking
from diagnet.cli.terminal import escaped, escaped_output
from diagnet.data.reading_process import read_apart, read_here
from diagnet.errors import DiagNetError
from diagnet.version import __version__


def _print_version(is_asked: bool) -> bool:
    if is_asked:
        print(f"diagnet {__version__}")
        raise typer.Exit
    return is_asked


app = typer.Typer(
    name="diagnet",
    help="Benign or malignant? DiagNet for breast masses in mammograms. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog="Example: diagnet demo --out demo")(runs.demo)
app.command(epilog="Example: diagnet prepare inbreast 'INbreast Release 1.0' --out data/inbreast")(masses.prepare)
app.command(epilog="Example: diagnet augment data/inbreast --out neighbors --seed 0 --budget 200")(masses.augment)
app.command(epilog="Example: diagnet train data/inbreast other/masses.csv --out runs/first --seed 0")(runs.train)
app.command(epilog="Example: diagnet evaluate runs/first --data other/masses.csv --json")(runs.evaluate)
app.command(
    epilog="Example: diagnet predict mammogram.dcm --box 928,2304,1239,2575",
    cls=taking({"--sr": "--marks", "--force": "--allow-missing-preamble"}),
)(predict.predict)
app.command(epilog="Example: diagnet serve runs/first --data masses.csv --images mammograms")(serve.serve)
app.command(epilog="Example: diagnet export runs/first --out first.onnx")(runs.export)
app.command(epilog="Example: diagnet pack runs/best masses.csv --out small")(runs.pack)
app.command(epilog="Example: diagnet seal runs/first --key site.key")(runs.seal)
app.command(
    epilog="Example: diagnet listen runs/first --port 11112 --ae DIAGNET --forward 127.0.0.1:4242:ORTHANC",
    cls=taking({"--bind": "--host"}),
)(listen.listen)
app.add_typer(study.app, name="study")
app.command(epilog="Example: diagnet settings --preset lite0")(settings.settings)
app.command(epilog="Example: diagnet docs predict")(docs.docs)
app.command(epilog="Example: diagnet doctor")(doctor.doctor)


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


class _EndedError(BaseException):
    """A signal that ends the program, after what is half-written has been removed."""

    def __init__(self, number: int) -> None:
        self.number = number


def main() -> None:
    """Run the command line; an expected failure is one line and an exit code."""
    warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {message}")
    read_apart()
    with escaped_output(), _ended_cleanly():
        try:
            app()
        except DiagNetError as error:
            _tell(str(error))
            sys.exit(error.exit_code)
        except BrokenPipeError:  # `diagnet ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except _EndedError as ended:
            signal.signal(ended.number, signal.SIG_DFL)
            signal.raise_signal(ended.number)  # so that who started it sees what ended it
        finally:
            read_here()


def _tell(message: str) -> None:
    print(f"diagnet: {escaped(message, one_line=True)}", file=sys.stderr)


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Let a signal that ends the program end its blocks first; a copy of the process ends as before."""
    process = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() == process:
            raise _EndedError(number)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    is_main = threading.current_thread() is threading.main_thread()
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if is_main and hasattr(signal, name)]
    ours = [number for number in names if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
