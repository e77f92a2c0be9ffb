"""What an installed diagnet says, held against the files that its user has: those of the wheel."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "diagnet"
# Files of the repository, as a text would name them; a run's own files lie elsewhere.
NAMED = re.compile(
    r"(?:\b(?:docs|examples|benchmarks|tests|src|evidence)|\.ci)/[\w./-]*\w"
    r"|\b(?:README|CHANGELOG|CONTRIBUTING)\.md\b|\bconstraints\.txt\b|\bContainerfile\b|\bMakefile\b|\bpyproject\.toml\b"
)
PAGE = re.compile(r"diagnet docs ([\w/-]+)")
# One names pyproject.toml for who changes it, the other the files of the bundle that it writes.
SKIPPED = {"extras.py", "monai_bundle.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's files, in a folder of their own."""
    for name in ("hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(name, reason="not installed: the wheel was not built")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as files:
        files.extractall(folder / "site")
    return folder / "site"


def texts():
    """(file, text) of all that diagnet may show: strings and docstrings of its code, the page, the shipped model."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix == ".py" and path.name not in SKIPPED:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield path, node.value
        elif path.suffix in (".html", ".js", ".css", ".md", ".toml", ".json"):
            yield path, path.read_text(encoding="utf-8")


def lost(found, folder):
    """What of it is not in the folder of the installed package."""
    pages = [f"docs/{name}.md" for _, text in found for name in PAGE.findall(text)]
    files = [name for _, text in found for name in NAMED.findall(text)]
    return [name for name in (*pages, *files) if not (folder / name).exists()]


def test_no_text_points_to_a_file_that_the_wheel_lacks(wheel):
    found = list(texts())
    assert sum(bool(PAGE.search(text) or NAMED.search(text)) for _, text in found) > 1
    assert not lost(found, wheel / "diagnet")


@pytest.mark.parametrize(
    "text",
    ["see docs/none.md.", "see `diagnet docs none`", "as examples/digits.py does", "see README.md", "run .ci/run"],
)
def test_a_text_that_points_to_no_file_is_found(text, tmp_path):
    assert lost([(Path(), text)], tmp_path)


def test_all_pages_are_in_the_wheel_and_the_verb_finds_them_there(wheel, tmp_path):
    def diagnet(*words):
        return subprocess.run(
            [sys.executable, "-m", "diagnet.cli", "docs", *words], cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(wheel)},
        )  # fmt: skip

    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    listed = json.loads(diagnet("--json").stdout)
    assert Path(listed["folder"]) == wheel / "diagnet" / "docs"
    assert {*listed["pages"]} == pages
    assert "intended-use" in diagnet().stdout
    assert diagnet("intended-use").stdout.startswith("# Intended use\n")
    assert diagnet("docs/evidence/speed.md").stdout == (ROOT / "docs" / "evidence" / "speed.md").read_text() + "\n"
    none = diagnet("none")
    assert none.returncode == 2
    assert "must name a page, got none. Fix: `diagnet docs` lists them." in " ".join(none.stderr.split())


def test_the_container_copies_what_the_wheel_is_built_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    copied = re.findall(r"^COPY (.+) /src/", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert {*project["wheel"]["force-include"], "src", "pyproject.toml", "README.md"} <= set(" ".join(copied).split())
    assert {*project["wheel"]["force-include"]} <= {*project["sdist"]["include"]}
