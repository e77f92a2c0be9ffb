"""Looks for good settings with Optuna: on inner folds alone, a search of its own for each outer fold."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ValidationError, model_validator

from diagnet.config import merged, one_line, read_toml
from diagnet.data.mass import MassSet
from diagnet.errors import MissingExtraError, SettingsError
from diagnet.evaluation.bootstrap import weighted_auc
from diagnet.progress import Progress, silent
from diagnet.renamed import with_new_names
from diagnet.study.arms import Arm
from diagnet.study.jobs import Job, run_job
from diagnet.study.results.row_files import write_rows
from diagnet.study.results.scores import truth_of
from diagnet.study.running import Study, claim_study
from diagnet.study.worker_processes import worker_processes

if TYPE_CHECKING:
    import optuna


class Range(BaseModel, frozen=True, extra="forbid"):
    """What a setting may be: one of some choices, or between two ends."""

    choices: tuple[Any, ...] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False

    @model_validator(mode="after")
    def _one_of_two(self) -> "Range":
        has_ends = self.low is not None and self.high is not None and self.low < self.high
        if (self.choices is not None) == has_ends:
            raise ValueError("a range must have `choices`, or `low` below `high`")
        return self

    def draw(self, trial: "optuna.Trial", name: str) -> Any:
        """Ask a trial for a value; whole ends give whole numbers."""
        if self.choices is not None:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)


SPACE: Mapping[str, Range] = {
    "training.graph_weight": Range(low=0.003, high=1.0, log=True),
    "training.margin": Range(low=0.1, high=1.0),
    "training.learning_rate": Range(low=3e-4, high=3e-3, log=True),
    "graph.n_attracting": Range(low=0, high=4),
    "graph.n_repelling": Range(low=0, high=6),
    "neighbors.positive_ratio": Range(low=0.0, high=1.0),
    "neighbors.negative_ratio": Range(low=0.0, high=0.5),
}


def read_space(path: Path) -> dict[str, Range]:
    """Read what may be searched: a TOML table for each setting, `["training.margin"]`, `low = 0.1`, `high = 1.0`.

    Raises:
        SettingsError: the file cannot be read, or a table is no range.
    """
    space = {}
    for name, table in with_new_names(read_toml(path, "--space")).items():
        try:
            space[name] = Range.model_validate(table)
        except ValidationError as error:
            raise SettingsError(f"`{name}` must be a range in {path}: {one_line(error)}") from error
    if not space:
        raise SettingsError(f"`--space` must hold at least one setting, got none in {path}")
    return space


def search(
    study: Study,
    masses: MassSet,
    out: Path,
    space: Mapping[str, Range],
    n_trials: int,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Search settings for each outer fold on masses of its own training patients.

    A trial trains on the fold's training patients, except an inner fold (one in each repeat). The mean AUC there is
    its merit. It scores the outer fold too, which is not read before `choice.csv` is made. A search knows nothing of
    another fold's, where its own test masses are inner ones. The trials are in `search.journal`: any number
    of processes and machines that see the folder may join, and a killed search goes on.

    Args:
        study: data, shared settings, folds and repeats; its arms are not used.
        masses: its data.
        out: the study's folder, claimed.
        space: what may be searched, by the name of the setting.
        n_trials: finished trials wanted in each fold.
        workers: processes here, by default one a core.
        progress: called after each trial.

    Raises:
        MissingExtraError: Optuna is not installed.
        SettingsError: a name in `space` is no setting.
    """
    storage = _storage(out)
    for name, one in space.items():
        low = one.choices[0] if one.choices else one.low
        Arm("space", "", _nested({name: low})).config(study.base)  # says what is wrong with it
    for fold in range(study.folds):
        _optuna().create_study(storage=storage, study_name=f"fold{fold}", direction="maximize", load_if_exists=True)
    run = partial(_run_trial, study, masses, out, dict(space), n_trials)
    wanted = [fold for _ in range(n_trials) for fold in range(study.folds)]
    progress("trials", 0, len(wanted))
    with ExitStack() as stack:
        runs: Iterator[str] = map(run, wanted)
        if workers != 1:
            runs = stack.enter_context(worker_processes(workers)).map(run, wanted)
        for n_done, told in enumerate(runs, 1):
            progress("trials", n_done, len(wanted), told)


def _run_trial(study: Study, masses: MassSet, out: Path, space: Mapping[str, Range], n_trials: int, fold: int) -> str:
    """One trial of a fold, if it needs another; what to say of it."""
    optuna = _optuna()
    found = optuna.load_study(study_name=f"fold{fold}", storage=_storage(out))
    trials = found.get_trials(deepcopy=False)
    if sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials) >= n_trials:
        return f"fold {fold}: searched"
    found.sampler = optuna.samplers.TPESampler(seed=1000 * fold + len(trials))  # one worker finds the same again
    trial = found.ask()
    drawn = {name: one.draw(trial, name) for name, one in space.items()}
    told = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in drawn.items()}
    what = ", ".join(f"{name} {value}" for name, value in told.items())
    arm = Arm(f"fold{fold}-trial{trial.number}", what, _nested(drawn), holdout=True)
    claim_study(replace(study, arms=[arm]), masses, out, joins=True)
    truth, merits = truth_of(masses, study.folds), []
    for repeat in range(study.repeats):
        job = Job(arm, fold, repeat)
        rows = run_job(job, study.data, study.base, study.folds)
        write_rows(job.path(out), rows)
        inner = np.array(rows.parts) == "validation"
        merits.append(weighted_auc(rows.scores[inner], truth.targets[rows.index[inner]], np.ones((1, inner.sum())))[0])
    found.tell(trial, float(np.mean(merits)))
    return f"fold {fold}: inner AUC {np.mean(merits):.3f}, best {found.best_value:.3f}"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"training.margin": 1}` -> `{"training": {"margin": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        for key in reversed(name.split(".")):
            value = {key: value}
        nested = merged(nested, value)
    return nested


def _storage(out: Path) -> Any:
    storages = _optuna().storages
    path = str(out / "search.journal")
    lock = storages.journal.JournalFileOpenLock(path)
    return storages.JournalStorage(storages.journal.JournalFileBackend(path, lock_obj=lock))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "hpo") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
