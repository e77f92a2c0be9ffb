import importlib
import importlib.metadata
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom.data
import pytest

from diagnet.cli import doctor
from diagnet.errors import MissingExtraError
from diagnet.extras import DISTRIBUTION, install_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PLACES = (
    "diagnet.inference.engines", "diagnet.run.report", "diagnet.training.tracking", "diagnet.study.features",
    "diagnet.study.running", "diagnet.study.search", "diagnet.clinic.source", "diagnet.cli.serve", "diagnet.data.dicom",
)  # fmt: skip
TEXTS = [
    *(path for folder in ("src", "tests", "docs", "benchmarks", "examples") for path in (ROOT / folder).rglob("*")),
    *(ROOT / name for name in ("README.md", "Makefile", "CONTRIBUTING.md", ".ci/run", "constraints.txt")),
]


@pytest.fixture
def without(monkeypatch):
    """Make packages look as if they were not installed."""

    def without(*packages):
        for place in PLACES:
            importlib.import_module(place)  # with all they need
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)
        missing = lambda name, *_: None if name.partition(".")[0] in packages else object()  # noqa: E731
        monkeypatch.setattr("importlib.util.find_spec", missing)
        for place in PLACES[:2]:
            monkeypatch.setattr(f"{place}.find_spec", missing)

    return without


def _report():
    from diagnet.run.report import require_report

    require_report()


def _dicom():
    from diagnet.data.dicom import read_mammogram

    read_mammogram(Path(pydicom.data.get_testdata_file("MR_small_jpeg_ls_lossless.dcm")))


def _engine(name):
    from diagnet.inference.engines import resolve_engine

    resolve_engine(name, ())


def _tracker(folder, **settings):
    from diagnet.training.tracking import TrackingSettings, open_trackers

    open_trackers(TrackingSettings(**settings), folder, {}, first_epoch=0)


def _study():
    from diagnet.study.features import hand_crafted

    hand_crafted(np.zeros((1, 8, 8), np.float32), [])


def _pacs():
    from diagnet.clinic.source import require_pacs

    require_pacs()


def _dask():
    from diagnet.study.running import _executor

    with _executor(None, "tcp://127.0.0.1:1"):
        pass


def _hpo():
    from diagnet.study.search import _optuna

    _optuna()


def _serve():
    from diagnet.cli.serve import serve

    serve(Path("run"))


ASKED = {
    "report": (("matplotlib",), _report),
    "dicom": ((), _dicom),
    "onnx": (("onnxruntime",), lambda: _engine("onnxruntime")),
    "openvino": (("openvino",), lambda: _engine("openvino")),
    "tensorboard": (("torch.utils.tensorboard",), lambda: _tracker(Path(), tensorboard=True)),
    "mlflow": (("mlflow",), lambda: _tracker(Path(), mlflow="x")),
    "study": (("skimage",), _study),
    "pacs": (("highdicom",), _pacs),
    "dask": (("distributed",), _dask),
    "hpo": (("optuna",), _hpo),
    "serve": (("uvicorn",), _serve),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_lacks_an_extra_names_the_command_that_installs_it(without, monkeypatch, extra):
    packages, ask = ASKED[extra]
    without(*packages)
    if extra == "dicom":
        monkeypatch.setattr("diagnet.data.dicom_file.get_decoder", lambda _: SimpleNamespace(available_plugins=()))
    with pytest.raises(
        MissingExtraError, match=rf"must be installed for this\. Fix: {re.escape(install_command(extra))}$"
    ):
        ask()


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_is_of_this_python_and_this_package(monkeypatch, extra):
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    words = shlex.split(install_command(extra))
    assert words == ["/a folder/python", "-m", "pip", "install", f"diagnet-mammography[{extra}]"]
    assert PROJECT["name"] == DISTRIBUTION == "diagnet-mammography"
    assert [*PROJECT["scripts"]] == ["diagnet"]


def test_each_extra_that_is_named_is_one():
    sources = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r'MissingExtraError\([^)]*, "(\w+)"\)|_require\([^)]*extra="(\w+)"', sources)
    found = {name for pair in named for name in pair if name}
    assert len(found) > 6
    assert found <= EXTRAS.keys()


def test_nothing_tells_anybody_to_install_somebody_elses_package():
    for path in TEXTS:
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", "", ".js", ".html")
            and path.is_file()
            and path != Path(__file__)
        ):
            assert not re.search(r"""pip[^\n`]* install [^\n`]*\bdiagnet(?![-\w/])""", path.read_text()), path
            assert not re.search(r"""(requires|version|distribution|files)\(["']diagnet["']\)""", path.read_text()), (
                path
            )


def test_doctor_without_metadata_says_so(monkeypatch, capsys):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert doctor._extras() == {}
    assert (
        capsys.readouterr().err == "diagnet: diagnet-mammography is not installed here, so its extras are not known\n"
    )


def test_doctor_knows_the_extras_by_the_packages_own_name(monkeypatch):
    asked = []
    needs = [f"{each} ; extra == '{extra}'" for extra, packages in EXTRAS.items() for each in packages]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked.append(name) or ["numpy>=1", *needs])
    found = doctor._extras()
    assert asked == [DISTRIBUTION]
    assert found.keys() == EXTRAS.keys()
    assert found["dicom"].keys() >= {"pyjpegls", "python-gdcm"}
