"""Shapes and types of every diagnet function are checked at run time in the tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

install_import_hook("diagnet", "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbis-ddsm"


@pytest.fixture(scope="session")
def shared_masses() -> Path:
    """The folder of real masses beside the checkout; a test that needs it says "skipped" where it is not."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data/cbis-ddsm is not there: the test on real masses was not run")
    return SHARED


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """See a function's own errors for wrong shapes, as users do: the run-time checks are the tests' alone."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
