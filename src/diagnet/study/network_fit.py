"""The network on the masses of a fold: how an arm of a study is trained, and how it scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

from diagnet.arrays import Images, Labels
from diagnet.config import Config
from diagnet.data.mass import Mass, malignant_class
from diagnet.network import Network, create_network
from diagnet.run.augmentation import Unlabelled, augment, with_lesions
from diagnet.run.checkpoint import array_hash
from diagnet.training.loop import ExtraLoss, train
from diagnet.training.points import Points, Surroundings
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingState, start

# Points of the last job's masses, by the settings of the search for neighbors.
_searched: dict[tuple[object, ...], dict[str, Points]] = {}


@dataclass(frozen=True, slots=True)
class Cases:
    """Masses to learn from, or to score.

    Attributes:
        images: their regions, in [0, 1].
        masses: what else is known of them.
        labels: 1 where malignant, class index in general.
        patients: as numbers.
        surroundings: what lies around their regions, where an arm draws regions while training.
        patches: of mammograms of patients who are neither tested nor held out, for a warm start.
        unlabelled: masses of such patients whose labels are hidden.
    """

    images: Images
    masses: tuple[Mass, ...]
    labels: Labels
    patients: Int64[np.ndarray, "case"]
    patches: Float32[np.ndarray, "patch height width"] | None = None
    surroundings: Surroundings | None = None
    unlabelled: "Cases | None" = None

    def part(self, rows: Int[np.ndarray, "row"]) -> "Cases":
        """Return the cases in the given rows, in their order."""
        chosen = tuple(self.masses[row] for row in rows)
        around = self.surroundings
        if around is not None:
            around = replace(around, images=around.images[rows], boxes=around.boxes[rows])
        return Cases(np.asarray(self.images[rows]), chosen, self.labels[rows], self.patients[rows], surroundings=around)


Score = Callable[[Cases], Float64[np.ndarray, "case"]]  # log-odds of malignancy
Fit = Callable[[Cases, Config, int, int], Score]  # training cases, settings, fold, repeat


def fit_network(
    cases: Cases,
    config: Config,
    fold: int,
    repeat: int,
    *,
    make_network: Callable[..., Network] = create_network,
    extra_loss: ExtraLoss | None = None,
    points: Points | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
) -> Score:
    """Neighbors, graph and network as the settings say; `points`, where given, are trained on instead."""
    if points is None:
        points = make_points(cases, config, fold, repeat)
    others = None
    if config.has_known_edges:
        hidden = cases.part(np.arange(0)) if cases.unlabelled is None else cases.unlabelled
        beside = Unlabelled(hidden.images, hidden.masses, hidden.patients.tolist(), hidden.surroundings)
        points, others = with_lesions(points, cases.masses, cases.patients.tolist(), beside)
    state = start(
        points,
        config.network,
        config.graph,
        config.training,
        seed=repeat,
        make_network=make_network,
        unlabelled=others,
    )
    train(
        state,
        points,
        config.graph,
        config.training,
        seed=repeat,
        extra_loss=extra_loss,
        on_epoch=on_epoch,
        unlabelled=others,
    )
    return score_of(state.network, config)


def score_of(network: Network, config: Config) -> Score:
    """How a trained network scores masses; its outputs beyond the classes are not scored."""
    malignant, n_classes = malignant_class(config.classes), len(config.classes)

    def score(others: Cases) -> Float64[np.ndarray, "case"]:
        logits = embeddings_and_logits(network, others.images)[1][:, :n_classes].astype(np.float64)
        rest = np.delete(logits, malignant, axis=1)
        return np.asarray(logits[:, malignant] - np.logaddexp.reduce(rest, axis=1))

    return score


def make_points(cases: Cases, config: Config, fold: int, repeat: int) -> Points:
    """Originals and neighbors; the search is not done again for the next arm on the same masses with the same seed."""
    hashes = (array_hash(part) for part in (np.asarray(cases.images), cases.labels, cases.patients))
    place = (fold, repeat, *hashes)
    if _searched.keys() != {place}:
        _searched.clear()
    known = _searched.setdefault(place, {})
    settings = f"{config.neighbors.model_dump_json()}{config.training.flips}{cases.surroundings is not None}"
    settings += config.network.weights  # of the embedding that neighbors may be searched in
    if settings not in known:
        known[settings] = augment(
            config,
            cases.images,
            np.arange(len(cases.labels)),
            cases.labels,
            cases.patients,
            rng=np.random.default_rng([repeat, fold]),
            workers=1,
            surroundings=cases.surroundings,
        ).points
    return known[settings]
