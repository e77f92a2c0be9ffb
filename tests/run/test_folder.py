import pytest

from diagnet.errors import RunFolderError
from diagnet.run.folder import (
    first_fold_with,
    fold_folder,
    read_history,
    read_metrics,
    read_record,
    write_history,
    write_metrics,
    write_record,
)

FACTS = {"source": "Käthe/李雷.csv", "n": 1, "none": None}


def test_records_and_metrics_are_read_as_written(tmp_path):
    write_record(tmp_path, FACTS)
    write_metrics(tmp_path, {"test": FACTS})
    write_history(tmp_path, [FACTS, {"epoch": 2}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "metrics.jsonl", "run.json"]
    assert read_record(tmp_path) == FACTS
    assert read_metrics(tmp_path) == {"test": FACTS}
    assert read_history(tmp_path) == [FACTS, {"epoch": 2}]


@pytest.mark.parametrize(
    ("name", "read"), [("run.json", read_record), ("metrics.json", read_metrics), ("metrics.jsonl", read_history)]
)
def test_a_broken_file_is_told_in_one_line(tmp_path, name, read):
    for content in (None, b"{", b"\xff"):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(RunFolderError, match=rf"{name}` must be a readable file of a run, got: ") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_fold_lies_in_the_run_where_there_is_one_and_else_in_its_own_folder(tmp_path):
    assert fold_folder(tmp_path, 0, 1) == tmp_path
    assert first_fold_with(tmp_path, "file") is None
    for n_folds in (3, 1):
        folder = fold_folder(tmp_path, 0, n_folds)
        folder.mkdir(exist_ok=True)
        (folder / "file").touch()
        assert first_fold_with(tmp_path, "file") == folder
