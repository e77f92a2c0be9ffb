import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_graph_loss_trains_a_plain_network(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["graph_loss.py", "2"])
    runpy.run_path(str(EXAMPLES / "graph_loss.py"), run_name="__main__")
    assert "difference" in capsys.readouterr().out


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", lambda: None)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs"), "a notebook is kept without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)  # noqa: S102 -- our own examples
    pyplot.close("all")
    printed = capsys.readouterr().out
    if notebook.stem == "reproduce_a_row":
        assert "AUC 0.832 (0.80" in printed
