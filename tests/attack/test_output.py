"""What names and keys of others do to a terminal, a spreadsheet, a page; and what a killed process leaves."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diagnet.atomic import _machine, atomic_path, write_text
from diagnet.cli import main
from diagnet.cli.terminal import EscapedStream, escaped
from diagnet.config import Config
from diagnet.data.table import read_table, table_text
from diagnet.errors import RunFolderError
from diagnet.run.folder import read_records, write_table
from diagnet.run.model_card import write_model_card
from diagnet.run.schema import Metrics

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m\r"
FIGURE = {"value": 0.5, "low": None, "high": None}


def run_main(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["diagnet", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_no_control_character_of_a_column_or_a_file_name_reaches_the_terminal(tmp_path, monkeypatch, capsys):
    table = tmp_path / "masses.csv"
    table.write_text(f"image,patient_id,label\n{ESCAPE}.png\n,P1,benign{ESCAPE}\n")
    named = tmp_path / f"a{ESCAPE}\n.png"
    for arguments in (
        ("prepare", "manifest", table, "--out", tmp_path / "out"),
        ("train", table, "--out", tmp_path / "out", "--no-report", "--set", f"training.{ESCAPE}\n=1"),
        ("train", named, "--out", tmp_path / "out", "--no-report"),
        ("predict", named, "-q"),
    ):
        _, out, errors = run_main(monkeypatch, capsys, *arguments)
        assert all(letter.isprintable() or letter == "\n" for letter in out + errors), (out, errors)
        assert errors


def test_control_characters_are_spelled_and_other_letters_stay():
    assert escaped("a\x1b[1m\tKäthe 李\n", one_line=True) == "a\\x1b[1m\tKäthe 李\\n"
    assert escaped("\u202ea\x9b\r\x7f\n") == "\\u202ea\\x9b\\r\\x7f\n"


def test_a_bar_takes_names_as_they_are(monkeypatch):
    """Rich would take `[red]` for a color, and `[/]` for an end without a beginning."""
    import io

    from diagnet.cli.terminal import _bars

    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", EscapedStream(terminal))
    with _bars() as show:
        show("[red]fold[/] \x1b]0;x\x07", 1, 2, "[/] \x07")
    assert "[red]fold[/]" in terminal.getvalue()
    assert "\x1b]0;" not in terminal.getvalue()
    assert "\x07" not in terminal.getvalue()


cells = st.text(alphabet="'=+-@\t\r\n ,;\"a1.", max_size=6)


@settings(deadline=None)  # it writes files
@given(st.lists(st.tuples(cells, cells), min_size=1))
@example([("=1+1", "'=1"), ("''@a", "-1e5"), ("\t=", "-")])
def test_no_text_is_a_formula_and_all_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_table(path, ("a", "b"), rows)
    assert [(row["a"], row["b"]) for row in read_records(path)] == rows
    with path.open(newline="", encoding="utf-8") as file:
        written = [cell for row in csv.reader(file) for cell in row]
    for cell in written:
        if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
            float(cell)  # a number with its sign


def test_a_table_for_people_keeps_numbers_and_quotes_formulas(tmp_path):
    text = table_text(("image", "score"), [("=cmd|'/c calc'!A0", -0.5), ("+a.png", "-1.5")])
    assert text == "image,score\n'=cmd|'/c calc'!A0,-0.5\n'+a.png,-1.5\n"
    (tmp_path / "a.csv").write_text(text)
    assert [row.cells["image"] for row in read_table(tmp_path / "a.csv", ["image"])] == ["=cmd|'/c calc'!A0", "+a.png"]


def test_a_model_card_shows_names_and_runs_none(tmp_path):
    name = "<img src=x onerror=alert(1)>\n# [a](javascript:b) `c` *d* _e_ | &amp; \x1b"
    record = {
        "preset": "small", "seed": 0, "versions": {"diagnet": "0"}, "started": "now",
        "data": {
            "source": name, "sha256": "ab", "classes": [name, "malignant"], "left_out": {name: 1},
            "sources": {name: {"source": f"/a/{name}", "masses": 1, "patients": 1}}, "distinct_patients": False,
        },
        "counts": {},
    }  # fmt: skip
    mass = {"n": 1} | dict.fromkeys(("auc", "accuracy", "sensitivity", "specificity", "brier"), FIGURE)
    metrics = {"test": {"units": {"mass": mass}, "by_source": {name: mass}}}
    Metrics.model_validate(metrics)
    write_model_card(tmp_path, Config(), record, metrics)
    text = (tmp_path / "model_card.md").read_text()
    assert text.count("onerror") == 6
    assert "<" not in text
    assert not [line for line in text.splitlines() if "javascript" in line and r"\[a\](javascript:b)" not in line]
    assert r"\# \[a\](javascript:b) \`c\` \*d\* \_e\_ \| &amp;amp; ?" in text


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_reads_results(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "a.csv") as temporary:
            assert temporary.stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == mode


def test_a_folder_where_a_file_is_wanted_is_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(RunFolderError, match="must be a file, got the folder"):
        write_text(tmp_path, "a")
    (tmp_path / "scores.csv").mkdir()
    (tmp_path / "file").touch()
    image = tmp_path / "a.png"
    for arguments in (
        ("predict", image, "--out", tmp_path / "scores.csv"),
        ("predict", image, "--out", tmp_path / "file" / "scores.csv"),
        ("study", "compare", tmp_path / "a", tmp_path / "b", "--data", image, "--out", tmp_path / "scores.csv"),
        ("export", tmp_path, "--out", tmp_path),
        ("prepare", "manifest", image, "--out", tmp_path / "file"),
        ("demo", "--out", tmp_path / "file"),
        ("train", image, "--out", tmp_path / "file", "--no-report"),
    ):
        code, _, errors = run_main(monkeypatch, capsys, *arguments)
        assert (code, errors.count("\n")) == (1, 1), (arguments, errors)
        assert "Traceback" not in errors


_WRITER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests in the background ignores it
import diagnet.cli
from diagnet.atomic import atomic_path
def write():
    with atomic_path(Path(sys.argv[1])) as path:
        path.write_text("half")
        print("begun", flush=True)
        time.sleep(60)
diagnet.cli.app = write
diagnet.cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_nothing_or_what_the_next_write_removes(tmp_path, number):
    out = tmp_path / "out.csv"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, out], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.wait(10) in (-number, 1)
    assert len(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
    write_text(out, "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_what_others_write_or_keep_is_not_removed(tmp_path):
    beside = tmp_path / ".b.csv.0a0a0a0a-1-12345678.tmp.csv"  # of another machine, just written
    own = tmp_path / f".c.csv.{_machine()}-{os.getpid()}-12345678.tmp.csv"
    kept = tmp_path / ".d.csv.notes.tmp.csv"
    old = tmp_path / ".e.csv.0a0a0a0a-1-12345678.tmp"
    for path in (beside, own, kept, old):
        Path(path).touch()
    os.utime(old, (time.time() - 1e6,) * 2)
    write_text(tmp_path / "a.csv", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", beside.name, own.name, kept.name}
