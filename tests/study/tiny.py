"""A study small enough for tests."""

from diagnet.config import Config
from diagnet.study.arms import PLAIN, Arm
from diagnet.study.running import Study

TINY = {
    "roi": {"size": 16},
    "network": {"stem_widths": [4, 8], "widths": [8, 16], "n_middle": 0, "n_hidden": 8},
    "training": {"epochs": 1, "batch_size": 16, "precision": "float32"},
    "neighbors": {"budget": 2},
}
ARMS = (Arm("plain", "plain", PLAIN), Arm("diagnet", "all"))


def tiny(manifest, **changes):
    given = {"name": "tiny", "arms": ARMS, "data": (manifest,), "base": Config.from_preset("diagnet", TINY)}
    return Study(**(given | {"folds": 2, "repeats": 1} | changes))
