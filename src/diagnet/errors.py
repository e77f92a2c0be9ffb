"""Expected errors, each of them one line on the command line."""

from collections.abc import Sequence

from diagnet.extras import install_command


class DiagNetError(Exception):
    """Bad data or a bad setting; the command line prints its message as one line and exits with `exit_code`.

    A message reads: `` `name` must <rule>, got <value>[ in <file>, row <n>].[ Fix: ...] `` and never holds a
    patient identifier. A programmer's mistake is a ValueError instead.
    """

    exit_code = 1


class DataError(DiagNetError):
    """A manifest, release, image or split that cannot be used."""


class ReadingError(DataError):
    """A file whose reading was ended: it took too long or too much memory, or a library broke down over it."""


class SettingsError(DiagNetError):
    """A setting that does not exist or has a value out of range."""


class TrainingError(DiagNetError):
    """Training that cannot go on; `points` are the batch in which that was seen."""

    def __init__(self, message: str, points: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.points = tuple(points)


class RunFolderError(DiagNetError):
    """An output folder that cannot be written, already holds a run, or is not a run."""


class RunInUseError(RunFolderError):
    """A run folder that another process is writing."""

    exit_code = 2


class RefusedInputError(DiagNetError):
    """A single input that must not be scored, with the reason."""

    exit_code = 3


class ExportError(DiagNetError):
    """An exported model that cannot be written, or does not score as its run does."""


class NetworkError(DiagNetError):
    """A peer that cannot be reached."""


class NotTakenError(NetworkError):
    """A peer that was reached and did not take what was sent."""


class MissingExtraError(DiagNetError):
    """An optional dependency is not installed; the message names the command that installs it."""

    exit_code = 4

    def __init__(self, package: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"`{package}` must be installed for this. Fix: {install_command(extra)}")


def printable(text: object) -> str:
    """Write something on one line: a file's name may hold line ends and the like."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text))
