"""Files of strangers are read in processes of their own, where memory and time are limited.

Whatever a decoder or a parser makes of a file, it costs one refusal and one process, which is started again. Results
come back as JSON and raw bytes in shared memory: nothing is unpickled.
"""

import atexit
import functools
import importlib.util
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from diagnet import errors
from diagnet.errors import DiagNetError, ReadingError

READING_SECONDS = 20.0  # for one file, after which its process is ended
READING_BYTES = 3 * 2**30  # of a process' address space: 100 million pixels need about three quarters
SERVER_PROCESSES = 2  # of a server, so that one slow file does not hold up the next
_START_SECONDS = 300.0  # a cold disk or a busy machine may take long to start a process; no file has a part in that
_GRACE_SECONDS = 2.0  # until the process is ended from here, where it could not end itself
_MAX_HEADER = 64 * 2**20  # bytes of JSON
_LENGTH = struct.Struct(">I")
_ALIGNED = 64  # bytes
_KEPT_BYTES = 128 * 2**20  # of shared memory, for the next file
_MAIN = "import sys; from diagnet.data.reading_process import _serve; _serve(*sys.argv[1:])"
_BEFOREHAND = ("diagnet.data.image", "pydicom.pixels.decoders")  # read in before memory is limited, and time counts

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_pool: "_Pool | None" = None
_pools: dict[tuple[int, float, int], "_Pool"] = {}


def read_apart(processes: int | None = None, *, seconds: float = READING_SECONDS, n_bytes: int = READING_BYTES) -> None:
    """Let this program read files in other processes from now on; where a system cannot limit them, nothing changes.

    Args:
        processes: at most so many at once, by default one per core; the first is started by the first file.
        seconds: for one file.
        n_bytes: of memory for one process.
    """
    global _pool
    read_here()
    if importlib.util.find_spec("resource") is not None and sys.executable:
        limits = processes or os.cpu_count() or 1, seconds, n_bytes
        _pool = _pools[limits] = _pools.get(limits) or _Pool(*limits)


def read_here() -> None:
    """Let this program read files in its own process again, as it does when it begins; the others wait for its end."""
    global _pool
    _pool = None


def start_reading() -> None:
    """Start a process that will soon read a file, while other work is done; nothing where files are read here."""
    if _pool is not None:
        _pool.start()


