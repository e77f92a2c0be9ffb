"""Options in groups: the command line shows what the fields say, the verb gets values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from diagnet.cli import app
from diagnet.cli.options import grouped


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
