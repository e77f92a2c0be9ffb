"""Experiment trackers that get each epoch's figures: TensorBoard and MLflow, behind one small protocol."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, Field

from diagnet.atomic import write_text
from diagnet.errors import MissingExtraError


class TrackingSettings(BaseModel, frozen=True, extra="forbid"):
    """Where training reports its epochs to, besides metrics.jsonl."""

    tensorboard: bool = Field(False, description="write event files to RUN/tensorboard (extra `tensorboard`)")
    mlflow: str = Field("", description="tracking URI of MLflow, http://localhost:5000 for example (extra `mlflow`)")


@runtime_checkable
class Tracker(Protocol):
    """A place that training reports each epoch to, such as TensorBoard or MLflow."""

    def log(self, row: Mapping[str, Any], fold: int) -> None:
        """Take the row of an epoch (as in metrics.jsonl) of a fold; what is no number is left out."""

    def close(self) -> None:
        """Write what is left; nothing is logged afterwards."""


def open_trackers(
    settings: TrackingSettings, out: Path, parameters: Mapping[str, Any], *, first_epoch: int
) -> list[Tracker]:
    """Make the trackers asked for.

    Args:
        settings: which.
        out: the run's folder.
        parameters: the run's settings, section by section.
        first_epoch: epochs already told by the run that is taken up again.

    Raises:
        MissingExtraError: a tracker is not installed.
    """
    trackers: list[Tracker] = []
    if settings.tensorboard:
        trackers.append(_TensorBoard(out / "tensorboard", first_epoch))
    if settings.mlflow:
        trackers.append(_MLflow(settings.mlflow, out, parameters))
    return trackers


class _TensorBoard:
    def __init__(self, folder: Path, first_epoch: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard") from error
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch + 1)

    def log(self, row: Mapping[str, Any], fold: int) -> None:
        for name, value in _numbers(row).items():
            self._writer.add_scalar(f"fold-{fold}/{name}", value, row["epoch"])

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run named after the run's folder; a run that is taken up again goes on in the same one."""

    def __init__(self, uri: str, out: Path, parameters: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingExtraError("mlflow", "mlflow") from error
        self._client = MlflowClient(tracking_uri=uri)
        known = out / "mlflow-run.txt"
        if known.exists():
            self._run = known.read_text(encoding="utf-8").strip()
            return
        experiment = self._client.get_experiment_by_name("diagnet")
        number = self._client.create_experiment("diagnet") if experiment is None else experiment.experiment_id
        self._run = self._client.create_run(number, run_name=out.name).info.run_id
        for section, values in parameters.items():
            for name, value in values.items() if isinstance(values, Mapping) else [("", values)]:
                self._client.log_param(self._run, f"{section}.{name}".rstrip("."), value)
        write_text(known, self._run + "\n")

    def log(self, row: Mapping[str, Any], fold: int) -> None:
        for name, value in _numbers(row).items():
            self._client.log_metric(self._run, f"fold-{fold}/{name}", value, step=row["epoch"])

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(v) for name, v in row.items() if isinstance(v, int | float) and name not in ("epoch", "fold")}
