import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny import ARMS, tiny
from typer.testing import CliRunner

from diagnet.cli import app
from diagnet.data.manifest import read_manifest
from diagnet.errors import DataError
from diagnet.study.arms import Arm
from diagnet.study.jobs import Job, Rows, parts
from diagnet.study.results.row_files import is_done, pack_arm, read_jobs, write_rows
from diagnet.study.results.tables import write_tables
from diagnet.study.running import claim_study, pack_study, run_study

N_FOLDS, N_REPEATS = 3, 2
ARM = Arm("plain", "plain")


class Killed(BaseException):
    """Stands for a kill: nothing is cleaned up after it but what `finally` does."""


def write_job(out, fold, repeat, seconds=7.0):
    """Three rows, told apart by their scores."""
    scores = np.array([fold, repeat, -1.0]) / 8
    rows = Rows(["test", "test", "validation"], np.array([3, 1, 2]), scores, seconds)
    write_rows(Job(ARM, fold, repeat).path(out), rows)


@pytest.fixture
def arm(tmp_path):
    for fold in range(N_FOLDS):
        for repeat in range(N_REPEATS):
            write_job(tmp_path, fold, repeat)
    return tmp_path / ARM.name


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_packed_rows_are_those_of_the_jobs(arm):
    before = read_jobs(arm, N_REPEATS)
    assert pack_arm(arm) == N_FOLDS * N_REPEATS
    assert files(arm) == ["rows.csv"]
    assert list(read_jobs(arm, N_REPEATS).items()) == list(before.items())
    assert read_jobs(arm, 1).keys() == {(fold, 0) for fold in range(N_FOLDS)}
    assert (arm / "rows.csv").read_text().splitlines()[:3] == [
        "fold,repeat,part,index,score,seconds",
        "0,0,test,3,0.00000,7",
        "0,0,test,1,0.00000,7",
    ]


def test_packing_again_adds_what_is_new_and_changes_nothing_else(arm):
    first = read_jobs(arm, 9)
    pack_arm(arm)
    content = (arm / "rows.csv").read_bytes()
    assert pack_arm(arm) == 0
    assert (arm / "rows.csv").read_bytes() == content
    write_job(arm.parent, 0, 5)
    assert is_done(Job(ARM, 0, 5), arm.parent)
    assert read_jobs(arm, 9).keys() == {*first, (0, 5)}
    assert pack_arm(arm) == 1
    assert {place: rows for place, rows in read_jobs(arm, 9).items() if place != (0, 5)} == first
    assert is_done(Job(ARM, 0, 5), arm.parent)
    assert not is_done(Job(ARM, 1, 5), arm.parent)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "again"])
def test_a_kill_at_any_moment_loses_no_row_and_doubles_none(arm, tmp_path, monkeypatch, earlier):
    if earlier:  # some of them are packed already
        kept = tmp_path / "kept"
        kept.mkdir()
        for name in files(arm)[3:]:
            (arm / name).rename(kept / name)
        pack_arm(arm)
        for path in kept.iterdir():
            path.rename(arm / path.name)
    before = read_jobs(arm, N_REPEATS)
    assert len(before) == N_FOLDS * N_REPEATS
    n_kills = 0
    for moment in range(100):
        here = tmp_path / f"kill{moment}" / ARM.name
        shutil.copytree(arm, here)
        with monkeypatch.context() as patched:
            left = [moment]

            def counted(do, left=left):
                def done(*args, **more):
                    left[0] -= 1
                    if left[0] < 0:
                        raise Killed
                    return do(*args, **more)

                return done

            for name in ("write_bytes", "replace", "unlink"):
                patched.setattr(Path, name, counted(getattr(Path, name)))
            try:
                pack_arm(here)
            except Killed:
                n_kills += 1
        assert read_jobs(here, N_REPEATS) == before, moment
        assert all(is_done(Job(ARM, *place), here.parent) for place in before)
        pack_arm(here)
        assert read_jobs(here, N_REPEATS) == before, moment
        assert not list(here.glob("fold*"))
        if left[0] >= 0:
            break
    assert n_kills == moment >= 3 + (3 if earlier else 6)  # writing, its place, and each file deleted


