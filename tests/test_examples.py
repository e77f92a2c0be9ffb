import runpy
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_graph_loss_trains_a_plain_network(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["graph_loss.py", "2"])
    runpy.run_path(str(EXAMPLES / "graph_loss.py"), run_name="__main__")
    assert "difference" in capsys.readouterr().out
