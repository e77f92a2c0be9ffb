import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from diagnet.cli import main
from diagnet.config import Config, read_config
from diagnet.version import __version__

QUICK = [
    *("--preset", "diagnet", "--set", "roi.size=32", "--set", "training.epochs=2", "--set", "neighbors.budget=10"),
    *("--set", "network.widths=[8,16]", "--set", "network.stem_widths=[4,8]", "--set", "evaluation.n_resamples=50"),
]


def diagnet(*arguments, **options):
    command = [sys.executable, "-m", "diagnet.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def in_process(monkeypatch, capsys):
    """`diagnet`, without the time a new process takes to import torch."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diagnet", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


def refused(done, code=1):
    """The one line a user sees when something is wrong."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("diagnet: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def run(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    done = diagnet("train", manifest, "--out", out, "--seed", 3, *QUICK)
    assert done.returncode == 0, done.stderr
    return out, done


def test_train_says_what_was_found_and_where_the_report_is(run):
    out, done = run
    last = done.stdout.splitlines()
    assert re.search(r"auc +0\.\d+ \(95 % interval 0\.\d+ to \d\.\d+\)", done.stdout)
    assert last[-2] == "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
    assert last[-1] == f"Report: {out / 'report.html'}"
    assert re.search(r"train: \d+/\d+", done.stderr)  # plain lines where there is no terminal
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 3
    assert "diagnet train" in record["command"] or "cli.py train" in record["command"]


def test_evaluate_scores_other_masses(run, manifest, tmp_path):
    out, _ = run
    other = tmp_path / "masses.csv"
    text = manifest.read_text().replace(",P", ",Q")
    other.write_text(re.sub(r"^(\d+\.png)", rf"{manifest.parent}/\1", text, flags=re.MULTILINE))
    done = diagnet("evaluate", out, "--data", other, "--json")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert metrics["test"]["units"]["mass"]["n"] == 60
    again = diagnet("evaluate", out, "--data", manifest, "--quiet")  # its own training data
    assert "left out: " in again.stdout
    assert f"Results: {out / 'evaluations' / 'masses-2'}" in again.stdout  # the first one is kept
    assert metrics["notice"] == "RESEARCH USE ONLY - NOT FOR CLINICAL USE"
    header = (Path(metrics["out"]) / "predictions.csv").read_text().splitlines()[0]
    assert header.startswith("image,patient_id,label,malignancy")


def test_the_papers_split_is_there_by_name_with_a_warning(manifest, tmp_path):
    options = [*QUICK, "--set", "split.method=image80_20", "--set", "training.epochs=1", "--no-report", "--quiet"]
    done = diagnet("train", manifest, "--out", tmp_path / "run", *options)
    assert done.returncode == 0
    assert re.search(r"^diagnet: warning: .*image80_20 leaks", done.stderr)
    assert "leaks" in json.loads((tmp_path / "run" / "run.json").read_text())["warnings"][0]


def test_prepare_augment_and_train_on_what_was_prepared(manifest, tmp_path, in_process):
    done = in_process("prepare", "manifest", manifest, "--out", tmp_path / "data", "--set", "roi.size=32")
    assert done.returncode == 0, done.stderr
    assert "60 masses" in done.stdout
    options = ["--set", "neighbors.budget=10", "--set", "neighbors.negative_ratio=0.2"]
    done = in_process("augment", tmp_path / "data", "--out", tmp_path / "n", "--json", *options)
    summary = json.loads(done.stdout)
    made = summary["neighbors"]
    assert made["positive benign"] + made["positive malignant"] == 60
    assert made["negative benign"] + made["negative malignant"] == 12
    assert summary["breaking_a_rule"] == 0
    with Image.open(tmp_path / "n" / "neighbors.png") as picture:
        assert picture.size[0] > 100
    done = in_process("train", tmp_path / "data", "--out", tmp_path / "run", "--quiet", "--json", "--no-report", *QUICK)
    assert json.loads(done.stdout)["test"]["classes"] == ["benign", "malignant"]
    assert done.stderr == ""


def test_neighbors_that_a_preset_does_not_make_are_told(manifest, tmp_path, in_process):
    done = in_process("augment", manifest, "--out", tmp_path / "n", "--preset", "small")
    assert done.returncode == 1
    assert "must be above 0 to make neighbors, got 0 and 0. Fix: --preset diagnet" in done.stderr
    assert not (tmp_path / "n").exists()
    options = ["--set", "neighbors.budget=3", "--set", "training.epochs=1", "--set", "roi.size=16"]
    done = in_process("train", manifest, "--out", tmp_path / "run", "--quiet", "--no-report", *options)
    assert done.returncode == 0
    assert "`neighbors.budget` changes nothing where `neighbors.positive_ratio`" in done.stderr


def test_training_on_several_sources(manifest, tmp_path, in_process):
    head, *lines = re.sub(
        r"^(\d+\.png)", rf"{manifest.parent}/\1", manifest.read_text(), flags=re.MULTILINE
    ).splitlines()
    tables = [tmp_path / "north.csv", tmp_path / "south.csv"]
    for table, part in zip(tables, (lines[:30], [line.replace(",P15,", ",P0,") for line in lines[30:]]), strict=True):
        table.write_text("\n".join([head, *part]) + "\n")
    options = ["--quiet", "--json", "--no-report", *QUICK, "--set", "training.epochs=1"]
    for out, more in (("one", []), ("apart", ["--distinct-patients"])):
        done = in_process("train", *tables, "--out", tmp_path / out, *options, *more)
        assert done.returncode == 0, done.stderr
        assert [*json.loads(done.stdout)["test"]["by_source"]] == ["north", "south"]
        record = json.loads((tmp_path / out / "run.json").read_text())
        assert sum(part["patients"] for part in record["counts"].values()) == 30 - (not more)
        header, *rows = (tmp_path / out / "split.csv").read_text().splitlines()
        assert header.endswith(",source")
        assert [row.rpartition(",")[2] for row in rows] == ["north"] * 30 + ["south"] * 30
        assert sum(",P0," in row for row in rows) == 4
    twice = refused(in_process("train", tables[0], tables[0], "--out", tmp_path / "twice", *options))
    assert "must hold each mass once, got 30" in twice
    assert not (tmp_path / "twice").exists()


def test_every_verb_has_help_with_an_example(in_process):
    listed = in_process("--help").stdout
    for verb in ("demo", "prepare", "augment", "train", "evaluate", "predict", "export", "settings", "doctor"):
        assert verb in listed
        assert f"Example: diagnet {verb}" in in_process(verb, "--help").stdout


def test_resume_without_a_run_says_that_it_starts_afresh(tmp_path, in_process):
    (tmp_path / "bad.csv").write_text("image\n")  # nothing needs to be trained to see it
    out = tmp_path / "run"
    said = f"diagnet: --resume: there is no run in {out}, so it starts afresh\n"
    assert said in in_process("train", tmp_path / "bad.csv", "--out", out, "--resume").stderr
    assert said not in in_process("train", tmp_path / "bad.csv", "--out", out).stderr
    out.mkdir()
    (out / "run.json").write_text("{}")
    assert said not in in_process("train", tmp_path / "bad.csv", "--out", out, "--resume").stderr


def test_the_version(in_process):
    done = in_process("--version")
    assert (done.returncode, done.stdout) == (0, f"diagnet {__version__}\n")
    assert "--version" in in_process("--help").stdout


def test_help_takes_little_longer_than_importing_typer():
    commands = {
        "help": (Path(sys.executable).with_name("diagnet"), "--help"),
        "typer": (sys.executable, "-c", "import typer"),
    }
    times = {name: [] for name in commands}
    for _ in range(5):  # in turns, of the processor: other work on the machine slows both alike
        for name, command in commands.items():
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, capture_output=True, check=True)
            done = resource.getrusage(resource.RUSAGE_CHILDREN)
            times[name].append(done.ru_utime + done.ru_stime - began.ru_utime - began.ru_stime)
    assert min(times["help"]) < 2.5 * min(times["typer"])


def test_nothing_is_ever_unpickled():
    sources = Path(__file__).parents[2].joinpath("src").rglob("*.py")
    for text in (path.read_text() for path in sources):
        assert not re.search(r"torch\.load|pickle\.load|allow_pickle=True|joblib\.load", text)


def test_help_and_import_load_no_torch():
    for code in ("import diagnet; diagnet.Mass", "import diagnet.cli"):
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == "False"


def test_settings_lists_every_setting_with_its_value_and_meaning(in_process):
    told = json.loads(in_process("settings", "--preset", "lite0", "--json").stdout)
    found = {each["name"]: each for each in told["settings"]}
    config = Config.from_preset("lite0").model_dump(mode="json")
    sections = {name: values for name, values in config.items() if isinstance(values, dict)}
    alone = set(config) - set(sections) - {"preset"}
    assert set(found) == {f"{name}.{key}" for name, values in sections.items() for key in values} | alone
    assert found["roi.size"]["value"] == 128
    assert "lambda of Eq. 6" in found["training.graph_weight"]["meaning"]
    lines = in_process("settings").stdout.splitlines()
    assert "training.padding = [1.0, 2.0]" in lines
    assert "training.padding = [1.6, 1.6]" in in_process("settings", "--preset", "paper").stdout
    for each in found:  # each is a line that --set takes
        (line,) = [line for line in lines if line.startswith(f"{each} = ")]
        read_config(None, None, [line.replace(" = ", "=", 1)] if not line.endswith("(not set)") else [])


def test_doctor():  # its extras: tests/test_extras.py
    facts = json.loads(diagnet("doctor", "--json").stdout)
    assert facts["versions"]["torch"]
    assert facts["decoders"]["RLE Lossless"] == facts["decoders"]["Explicit VR Little Endian"] == "pydicom"
    assert len(facts["decoders"]) >= 12
    assert facts["precision"] in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: text.replace("label", "lable", 1), r"`label` must"),
        (lambda text: text.replace("benign", "bening", 1), r"`label` must .*bening.* row \d+"),
        (lambda text: text.replace(",8,8,40,40", ",8,8,400,40", 1), r"row 2"),
        (lambda text: text.replace(",8,8,40,40", ",8,8,8,40", 1), r"row 2"),
        (lambda text: text.replace(",8,8,40,40", ",nan,8,40,40", 1), r"row 2"),
        (lambda text: text + text.splitlines()[1] + "\n", r"row 62"),
        (lambda text: text.replace("0.png", "gone.png", 1), r"row 2"),
        (lambda text: text.replace("malignant", "benign"), r"at least two classes"),
        (lambda _: "", r"must"),
    ],
)
def test_a_bad_manifest_is_one_line_and_leaves_nothing(manifest, tmp_path, in_process, change, line):
    bad = manifest.parent / f"bad-{tmp_path.name}.csv"
    bad.write_text(change(manifest.read_text()))
    out = tmp_path / "run"
    message = refused(in_process("train", bad, "--out", out, *QUICK))
    assert re.search(line, message), message
    assert "P0" not in message
    assert not out.exists()