def test_jobs_that_end_and_readers_that_look_while_it_packs_miss_nothing(tmp_path):
    out, ended, wrong = tmp_path, [], []
    is_over = threading.Event()

    def keep_packing():
        while not is_over.is_set():
            pack_arm(out / ARM.name)

    def keep_reading():
        while not is_over.is_set():
            known = list(ended)
            missing = [place for place in known if not is_done(Job(ARM, *place), out)]
            missing += [place for place in known if place not in read_jobs(out / ARM.name, 99)]
            if missing:
                wrong.append(missing)

    (out / ARM.name).mkdir()
    threads = [threading.Thread(target=each, daemon=True) for each in (keep_packing, keep_reading)]
    for thread in threads:
        thread.start()
    for k in range(40):
        write_job(out, k % 5, k // 5)
        ended.append((k % 5, k // 5))
    is_over.set()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert wrong == []
    pack_arm(out / ARM.name)
    assert len(read_jobs(out / ARM.name, 99)) == 40


def test_two_results_of_one_job_are_told(arm):
    pack_arm(arm)
    write_job(arm.parent, 1, 1)  # the same once more
    assert len(read_jobs(arm, N_REPEATS)) == N_FOLDS * N_REPEATS
    write_job(arm.parent, 1, 1, seconds=8.0)
    with pytest.raises(DataError, match=r"one result of fold 1, repeat 1, got another one in rows.csv. Fix: delete"):
        pack_arm(arm)
    assert files(arm) == ["fold1-repeat1.csv", "rows.csv"]


@pytest.mark.parametrize("text", ["fold,repeat,part,index,score,seconds\n0,x,test,0,0.1,1\n", "part\n", ""])
def test_a_packed_file_that_is_none_is_told(tmp_path, text):
    folder = tmp_path / ARM.name
    folder.mkdir()
    (folder / "rows.csv").write_text(text)
    for read in (lambda: read_jobs(folder, 1), lambda: is_done(Job(ARM, 0, 0), tmp_path)):
        with pytest.raises(DataError, match=r"rows.csv` must hold a job's rows"):
            read()


def test_a_packed_study_goes_on_and_its_tables_are_the_same(manifest, tmp_path, monkeypatch):
    out, masses = tmp_path / "study", read_manifest(manifest)

    def scored(job, *_, **__):
        test = parts(masses, job, 2)[2]
        scores = np.random.default_rng([len(job.arm.name), job.fold]).normal(size=len(test))
        return Rows(["test"] * len(test), test, scores, 1.0)

    monkeypatch.setattr("diagnet.study.running.run_job", scored)
    monkeypatch.setattr("diagnet.study.running.worker_processes", _Here)
    claim_study(tiny(manifest), masses, out, joins=False)
    assert run_study(tiny(manifest), out, workers=1, shard=(0, 2)) == 2
    done = CliRunner().invoke(app, ["study", "pack", str(out)])
    assert (done.exit_code, done.output) == (0, f"2 files packed in {out}\n")
    assert run_study(tiny(manifest), out, workers=1) == 2  # the other shard's alone
    write_tables(out, masses)
    tables = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".csv", ".svg")}
    assert "arms.csv" in tables
    assert pack_study(out) == 2
    assert run_study(tiny(manifest), out, workers=1) == 0
    write_tables(out, masses)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".csv", ".svg")} == tables
    assert [files(out / arm.name) for arm in ARMS] == [["rows.csv"]] * 2


def test_a_job_that_was_packed_since_is_not_run(manifest, tmp_path, monkeypatch):
    one, out = tiny(manifest, arms=ARMS[:1]), tmp_path / "study"
    claim_study(one, read_manifest(manifest), out, joins=False)
    first, second = one.jobs()

    def packed_meanwhile(job, *_, **__):
        assert job == first
        rows = Rows(["test"], np.array([0]), np.array([0.5]), 1.0)
        write_rows(second.path(out), rows)  # another worker ends it, and somebody packs
        pack_study(out)
        return rows

    monkeypatch.setattr("diagnet.study.running.run_job", packed_meanwhile)
    monkeypatch.setattr("diagnet.study.running.worker_processes", _Here)
    assert run_study(one, out, workers=1) == 1
    assert read_jobs(out / ARMS[0].name, 1).keys() == {(0, 0), (1, 0)}


class _Here:
    """Runs a job where it is submitted."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def submit(self, do, *args, **more):
        from concurrent.futures import Future

        future = Future()
        future.set_result(do(*args, **more))
        return future


def test_only_arms_of_the_study_are_packed(manifest, tmp_path):
    out = tmp_path / "study"
    claim_study(tiny(manifest), read_manifest(manifest), out, joins=False)
    for folder in (out / "mine", tmp_path / "outside"):
        write_rows(folder / "fold0-repeat0.csv", Rows(["test"], np.array([0]), np.array([0.5]), 1.0))
    record = out / "study.json"
    record.write_text(record.read_text().replace('"plain"', '"../outside"', 1))
    assert pack_study(out) == 0
    assert files(out / "mine") == files(tmp_path / "outside") == ["fold0-repeat0.csv"]
