"""A finished run that somebody edited is one line, and gives no score."""

import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hostile_runs
from diagnet.app.server import create_app
from diagnet.cli import main
from diagnet.config import Config, read_config
from diagnet.errors import DiagNetError, RunFolderError, SettingsError
from diagnet.inference.model import load_model
from diagnet.run.seal import KEY_VARIABLE, check_seal, read_key, seal
from runs import write_run

SEALED = hostile_runs.edits(sealed=True)
OLD = hostile_runs.edits(sealed=False)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory) -> Path:
    run = write_run(tmp_path_factory.mktemp("sealed"), threshold=0.5)
    (run / "config.toml").write_text(Config.from_preset("small", {"roi": {"size": 16}}).to_toml())
    (run / "predictions.csv").write_text("image,patient_id,label,malignancy\n")
    (run / "model" / "manifest.json").unlink()
    seal(run)
    return run


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("image") / "crop.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def edited(sealed, tmp_path):
    """Copy the run, without its seal where wanted, and edit it."""

    def make(edit, *, is_sealed):
        run = tmp_path / "run"
        shutil.copytree(sealed, run)
        if not is_sealed:
            (run / "model" / "manifest.json").unlink()
            hostile_runs.change(run / "run.json", sealed=False)
        edit(run)
        return run

    return make


def predicted(run, image, monkeypatch, capsys):
    """Exit code, standard output and the lines of standard error, without the warning of an old run."""
    monkeypatch.setattr(sys, "argv", ["diagnet", "predict", str(run), str(image), "--json"])
    code = 0
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            main()
        except SystemExit as ended:
            code = ended.code
    out, errors = capsys.readouterr()
    return code, out, [line for line in errors.splitlines() if "has no manifest.json" not in line]


@pytest.mark.parametrize(
    ("name", "is_sealed"), [*((name, True) for name in SEALED if name not in OLD), *((name, False) for name in OLD)]
)
def test_an_edited_run_is_one_line_and_gives_no_score(edited, image, monkeypatch, capsys, name, is_sealed):
    run = edited(SEALED[name], is_sealed=is_sealed)
    code, out, lines = predicted(run, image, monkeypatch, capsys)
    assert (code, out, len(lines)) == (1, "", 1), lines
    assert lines[0].startswith("diagnet: `")
    assert len(lines[0]) < 600


def test_a_server_and_a_listener_do_not_start_with_it(edited, tmp_path):
    from diagnet.cli.listen import _ready_model
    from diagnet.cli.runs import Engine

    run = edited(SEALED["threshold NaN"], is_sealed=False)
    with pytest.warns(UserWarning, match=r"has no manifest\.json"), pytest.raises(DiagNetError, match="`threshold`"):
        create_app(run, tmp_path / "state")
    with pytest.warns(UserWarning, match=r"has no manifest\.json"), pytest.raises(DiagNetError, match="`threshold`"):
        _ready_model(run, Engine.torch)


def test_a_run_from_before_the_seal_scores_as_ever_and_says_so(edited, sealed, image, monkeypatch, capsys):
    run = edited(lambda _: None, is_sealed=False)
    with pytest.warns(UserWarning, match=r"has no manifest\.json, so that .* Fix: diagnet seal"):
        model = load_model(run, engine="torch")
    assert model.sha256 == load_model(sealed, engine="torch").sha256
    code, out, _ = predicted(run, image, monkeypatch, capsys)
    assert code in (0, 3)  # noise is no mass, and may be refused
    assert model.sha256 in out
    seal(run)
    assert load_model(run, engine="torch").sha256 == model.sha256


def test_the_order_of_the_classes_is_part_of_the_hash_that_scores_name(sealed, edited):
    swapped = edited(SEALED["classes swapped in all files"], is_sealed=False)
    with pytest.warns(UserWarning, match="has no manifest"):
        model = load_model(swapped, engine="torch")
    assert model.classes == ("malignant", "benign")
    assert model.sha256 != load_model(sealed, engine="torch").sha256


def test_a_signed_run_needs_its_key(edited, tmp_path, monkeypatch):
    run = edited(lambda _: None, is_sealed=True)
    for name in ("ours", "others"):
        (tmp_path / name).write_text(f"{name} and sixteen bytes\n")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "ours"))
    with pytest.raises(RunFolderError, match="must be signed with the key of DIAGNET_SEAL_KEY"):
        load_model(run, engine="torch")
    assert seal(run, read_key(tmp_path / "ours", "--key")).signature
    load_model(run, engine="torch")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "others"))
    with pytest.raises(RunFolderError, match="must be signed"):
        load_model(run, engine="torch")
    (run / "model" / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match="must be there, got none"):
        load_model(run, engine="torch")
    for content in ("short", None):
        (tmp_path / "others").unlink()
        if content:
            (tmp_path / "others").write_text(content)
        with pytest.raises(SettingsError, match=f"`{KEY_VARIABLE}` must name a"):
            load_model(run, engine="torch")
        (tmp_path / "others").touch()


def test_a_seal_is_not_set_anew_over_files_that_were_changed(edited):
    run = edited(SEALED["threshold 0.9"], is_sealed=True)
    with pytest.raises(RunFolderError, match="must be as it was sealed"):
        seal(run)
    (run / "model" / "manifest.json").unlink()
    assert seal(run).threshold == 0.9
    assert check_seal(run, None) is not None


@pytest.mark.parametrize(
    "assignment",
    ["classes=5", "network=5", "classes=[[]]", "a" + ".a" * 5000 + "=1", "classes=" + "[" * 9000 + "]" * 9000,
     "roi.size=" + "9" * 5000, "training=" + "{a=" * 50 + "1" + "}" * 50],
)  # fmt: skip
def test_a_hostile_setting_is_one_short_line(assignment):
    with pytest.raises(SettingsError, match="must be") as told:
        read_config(None, None, [assignment])
    assert "\n" not in str(told.value)
