"""Runs the jobs of a study: in a plain folder, by any number of workers and machines, none of them twice."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from diagnet.config import Config, merged
from diagnet.data.mass import MassSet
from diagnet.data.sources import source_names
from diagnet.errors import MissingExtraError, RunFolderError, SettingsError
from diagnet.progress import Progress, silent
from diagnet.run.folder import git_revision, read_json, versions, write_json
from diagnet.study.arms import Arm
from diagnet.study.jobs import Job, Rows, run_job
from diagnet.study.results.row_files import LOCKS, held_study, is_done, lock_folder, pack_arm, write_rows
from diagnet.study.results.scores import RECORD, identity, seconds_of
from diagnet.study.worker_processes import worker_processes

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Study:
    """A study: arms, each trained on every fold in every repeat.

    Attributes:
        name: of the study.
        arms: what is compared.
        data: manifests and prepared folders, read as one set of masses.
        base: settings all arms share.
        folds: outer folds.
        repeats: seeds.
        tests: name and manifest of further masses, scored whole by every job of an arm that has margins.
        distinct_patients: patients of one name in two of `data` are two patients.
    """

    name: str
    arms: Sequence[Arm]
    data: tuple[Path, ...]
    base: Config
    folds: int = 5
    repeats: int = 3
    tests: tuple[tuple[str, Path], ...] = ()
    distinct_patients: bool = False

    def jobs(self) -> list[Job]:
        """All jobs; a whole repeat of every arm before the next, so that an unfinished study is a balanced one."""
        return [
            Job(arm, fold, repeat) for repeat in range(self.repeats) for fold in range(self.folds) for arm in self.arms
        ]


def claim_study(
    study: Study, masses: MassSet, out: Path, *, joins: bool, tests: Mapping[str, MassSet] | None = None
) -> Sequence[str]:
    """Begin a study's folder, or join the one that is there.

    Args:
        study: what to run.
        masses: its data.
        out: the folder.
        joins: a study may be there already (`--resume`, or a shard); arms may be added to it.
        tests: further masses by name, those of `study.tests`.

    Returns:
        Revisions of diagnet that had a part in the study, this one last: a setting may have changed its meaning.

    Raises:
        RunFolderError: another study is there, or an arm of the same name with other settings.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"`--out` must be a writable folder, got: {error.strerror}: {out}") from error
    with held_study(out):
        record = out / RECORD
        own: dict[str, Any] = {
            "folds": study.folds,
            "data": identity(masses),
            "settings": study.base.model_dump(mode="json"),
            **_of_sources(study, tests or {}),
        }
        arms = {arm.name: _described(arm) for arm in study.arms}
        before = read_json(record) if record.exists() else None
        if before is None and any(path.name != LOCKS for path in out.iterdir()):
            raise RunFolderError(f"`--out` must be an empty or new folder, or a study's, got {out} with other files")
        if before is not None:
            if not joins:
                raise RunFolderError(f"`--out` must be a new folder, got a study in {out}. Fix: add --resume to go on")
            known = Config.stored(before["settings"]).model_dump(mode="json")
            stored = {**before, "settings": known}
            for key in dict.fromkeys([*own, *_OF_SOURCES]):
                if own.get(key) != stored.get(key):
                    raise RunFolderError(f"`--out` must keep the {key} the study in {out} began with, got others")
            defaults = _json({each.name: each.default for each in fields(Arm) if each.default is not MISSING})
            for name, described in arms.items():
                kept = {**defaults, **before["arms"].get(name, described), "what": described["what"]}
                if merged({}, kept) != merged({}, described):  # `merged` reads old names of settings
                    raise RunFolderError(f"`{name}` must keep the settings it has in {out}, got others")
            arms = {**{name: {**defaults, **arm} for name, arm in before["arms"].items()}, **arms}
        here: dict[str, Any] = {"git_revision": git_revision(), "versions": versions()}
        facts, revision = before or here, _revision(here)
        revisions = [*(each for each in facts.get("revisions", [_revision(facts)]) if each != revision), revision]
        repeats = max(study.repeats, before["repeats"]) if before else study.repeats
        write_json(
            record,
            {
                **facts,
                "revisions": revisions,
                "schema_version": SCHEMA_VERSION,
                "study": study.name,
                **own,
                "repeats": repeats,
                "arms": arms,
            },
        )
    return revisions


def _revision(facts: Mapping[str, Any]) -> str:
    """What diagnet is called that a record is of: its commit, or its version where it is installed without one."""
    return str(facts["git_revision"] or facts["versions"]["diagnet"])


