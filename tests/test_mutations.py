import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "mutations.py"
ENTRY = {
    "file": "rules.py",
    "claim": "a score at the threshold is called",
    "old": "score >= 0.5",
    "new": "score > 0.5",
    "tests": ["test_rules.py"],
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mutations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A project of one rule, whose test looks at the threshold alone; pytest's settings are ours."""
    shutil.copy(SCRIPT.parents[1] / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "diagnet").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "src" / "diagnet" / "rules.py").write_text(
        "def called(score):\n    return score >= 0.5\n\n\ndef high(score):\n    return score > 0.9\n"
    )
    (tmp_path / "src" / "diagnet" / "__init__.py").touch()
    (tmp_path / "tests" / "test_rules.py").write_text(
        "from diagnet.rules import called\n\n\ndef test_called():\n    assert called(0.5)\n"
    )
    return tmp_path


def test_each_mutation_fits_the_source(script):
    problems = []
    for entry in script.read_list():
        assert set(entry) - {"survives"} == {"file", "claim", "old", "new", "tests"}, entry
        try:
            script.mutated(entry)
        except ValueError as error:
            problems.append(str(error))
    assert problems == []


def test_no_mutation_is_there_twice(script):
    entries = [(entry["file"], entry["old"], entry["new"]) for entry in script.read_list()]
    assert len(set(entries)) == len(entries)
    claims = [(entry["file"], entry["claim"]) for entry in script.read_list()]
    assert len(set(claims)) == len(claims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "score"}, "`old` must occur once in the file, got 4 times"),
        ({"old": "no such line"}, "`old` must occur once in the file, got 0 times"),
        ({"new": "score >= 0.5"}, "`new` must differ"),
        ({"new": "score >="}, "`new` must be Python in its place"),
        ({"file": "moved.py"}, "the file must be there"),
        ({"tests": ["test_moved.py"]}, "got no tests/test_moved.py"),
    ],
)
def test_a_mutation_that_fits_no_more_is_told(script, checkout, change, message):
    with pytest.raises(ValueError, match=message):
        script.mutated(ENTRY | change, checkout)


def test_a_guarded_line_is_caught_and_another_survives(script, checkout):
    source = (checkout / "src" / "diagnet" / "rules.py").read_text()
    unguarded = ENTRY | {"old": "score > 0.9", "new": "score < 0.9", "claim": "high is above 0.9"}
    out = checkout.parent / "rows.jsonl"
    rows = script.run([ENTRY, unguarded], checkout, out=out)
    assert [(row["how"], row["caught"]) for row in rows] == [("failed", True), ("passed", False)]
    assert rows[0]["test"] == "test_rules.py::test_called"
    assert (checkout / "src" / "diagnet" / "rules.py").read_text() == source
    found = script.summary([ENTRY, unguarded], rows)
    assert (found["mutations"], found["caught"], found["gaps"]) == (2, 1, ["rules.py: high is above 0.9"])
    explained = script.summary([ENTRY, unguarded | {"survives": "nobody reads it"}], rows)
    assert (explained["gaps"], len(explained["explained"])) == ([], 1)

    told = []  # nothing is tried again
    assert script.run([ENTRY, unguarded], checkout, out=out, tell=told.append) == rows
    assert told == []
    assert list(map(json.loads, out.read_text().splitlines())) == rows
    with (checkout / "tests" / "test_rules.py").open("a") as file:  # unless a test has changed
        file.write("\n\ndef test_high():\n    from diagnet.rules import high\n\n    assert high(1)\n")
    assert [row["caught"] for row in script.run([ENTRY, unguarded], checkout, out=out)] == [True, True]


def test_tests_that_fail_by_themselves_say_nothing(script, checkout):
    (checkout / "tests" / "test_rules.py").write_text("def test_called():\n    assert False\n")
    with pytest.raises(ValueError, match="must pass without a mutation"):
        script.run([ENTRY], checkout)


def test_the_command_names_what_it_does(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "run", lambda entries, **_: [{"caught": True, "seconds": 1.0} for _ in entries])
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--json", "--only", "data/roi.py", "--without", "flip"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 0
    n_known = sum(entry["file"] == "data/roi.py" for entry in script.read_list())
    assert 1 < json.loads(capsys.readouterr().out)["mutations"] < n_known