def test_other_bad_input_is_one_line(manifest, run, tmp_path, in_process):
    out, _ = run
    assert "must not hold a finished run" in refused(in_process("train", manifest, "--out", out, *QUICK))
    assert "fewer folds" in refused(
        in_process("train", manifest, "--out", tmp_path / "a", *QUICK, "--set", "evaluation.folds=50")
    )
    assert "existing setting" in refused(
        in_process("train", manifest, "--out", tmp_path / "b", "--set", "training.lr=1")
    )
    assert "prepared folder" in refused(in_process("train", tmp_path, "--out", tmp_path / "c"))
    assert "readable file of a run" in refused(in_process("evaluate", tmp_path, "--data", manifest))
    truncated = manifest.parent / "truncated.csv"
    truncated.write_text(manifest.read_text().replace("\n0.png", "\ncut.png", 1))
    (manifest.parent / "cut.png").write_bytes((manifest.parent / "0.png").read_bytes()[:200])
    assert "cut.png" in refused(in_process("train", truncated, "--out", tmp_path / "d", *QUICK))
    assert not any(tmp_path.iterdir())


def test_a_missing_extra_names_its_install_command(manifest, tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None; import importlib.util as u; f = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'matplotlib' else f(n, *a);"
        f"sys.argv = ['diagnet', 'train', {str(manifest)!r}, '--out', {str(tmp_path / 'run')!r}];"
        "from diagnet.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'diagnet-mammography[report]'" in refused(done, code=4)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(manifest, tmp_path):
    command = [
        sys.executable,
        "-m",
        "diagnet.cli",
        "train",
        str(manifest),
        "--out",
        str(tmp_path / "run"),
        "--seed",
        "3",
    ]
    with subprocess.Popen(
        [*command, *QUICK, "--set", "training.epochs=400"],
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        for line in process.stderr:
            if re.match(r"train: [1-9]", line):
                process.send_signal(signal.SIGINT)
                break
        assert "diagnet: interrupted. Fix: --resume" in process.stderr.read()
        assert process.wait() == 130
    assert "add --resume" in refused(diagnet(*command[3:], *QUICK))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root: the full-disk test was not run")
def test_a_full_disk_loses_nothing_and_is_one_line(manifest, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=False).returncode:
        pytest.skip("no small disk can be mounted here: the full-disk test was not run")
    try:
        message = refused(diagnet("train", manifest, "--out", disk / "run", *QUICK))
        assert "must be writable, got: No space left on device" in message
        assert not list(disk.rglob("*.tmp*"))
    finally:
        subprocess.run(["umount", disk], check=True)
