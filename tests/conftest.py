"""Shapes and types of every diagnet function are checked at run time in the tests."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import config, install_import_hook
from PIL import Image

install_import_hook("diagnet", "beartype.beartype")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "cbis-ddsm"


@pytest.fixture(scope="session")
def shared_masses() -> Path:
    """The folder of real masses beside the checkout; a test that needs it says "skipped" where it is not."""
    if not SHARED.is_dir():
        pytest.skip("../shared/data/cbis-ddsm is not there: the test on real masses was not run")
    return SHARED


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 60 synthetic masses of 30 patients, each an image of its own."""
    from diagnet.data.phantom import PhantomSettings, make_masses  # after the hook

    folder = tmp_path_factory.mktemp("masses")
    images, labels = make_masses(60, rng=np.random.default_rng(0), settings=PhantomSettings(size=48))
    rows = ["image,patient_id,laterality,view,label,x0,y0,x1,y1"]
    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray((image * 255).astype(np.uint8)).save(folder / f"{k}.png")
        rows.append(f"{k}.png,P{k // 2},L,CC,{('benign', 'malignant')[label]},8,8,40,40")
    path = folder / "masses.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """See a function's own errors for wrong shapes, as users do: the run-time checks are the tests' alone."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, trained for three epochs on synthetic masses.

    It forgets what they looked like: tests score mammograms with it, which are far from pictures of 32 x 32 pixels.
    """
    from diagnet.experiment import run_experiment
    from diagnet.run.seal import seal
    from test_experiment import phantoms, tiny  # after the hook

    run = run_experiment(tiny(), phantoms(), tmp_path_factory.mktemp("finished") / "run", with_report=False).folder
    facts = json.loads((run / "model" / "fold-0.json").read_text())
    del facts["domain"]
    (run / "model" / "fold-0.json").write_text(json.dumps(facts))
    (run / "model" / "manifest.json").unlink()
    seal(run)
    return run


@pytest.fixture
def print_figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a measured figure printed at the end of the run, also where another process ran the test."""
    return lambda line: record_property("figure", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    figures = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if figures:
        terminalreporter.section("measured")
        terminalreporter.write("\n".join([*figures, ""]))
