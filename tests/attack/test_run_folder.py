"""Two people and one run folder."""

import shutil
import sys

import pytest

from diagnet.cli import main
from diagnet.errors import RunFolderError
from diagnet.run.folder import claim, held, write_record


def told(monkeypatch, capsys, *arguments):
    """Exit code and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["diagnet", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("resume", [(), ("--resume",)])
@pytest.mark.parametrize("verb", ["train", "augment"])
def test_a_second_one_on_a_run_that_is_written_is_one_line_and_changes_nothing(
    manifest, tmp_path, monkeypatch, capsys, verb, resume
):
    out = tmp_path / "run"
    with held(out):
        write_record(out, {"status": "running"})
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        report = ("--no-report",) if verb == "train" else ()
        code, errors = told(monkeypatch, capsys, verb, manifest, "--out", out, "-q", *report, *resume)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert "`--out` must be written by one process, got " in errors
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in out.iterdir()) == ["run.json"]


def test_the_lock_of_a_dead_process_keeps_nobody_out(tmp_path):
    (tmp_path / ".lock").touch()
    with held(tmp_path):
        claim(tmp_path, {}, resume=False)
    assert not any(tmp_path.iterdir())


def test_a_folder_of_which_nothing_came_is_gone_and_a_file_is_refused(tmp_path):
    with held(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="`--out` must be a folder, got the file"), held(tmp_path / "file"):
        pass
    shutil.rmtree(tmp_path)
