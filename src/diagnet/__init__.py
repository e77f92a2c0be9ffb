"""DiagNet: tell benign from malignant breast masses in mammograms. Research software, no medical device.

Importing this loads no torch: a name is imported from its file when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from diagnet.version import __version__ as __version__

if TYPE_CHECKING:
    from diagnet.batches import BatchedGraphLoss as BatchedGraphLoss
    from diagnet.config import Config as Config
    from diagnet.data.manifest import read_manifest as read_manifest
    from diagnet.data.mass import Mass as Mass
    from diagnet.data.mass import MassSet as MassSet
    from diagnet.errors import DiagNetError as DiagNetError
    from diagnet.estimators import AdversarialAugmenter as AdversarialAugmenter
    from diagnet.estimators import DiagNetClassifier as DiagNetClassifier
    from diagnet.experiment import run_experiment as run_experiment
    from diagnet.graph import signed_graph as signed_graph
    from diagnet.inference.assessment import assess as assess
    from diagnet.inference.predictor import load_model as load_model
    from diagnet.laplacian import SignedLaplacianClassifier as SignedLaplacianClassifier
    from diagnet.losses import SignedGraphLoss as SignedGraphLoss
    from diagnet.losses import signed_graph_loss as signed_graph_loss
    from diagnet.neighbors import find_neighbors as find_neighbors
    from diagnet.network import create_network as create_network


_HOMES = {
    "assess": "inference.assessment",
    "BatchedGraphLoss": "batches",
    "Config": "config",
    "read_manifest": "data.manifest",
    "Mass": "data.mass",
    "MassSet": "data.mass",
    "DiagNetError": "errors",
    "AdversarialAugmenter": "estimators",
    "DiagNetClassifier": "estimators",
    "run_experiment": "experiment",
    "signed_graph": "graph",
    "load_model": "inference.predictor",
    "SignedLaplacianClassifier": "laplacian",
    "SignedGraphLoss": "losses",
    "signed_graph_loss": "losses",
    "find_neighbors": "neighbors",
    "create_network": "network",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diagnet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"diagnet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
