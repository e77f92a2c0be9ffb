"""What can be installed beside the core, and the command that does it."""

import shlex
import sys

DISTRIBUTION = "diagnet-mammography"  # on the package index `diagnet` is somebody else's


def install_command(extra: str) -> str:
    """Return the command that installs an extra into the Python that runs this, to be pasted into a shell.

    Args:
        extra: its name in pyproject.toml; several are parted by commas.
    """
    return f"{shlex.quote(sys.executable)} -m pip install '{DISTRIBUTION}[{extra}]'"
