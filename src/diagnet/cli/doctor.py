"""The verb that tells what is installed: doctor."""

import os
import sys

from diagnet.cli.shared import Json, print_json


def doctor(as_json: Json = False) -> None:
    """Tell what is installed, and how to install what is missing.

    It looks at extras, decoders of DICOM, engines and the device.
    """
    from diagnet.data.dicom_file import decoders
    from diagnet.extras import install_command
    from diagnet.run.folder import versions
    from diagnet.training.device import resolve_compute

    compute = resolve_compute()
    extras, found = _extras(), versions()
    facts = {
        "device": str(compute.device),
        "precision": compute.precision,
        "memory_format": compute.memory_format,
        "processors": os.cpu_count(),
    }
    if as_json:
        every = {package: version for packages in extras.values() for package, version in packages.items()}
        print_json({"versions": found | every, "extras": extras, "decoders": decoders(), **facts})
        return
    for package, version in found.items():
        print(f"{package:<22} {version}")
    for extra, packages in extras.items():
        print(f"\nextra {extra}")
        for package, installed in packages.items():
            missing = f"missing. Fix: {install_command(extra)}"
            print(f"  {package:<20} {installed or missing}")
    print("\nDICOM, by what decodes it")
    for syntax, decoder in decoders().items():
        missing = f"nothing. Fix: {install_command('dicom')}"
        print(f"  {decoder or missing:<20} {syntax}")
    print()
    for name, value in facts.items():
        print(f"{name:<22} {value}")


def _extras() -> dict[str, dict[str, str | None]]:
    """Packages of each extra and their versions, None where one is missing, as diagnet's own metadata name them.

    A source tree that is not installed has no metadata, and so no extras.
    """
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    from diagnet.extras import DISTRIBUTION

    found: dict[str, dict[str, str | None]] = {}
    try:
        requirements = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        print(f"diagnet: {DISTRIBUTION} is not installed here, so its extras are not known", file=sys.stderr)
        requirements = []
    for requirement in requirements:
        named = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", requirement)
        if named is None:
            continue
        package, extra = named.groups()
        packages = found.setdefault(extra, {})
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = None
    return found
