import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

import diagnet
from diagnet.cli import app
from diagnet.config import Config
from dicom_files import write_dicom

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands():
    """Every `diagnet ...` line of a code block or code span in the docs."""
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
        for line in re.findall(r"^(?:\.venv/bin/)?diagnet (.+)$", blocks, re.MULTILINE):
            yield page.name, line


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_commands_of_the_docs_exist(page, line):  # noqa: ARG001 -- the page names the test
    verb, *words = shlex.split(line, comments=True)
    command = get_command(app).commands[verb]
    while words and words[0] in getattr(command, "commands", {}):  # a verb of a verb: `study curve`
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options
    for setting in [words[k + 1] for k, word in enumerate(words) if word == "--set"]:
        section, _, key = setting.partition("=")[0].partition(".")
        value = getattr(Config(), section)
        assert not key or key in type(value).model_fields


def verbs(command, name="diagnet"):
    """Every verb there is, and the verbs of a verb."""
    for each, below in command.commands.items():
        yield from verbs(below, f"{name} {each}") if hasattr(below, "commands") else [(f"{name} {each}", below)]


@pytest.mark.parametrize(("name", "verb"), list(verbs(get_command(app))))
def test_help_says_what_each_option_is(name, verb):
    assert [(name, parameter.name) for parameter in verb.params if not getattr(parameter, "help", None)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_settings_in_the_table_are_the_preset_smalls():
    config = Config.from_preset("small")
    table = re.findall(r"^\| (`[a-z].*?) \| (.*?) \|", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    checked = 0
    for names, values in table:
        keys = re.findall(r"`([a-z_.]+)`", names)
        if not keys or "." not in keys[0]:
            continue
        for key, value in zip(keys, values.split(", "), strict=True):
            section, name = key.split(".")
            found = getattr(getattr(config, section), name)
            assert (f"{found:g}" if isinstance(found, float) else str(found).lower()) == value, key
            checked += 1
    assert checked > 20


def test_the_guide_to_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "python.md").read_text()
    pixels = np.full((2700, 1300), 200, np.uint16)
    pixels[2350:2520, 980:1180] += (1000 * np.random.default_rng(0).random((170, 200))).astype(np.uint16)
    write_dicom(tmp_path / "mammogram.dcm", pixels)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102 -- our own page
    assert len(names["y_more"]) == 56
    assert capsys.readouterr().out.startswith(("benign", "malignant", "refused", "no call"))


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="not installed: the site was not built")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (built.returncode, built.stderr) == (0, "")
    page = (tmp_path / "site" / "api.html").read_text()
    for name in set(diagnet.__all__) - {"__version__", "assess"}:
        assert f".{name}" in page, name


def test_architecture_lists_the_tree():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "diagnet").rglob("*.py"):
        if path.name != "__init__.py" and path.parent.name != "report":
            assert path.name in page, path


def test_readme_fits_a_screen_and_its_imports_work():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 45
    for name in re.search(r"from diagnet import (.+)", readme)[1].split(", "):
        assert getattr(diagnet, name) is not None
    assert "NOT FOR CLINICAL USE" in readme


def test_on_a_package_index_no_link_of_the_readme_is_relative():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "README.md").read_text()
    for each in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 8
    assert all(link.startswith("https://") for link in links)
    assert "/raw.githubusercontent.com/" in next(link for link in links if link.endswith(".png"))


def test_make_knows_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()


def test_sentences_are_short():
    command = [sys.executable, str(ROOT / ".ci" / "sentences.py")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
    assert len(told.stdout.splitlines()) > 30  # each document has a line
