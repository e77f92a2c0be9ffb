import json

import pytest

from diagnet.errors import MissingExtraError
from diagnet.training.tracking import TrackingSettings, open_trackers

ROWS = [{"epoch": e, "fold": 0, "loss": 1.0 / e, "signed_graph_loss": None, "validation_auc": 0.5} for e in (1, 2)]


def log(settings, out, rows, first_epoch=0):
    trackers = open_trackers(settings, out, {"seed": 3, "training": {"epochs": 2}}, first_epoch=first_epoch)
    for tracker in trackers:
        for row in rows:
            tracker.log(row, 0)
        tracker.close()
    return trackers


def test_none_by_default(tmp_path):
    assert log(TrackingSettings(), tmp_path, ROWS) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed: not tested")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(TrackingSettings(tensorboard=True), tmp_path, ROWS[:1])
    log(TrackingSettings(tensorboard=True), tmp_path, ROWS[1:], first_epoch=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("fold-0/loss")] == [(1, 1.0), (2, 0.5)]
    assert "fold-0/signed_graph_loss" not in events.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_goes_on_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server of its own would be slow
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed: not tested")
    settings = TrackingSettings(mlflow=f"file:{tmp_path}/mlruns")
    out = tmp_path / "run"
    log(settings, out, ROWS[:1])
    log(settings, out, ROWS[1:], first_epoch=1)
    client = mlflow.MlflowClient(tracking_uri=settings.mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("diagnet").experiment_id])
    assert run.data.params == {"seed": "3", "training.epochs": "2"}
    assert [m.value for m in client.get_metric_history(run.info.run_id, "fold-0/loss")] == [1.0, 0.5]


@pytest.mark.parametrize(("package", "settings"), [("tensorboard", {"tensorboard": True}), ("mlflow", {"mlflow": "x"})])
def test_a_missing_tracker_names_its_install_command(tmp_path, monkeypatch, package, settings):
    for name in (package, "torch.utils.tensorboard"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'diagnet-mammography\[{package}\]'"):
        log(TrackingSettings(**settings), tmp_path, ROWS)
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == "[]"
