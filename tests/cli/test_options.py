"""Options in groups: the command line shows what the fields say, the verb gets values."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from diagnet.cli import app
from diagnet.cli.options import grouped, taking


@dataclass(frozen=True)
class Limits:
    at: Annotated[str, typer.Option(help="When.")]
    seconds: Annotated[int, typer.Option(help="How long.", min=1)] = 60


def run(*arguments):
    own, seen = typer.Typer(rich_markup_mode=None, add_completion=False), []

    @own.command()
    @grouped
    def wait(*, place: Path, again: bool = False, limits: Limits, sure: bool = False) -> None:
        """Wait somewhere."""
        seen.append((place, again, limits, sure))

    return CliRunner().invoke(own, arguments), seen


def test_a_verb_gets_its_values():
    done, seen = run("here", "--at", "noon", "--seconds", "3", "--sure")
    assert done.exit_code == 0, done.output
    assert seen == [(Path("here"), False, Limits("noon", 3), True)]
    assert run("here", "--at", "noon")[1] == [(Path("here"), False, Limits("noon"), False)]


def test_help_is_in_order_and_what_must_be_given_comes_first():
    text = run("--help")[0].output
    names = ("place", "--at", "--again", "--seconds", "--sure")
    assert sorted(names, key=text.index) == list(names)
    assert "Wait somewhere." in text


def test_values_are_checked_as_ever():
    assert run("here")[0].exit_code == run("here", "--at", "x", "--seconds", "0")[0].exit_code == 2


@pytest.mark.parametrize("verbs", [[], ["study"]], ids=["diagnet", "diagnet study"])
def test_short_helps_read_whole(verbs):
    text = CliRunner().invoke(app, [*verbs, "--help"], env={"COLUMNS": "80"}).output
    lines = text.partition("Commands:\n")[2].splitlines()
    assert len(lines) > 10
    for line in lines:
        assert line.startswith("  ")
        assert line.endswith(".")
        assert not line.endswith("..."), line
        assert line.count("(") == line.count(")"), line


def renamed(*arguments):
    own, seen = typer.Typer(rich_markup_mode=None, add_completion=False), []

    @own.command(cls=taking({"--sr": "--marks", "--force": "--allow"}))
    def score(
        files: list[str],
        marks: Annotated[list[str] | None, typer.Option()] = None,
        allow: Annotated[bool, typer.Option("--allow")] = False,
    ) -> None:
        seen.append((files, marks or [], allow))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = CliRunner().invoke(own, arguments)
    return done, seen, [str(each.message) for each in warned]


@pytest.mark.parametrize("typed", [["--sr", "x"], ["--sr=x"], ["--sr", "x", "--sr", "y"]])
def test_an_old_name_of_an_option_works_and_warns_once(typed):
    done, seen, warned = renamed("a", *typed)
    assert done.exit_code == 0, done.output
    assert seen == [(["a"], [each.removeprefix("--sr=") for each in typed if each != "--sr"], False)]
    assert warned == ["`--sr` is now `--marks`; the old name works until the next version"]


def test_old_and_new_name_at_once_are_one_error():
    done, seen, warned = renamed("a", "--sr", "x", "--marks=y")
    assert (done.exit_code, seen, warned) == (2, [], [])
    assert "`--marks` must be given by one name, got its old name `--sr` too" in done.output


def test_new_names_do_not_warn_and_what_follows_two_hyphens_is_a_file():
    assert renamed("a", "--marks", "x", "--allow")[1:] == ([(["a"], ["x"], True)], [])
    assert renamed("--", "a", "--force")[1:] == ([(["a", "--force"], [], False)], [])


@pytest.mark.parametrize(
    ("verb", "old", "new"),
    [
        ("predict", "--sr", "--marks"),
        ("predict", "--force", "--allow-missing-preamble"),
        ("listen", "--bind", "--host"),
    ],
)
def test_help_has_new_names_alone_and_the_verb_takes_the_old(verb, old, new):
    text = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
    assert f"{new} " in text
    assert f"{old} " not in text
    with pytest.warns(FutureWarning, match=f"`{old}` is now `{new}`"):
        CliRunner().invoke(app, [verb, old, "x", "--help"])