def apart(*kinds: type, name: str = "image") -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Let a function of a file run in another process, where `read_apart` was called; else it runs here.

    Its arguments and its result are plain values, paths, arrays, DICOM datasets, tuples, lists and dicts of them, or of
    the `kinds`. The first argument is the path.

    Args:
        kinds: dataclasses and named tuples in the result.
        name: of the file in an error.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def read(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            if _pool is None:
                return function(*args, **kwargs)
            found: Result = _pool.call(function, args, kwargs, kinds, name)
            return found

        return read

    return decorate


class _Pool:
    """The processes that wait for a file, and the right to start others."""

    def __init__(self, n: int, seconds: float, n_bytes: int) -> None:
        self._n, self._seconds, self._n_bytes = n, seconds, n_bytes
        self._renew()
        atexit.register(self.close)

    def call(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        kinds: Sequence[type],
        name: str,
    ) -> Any:
        """Have a function called; raises what it raises of `diagnet.errors`, or that its reading was ended."""
        if self._owner != os.getpid():  # a fork, whose parent has the processes
            self._renew()
        whole = {
            "function": f"{function.__module__}:{function.__qualname__}",
            "args": [_as_json(each, None) for each in args],
            "kwargs": {key: _as_json(value, None) for key, value in kwargs.items()},
            "folder": _folder(),
        }
        with self._places:
            process = self._waiting()
            process.wait_until_ready()
            began = time.monotonic()
            try:
                answer, memory = process.ask(whole)
            except (OSError, EOFError, struct.error, ValueError):  # it ended, or ends now
                code = process.end()
                limits = f"{self._seconds:g} s and {self._n_bytes / 2**30:g} GB of memory"
                is_late = code == -signal.SIGALRM or time.monotonic() - began >= self._seconds
                got = "a file that takes more" if is_late else "one that ended the process"
                raise ReadingError(f"`{name}` must be read within {limits}, got {got}: {args[0]}.") from None
            except BaseException:  # such as Ctrl-C: its answer would be taken for that to the next file
                process.end()
                raise
            self._free.append(process)
        if "error" in answer:
            raise self._error(answer, name, args[0])
        return _value(answer["result"], memory, {kind.__name__: kind for kind in kinds})

    def start(self) -> None:
        """Start a process, unless one waits already."""
        if self._owner == os.getpid() and not self._free:
            self._free.append(_Process(self._seconds, self._n_bytes))

    def close(self) -> None:
        """End all that wait."""
        while self._owner == os.getpid() and self._free:
            self._free.pop().end()

    def _renew(self) -> None:
        self._owner = os.getpid()
        self._free: list[_Process] = []
        self._places = threading.BoundedSemaphore(self._n)

    def _waiting(self) -> "_Process":
        while True:
            try:
                process = self._free.pop()
            except IndexError:
                return _Process(self._seconds, self._n_bytes)
            if process.is_alive:
                return process
            process.end()

    def _error(self, answer: Mapping[str, Any], name: str, path: Any) -> Exception:
        if answer["error"] == "MemoryError":
            limits = f"{self._seconds:g} s and {self._n_bytes / 2**30:g} GB of memory"
            return ReadingError(f"`{name}` must be read within {limits}, got a file that takes more: {path}.")
        kind = getattr(errors, answer["error"], None)
        if not (isinstance(kind, type) and issubclass(kind, DiagNetError)):
            return ReadingError(
                f"`{name}` must be a file that can be read, got an unexpected {answer['error']}: {path}."
            )
        error = kind.__new__(kind, answer["text"])
        vars(error).update(answer["facts"])
        return error


class _Process:
    """One process that reads files, one after the other."""

    def __init__(self, seconds: float, n_bytes: int) -> None:
        self._seconds = seconds
        self._memory: Callable[[], mmap.mmap | None] = lambda: None  # of the last arrays, while somebody has them
        self._socket, theirs = socket.socketpair()
        with theirs:
            paths = os.pathsep.join(path for path in sys.path if path)
            alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # each thread takes address space
            self._process = subprocess.Popen(  # noqa: S603 -- ourselves
                [sys.executable, "-P", "-c", _MAIN, str(theirs.fileno()), str(seconds), str(n_bytes)],
                env=os.environ | alone | {"PYTHONPATH": paths},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # what decoders say of a broken file may quote it
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is ours to answer
            )
        self._is_ready = False

    def wait_until_ready(self) -> None:
        """Wait until it can read, which is no file's fault; OSError where it never will."""
        if self._is_ready:
            return
        self._socket.settimeout(_START_SECONDS)
        try:
            _receive(self._socket)
            self._is_ready = True
        except BaseException as error:
            self.end()
            if isinstance(error, OSError | EOFError | ValueError):
                raise OSError("The process that reads files could not be started.") from None
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> tuple[dict[str, Any], mmap.mmap | None]:
        """Send a request and wait for its answer; OSError or EOFError where there will be none."""
        self._socket.settimeout(self._seconds + _GRACE_SECONDS)
        whole = json.dumps({**request, "is_free": self._memory() is None}).encode()
        self._socket.sendall(_LENGTH.pack(len(whole)) + whole)
        answer, memory = _receive(self._socket)
        if memory is not None:
            self._memory = weakref.ref(memory)
        return answer, memory

    def end(self) -> int:
        """End it, where it has not; return its exit code."""
        self._socket.close()
        with suppress(subprocess.TimeoutExpired):  # a moment, to see whether its own alarm ended it
            self._process.wait(0.1 if self.is_alive else 0)
        self._process.kill()
        return self._process.wait()


def _serve(handle: str, seconds: str, n_bytes: str) -> None:
    """Read files until nobody asks any more: the main function of a process."""
    import resource  # not on every system

    asked = socket.socket(fileno=int(handle))
    for module in _BEFOREHAND:
        importlib.import_module(module)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # before any other, where memory ends
    for limit, most in ((resource.RLIMIT_AS, int(n_bytes)), (resource.RLIMIT_CORE, 0)):
        with suppress(OSError, ValueError):  # a smaller limit is there already
            resource.setrlimit(limit, (most, most))
    _send(asked, {}, [], None)
    file = None
    while True:
        try:
            request, _ = _receive(asked)
        except (OSError, EOFError):
            return
        signal.setitimer(signal.ITIMER_REAL, float(seconds))  # the system ends us then, whatever we are in
        arrays: list[Any] = []
        answer = _answer(request, arrays)
        if arrays and (file is None or not request["is_free"]):
            file = _make_shared_file()  # else its pages are there already, which is most of what writing costs
        _send(asked, answer, arrays, file)
        if sum(each.nbytes for each in arrays) > _KEPT_BYTES:
            file = None
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(request: Mapping[str, Any], arrays: list[Any]) -> dict[str, Any]:
    module, _, name = request["function"].partition(":")
    try:
        if request["folder"] and request["folder"] != _folder():
            os.chdir(request["folder"])
        function = getattr(importlib.import_module(module), name)
        args = [_value(each, None, {}) for each in request["args"]]
        kwargs = {key: _value(value, None, {}) for key, value in request["kwargs"].items()}
        return {"result": _as_json(function(*args, **kwargs), arrays)}
    except Exception as error:
        if _came_of(error, MemoryError):
            return {"error": "MemoryError"}
        facts = {key: value for key, value in vars(error).items() if isinstance(value, str)}
        text = str(error) if isinstance(error, DiagNetError) else ""  # others may quote the file
        return {"error": type(error).__name__, "text": text, "facts": facts}


def _came_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _send(to: socket.socket, answer: Mapping[str, Any], arrays: Sequence[Any], file: Any) -> None:
    whole = json.dumps(answer).encode()
    head = _LENGTH.pack(len(whole))
    if arrays:
        file.seek(0)
        for array in arrays:
            file.write(bytes(-file.tell() % _ALIGNED))
            file.write(memoryview(array).cast("B"))
        file.truncate()
        socket.send_fds(to, [head], [file.fileno()])
    else:
        to.sendall(head)
    to.sendall(whole)


def _make_shared_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("diagnet"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _receive(sender: socket.socket) -> tuple[dict[str, Any], mmap.mmap | None]:
    head, handles, _, _ = socket.recv_fds(sender, _LENGTH.size, 1)
    memory = None
    try:
        if handles and os.fstat(handles[0]).st_size:
            memory = mmap.mmap(handles[0], 0, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
    finally:
        for handle in handles:
            os.close(handle)
    head += _exactly(sender, _LENGTH.size - len(head)) if head else b""
    if not head:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    if length > _MAX_HEADER:
        raise ValueError("`length` must be that of a header.")
    answer: dict[str, Any] = json.loads(_exactly(sender, length))
    return answer, memory


def _exactly(sender: socket.socket, n_bytes: int) -> bytes:
    parts, left = [], n_bytes
    while left:
        part = sender.recv(min(left, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _as_json(value: Any, arrays: list[Any] | None) -> Any:
    """Make JSON of a value; arrays are put aside, in the order in which they lie in shared memory."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"path": str(value)}
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: _as_json(getattr(value, each.name), arrays) for each in fields(value)}
        return {"kind": type(value).__name__, "fields": found}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        found = {name: _as_json(each, arrays) for name, each in zip(value._fields, value, strict=True)}
        return {"kind": type(value).__name__, "fields": found}
    if isinstance(value, tuple | list):
        return {type(value).__name__: [_as_json(each, arrays) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[_as_json(key, arrays), _as_json(each, arrays)] for key, each in value.items()]}
    if arrays is None:
        raise TypeError(f"`value` must be plain, got {type(value).__name__}.")
    import numpy as np  # here: --help waits for this file, and needs none

    start = sum(each.nbytes + -each.nbytes % _ALIGNED for each in arrays)
    array = np.ascontiguousarray(value)
    arrays.append(array)
    return {"array": [start, array.dtype.str, list(array.shape)]}


def _value(found: Any, memory: mmap.mmap | None, kinds: Mapping[str, type]) -> Any:
    """Make a value of JSON and shared memory."""
    if not isinstance(found, dict):
        return found
    if "kind" in found:
        return kinds[found["kind"]](**{name: _value(each, memory, kinds) for name, each in found["fields"].items()})
    ((form, inside),) = found.items()
    if form == "path":
        return Path(inside)
    if form == "dict":
        return {_value(key, memory, kinds): _value(each, memory, kinds) for key, each in inside}
    if form in ("tuple", "list"):
        return (tuple if form == "tuple" else list)(_value(each, memory, kinds) for each in inside)
    import numpy as np  # as above

    start, dtype, shape = inside
    n = int(np.prod(shape, dtype=np.int64))
    if memory is None or not n:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype, n, start).reshape(shape)