def run_study(
    study: Study,
    out: Path,
    *,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
    scheduler: str | None = None,
    progress: Progress = silent,
) -> int:
    """Run the jobs that are not done and that no other process is doing; each leaves a small CSV file.

    A job whose worker was killed is free again at once: locks belong to processes, not to files. Where no job has been
    measured yet, the first one runs alone, to estimate how long the rest will take.

    Args:
        study: what to run; its folder is claimed.
        out: the study's folder; with several machines, one that all see.
        workers: processes here, by default one a core; results do not depend on it.
        shard: (i, n): the i-th of n parts of the jobs.
        scheduler: address of a Dask scheduler whose workers run the jobs (`[dask]`); they must see the data.
        progress: called after each job.

    Returns:
        How many jobs were run.

    Raises:
        MissingExtraError: `scheduler` is given and dask is not installed.
    """
    jobs = study.jobs()[shard[0] :: shard[1]]
    waiting = [job for job in jobs if not is_done(job, out)]
    n_done = len(jobs) - len(waiting)
    measured = [seconds for arm in study.arms for seconds in seconds_of(out / arm.name, study.repeats)]
    held: dict[Future[Rows], tuple[Job, FileLock]] = {}
    n_run = 0
    with _executor(workers, scheduler) as (executor, n_at_once):
        progress("runs", n_done, len(jobs), _left(measured, len(waiting), n_at_once))
        try:
            while waiting or held:
                while waiting and len(held) < (n_at_once if measured else 1):
                    job = waiting.pop(0)
                    lock = _lock_of(job, out)
                    try:
                        lock.acquire(blocking=False)
                    except Timeout:  # another worker is at it
                        continue
                    if is_done(job, out):
                        lock.release()
                        continue
                    held[
                        executor.submit(
                            run_job,
                            job,
                            study.data,
                            study.base,
                            study.folds,
                            tests=study.tests,
                            distinct_patients=study.distinct_patients,
                        )
                    ] = job, lock
                finished = wait(held, return_when=FIRST_COMPLETED).done if held else set()
                for future in finished:
                    job, lock = held.pop(future)
                    rows = future.result()
                    write_rows(job.path(out), rows)
                    lock.release()
                    n_run += 1
                    measured.append(rows.seconds)
                    left = sum(not is_done(each, out) for each in jobs)
                    note = f"{job.arm.name} fold {job.fold} repeat {job.repeat} took {rows.seconds:.0f} s"
                    progress("runs", len(jobs) - left, len(jobs), f"{note}; {_left(measured, left, n_at_once)}")
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            for _, lock in held.values():
                lock.release()
    return n_run


def pack_study(out: Path) -> int:
    """Put the rows of each arm into one file, `<arm>/rows.csv`; workers may go on meanwhile.

    Returns:
        How many files of single jobs went.

    Raises:
        RunFolderError: it is no study.
        DataError: an arm's rows cannot be read, or differ; this arm is left as it is.
    """
    arms = read_json(out / RECORD).get("arms", {})
    with held_study(out):
        return sum(pack_arm(folder) for folder in sorted(out.iterdir()) if folder.name in arms)


def duration(seconds: float) -> str:
    """A time people can read: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def parse_shard(text: str) -> tuple[int, int]:
    """`1/4` -> (1, 4).

    Raises:
        SettingsError: it is not i/n with 0 <= i < n.
    """
    first, _, n = text.partition("/")
    if not (first.isdecimal() and n.isdecimal() and int(first) < int(n)):
        raise SettingsError(f"`--shard` must be i/n with i from 0 to n - 1, got {text!r}")
    return int(first), int(n)


def _left(measured: Sequence[float], n_jobs: int, n_at_once: int) -> str:
    """How long the jobs that are left will take, by those measured."""
    if not measured or n_jobs == 0:
        return "the first run is measured alone" if n_jobs else ""
    seconds = float(np.median(measured)) * -(-n_jobs // n_at_once)
    return f"{n_jobs} runs left, about {duration(seconds)} with {n_at_once} at once"


def _lock_of(job: Job, out: Path) -> FileLock:
    return FileLock(lock_folder(out) / f"{job.arm.name}-fold{job.fold}-repeat{job.repeat}.lock")


@contextmanager
def _executor(workers: int | None, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Local processes or a Dask cluster behind one interface, and how many jobs to hold at once."""
    if scheduler is not None:
        try:
            from distributed import Client
        except ImportError:
            raise MissingExtraError("dask", "dask") from None
        with Client(scheduler) as client, client.get_executor(pure=False) as executor:
            yield executor, max(1, sum(client.nthreads().values()))
        return
    n = workers or os.cpu_count() or 1
    with worker_processes(n) as executor:
        yield executor, n


def _described(arm: Arm) -> dict[str, Any]:
    """What is kept about an arm, and tells it from another of its name."""
    return _json(asdict(arm))


_OF_SOURCES = ("sources", "tests", "distinct_patients")  # keys of a record, where there are any


def _of_sources(study: Study, tests: Mapping[str, MassSet]) -> dict[str, Any]:
    """What is kept about sources and further tests; nothing for a study of one source without them."""
    found: dict[str, Any] = {}
    if len(study.data) > 1 or tests:
        found["sources"] = source_names(study.data)
        found["tests"] = {name: identity(test) for name, test in tests.items()}
        found["distinct_patients"] = study.distinct_patients
    return found


def _json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come back from a file."""
    return dict(json.loads(json.dumps(values)))
