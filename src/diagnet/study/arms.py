"""What the studies compare: each arm is one way to train, named, with what it changes in the settings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from diagnet.config import LITE0, Config, merged, one_line, read_toml
from diagnet.errors import SettingsError
from diagnet.renamed import with_new_names
from diagnet.study.methods import METHODS, RIVAL_WEIGHT, RIVALS


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"it must be one of {', '.join(METHODS)}")
    return method


Method = Annotated[str, AfterValidator(_known)]

NO_NEIGHBORS: Mapping[str, Any] = {"neighbors": {"positive_ratio": 0.0, "negative_ratio": 0.0}}
NO_GRAPH: Mapping[str, Any] = {"training": {"graph_weight": 0.0}}
PLAIN: Mapping[str, Any] = {**NO_NEIGHBORS, **NO_GRAPH}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train.

    Attributes:
        name: of its folder: letters, digits, "-", "_" and ".".
        what: in a few words, for the tables.
        changes: settings that differ from the study's own, `{"training": {"epochs": 3}}`.
        method: what is trained.
        n_train: training masses, drawn by patient; None: all there are.
        hide_labels: masses that are not drawn stay, without their labels.
        as_many_images: train on fewer masses for so many more epochs that as many images are seen as with all.
        holdout: keep an inner fold of the training patients out of training and score it too, so that a choice, a
            temperature or a threshold can be made on it.
        perturbed: score the test masses once more for each perturbation.
        unlabelled: a manifest of mammograms beside the study's data, for a warm start; images of patients who are
            tested or held out are not looked at.
        sources: names of the sources it is trained on, of those of the study; None: all. It is tested on all.
        margins: padding factors the test masses are cut with too and scored; training keeps `roi.padding_factor`.
    """

    name: str
    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    method: Method = "network"
    n_train: int | None = None
    hide_labels: bool = False
    as_many_images: bool = False
    holdout: bool = False
    perturbed: bool = False
    unlabelled: str | None = None
    sources: tuple[str, ...] | None = None
    margins: tuple[float, ...] = ()

    def config(self, base: Config) -> Config:
        """Return the study's settings with this arm's changes laid over them."""
        return Config.from_preset(base.preset, merged(base.model_dump(mode="json", exclude={"preset"}), self.changes))


def read_arms(path: Path, base: Config) -> tuple[Arm, ...]:
    """Read arms of the user's own: a TOML table for each, of the settings that differ and what else an `Arm` has.

    Raises:
        SettingsError: the file cannot be read, a name makes no folder, or a setting does not exist or is no good.
    """
    arms = []
    for name, table in read_toml(path, "--arms").items():
        if not isinstance(table, dict):
            raise SettingsError(f"`{name}` must be a table, [{name}], got a value in {path}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", name):
            raise SettingsError(f"an arm's name must be up to 64 letters, digits, `_.+-`, got {name!r} in {path}")
        table = with_new_names(table)
        own = {each.name: table.pop(each.name) for each in fields(Arm) if each.name in table}
        try:
            arm = TypeAdapter(Arm).validate_python({"what": name, **own, "name": name, "changes": table})
        except ValidationError as error:
            raise SettingsError(f"{one_line(error)} in {path}, arm `{name}`") from error
        config = arm.config(base)  # says what is wrong with it
        if arm.hide_labels and not (arm.method == "network" and config.has_known_edges and arm.n_train):
            raise SettingsError(
                f"`hide_labels` must go with `n_train`, `known_weight` and a pretrained network in {path}, arm `{name}`"
            )
        if (arm.method == "warm-start") != (arm.unlabelled is not None):
            raise SettingsError(
                f"`unlabelled` must be given for a warm start and for nothing else in {path}, arm `{name}`"
            )
        arms.append(arm)
    if not arms:
        raise SettingsError(f"`--arms` must hold at least one arm, got none in {path}")
    return tuple(arms)


def chosen_arms(arms: Sequence[Arm], names: str | None) -> tuple[Arm, ...]:
    """Those of the arms that are asked for by name, separated by commas.

    Raises:
        SettingsError: there is no arm of a name.
    """
    if names is None:
        return tuple(arms)
    known = {arm.name: arm for arm in arms}
    for name in names.split(","):
        if name.strip() not in known:
            raise SettingsError(f"`--only` must name arms among {', '.join(known)}, got {name.strip()!r}")
    return tuple(known[name.strip()] for name in names.split(","))


def _grid() -> tuple[Arm, ...]:
    """Fig. 3a: attracting and repelling neighbors at lambda = 1; 0 and 0 is no graph at all."""
    return tuple(
        Arm(
            f"n+{positive}n-{negative}",
            f"{positive} attracting, {negative} repelling neighbors",
            {
                "graph": {"n_attracting": positive, "n_repelling": negative},
                "training": {"graph_weight": 1.0 if positive + negative else 0.0},
            },
            holdout=True,
        )
        for positive in range(5)
        for negative in range(7)
    )


def _sweep() -> tuple[Arm, ...]:
    """Return the arms of Fig. 3b: one for each weight lambda of the graph's loss (Eq. 6)."""
    weights = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    return tuple(
        Arm(f"lambda{weight:g}", f"lambda {weight:g}", {"training": {"graph_weight": weight}}, holdout=True)
        for weight in weights
    )


_PLAIN = Arm("plain", "plain cross-entropy", PLAIN)
_DIAGNET = Arm("diagnet", "signed graph, positive neighbors: the preset diagnet")
_WITH_NEGATIVES: Mapping[str, Any] = {"neighbors": {"negative_ratio": 0.2}}
_LETTER = {
    "neighbors": {"positive_ratio": 0.2, "negative_ratio": 0.2},
    "graph": {"space": "image", "skip_same_patient": False, "skip_own_neighbors": False},
    "training": {"graph_weight": 1.0, "negative_label": "own"},
}
_ABLATION = (
    _PLAIN,
    Arm(
        "plain-120",
        "plain cross-entropy, 120 epochs: as many steps as with 100 % neighbors",
        merged(PLAIN, {"training": {"epochs": 120}}),
    ),
    Arm("graph", "signed graph of originals alone", NO_NEIGHBORS),
    Arm(
        "graph+negatives",
        "signed graph, negative neighbors",
        {"neighbors": {"positive_ratio": 0.0, "negative_ratio": 0.2}},
    ),
    Arm("graph+both", "signed graph, positive and negative neighbors", _WITH_NEGATIVES),
    _DIAGNET,
    Arm("positives", "positive neighbors, no graph", NO_GRAPH),
    # Readings of the graph, on originals alone: there it is all that differs from plain cross-entropy.
    Arm(
        "image-space",
        "signed graph of originals alone, in image space (reading 4)",
        merged(NO_NEIGHBORS, {"graph": {"space": "image"}}),
    ),
    Arm(
        "relatives",
        "signed graph of originals alone, attraction to the same patient's too (reading 5)",
        merged(NO_NEIGHBORS, {"graph": {"skip_same_patient": False, "skip_own_neighbors": False}}),
    ),
    Arm(
        "pooled",
        "signed graph of originals alone, H is the pooled features (reading 2)",
        merged(NO_NEIGHBORS, {"network": {"embedding": "pooled"}}),
    ),
    Arm(
        "angular",
        "signed graph of originals alone, angular distance (reading 3)",
        merged(NO_NEIGHBORS, {"training": {"distance": "angular"}}),
    ),
    Arm(
        "lambda-1",
        "signed graph of originals alone, lambda 1 (reading 24)",
        merged(NO_NEIGHBORS, {"training": {"graph_weight": 1.0}}),
    ),
    Arm(
        "negatives-own",
        "signed graph, negative neighbors that keep their class (reading 7)",
        {"neighbors": {"positive_ratio": 0.0, "negative_ratio": 0.2}, "training": {"negative_label": "own"}},
    ),
    Arm(
        "negatives-other",
        "signed graph, negative neighbors that take the other class",
        {"neighbors": {"positive_ratio": 0.0, "negative_ratio": 0.2}, "training": {"negative_label": "other"}},
    ),
    Arm("pixel", "neighbors searched in pixels (reading 10)", {"neighbors": {"search_space": "pixel"}}),
    Arm("letter", "image space, lambda 1, neighbors keep their class", _LETTER),
    # Readings of how regions are cut and moved, on plain cross-entropy.
    Arm(
        "flips-only",
        "plain, flips without rotation and zoom (reading 23)",
        merged(PLAIN, {"training": {"rotation": 0.0, "zoom": 0.0}}),
    ),
    Arm(
        "stored-flips",
        "plain, all four flips of fixed regions stored, 15 epochs: as many steps (reading 13)",
        merged(PLAIN, {"training": {"padding": (1.6, 1.6), "shift": 0.0, "flips": "stored", "epochs": 15}}),
    ),
    Arm("square", "plain, square regions (reading 14)", merged(PLAIN, {"roi": {"square": True}})),
)
_COMPARATORS = (
    _PLAIN,
    _DIAGNET,
    Arm(
        "geometry",
        "plain, rotation by any angle, 30 % zoom",
        merged(PLAIN, {"training": {"rotation": 180, "zoom": 0.3}}),
    ),
    Arm("mixup", "plain, mixup (alpha 0.2)", merged(PLAIN, {"training": {"mixup": 0.2}})),
    *(Arm(name, f"plain, {what} x {RIVAL_WEIGHT}", PLAIN, name) for name, (what, _) in RIVALS.items()),
    Arm("multi-instance", "sparse multi-instance network (Zhu et al. 2017)", PLAIN, "multi-instance"),
    Arm("zhu-2017", "sparse multi-instance network (Zhu et al. 2017), no dropout, weaker sparsity", PLAIN, "zhu"),
    Arm("dhungel-2016", "learned features, random forest (Dhungel et al. 2016)", PLAIN, "dhungel"),
    Arm("shams-2018", "one network generates and classifies (Shams et al. 2018)", PLAIN, "shams"),
    Arm("li-2019", "two paths, mask and class (Li et al. 2019)", PLAIN, "li"),
    Arm("resnet", "plain, a residual network", PLAIN, "resnet"),
    Arm("convnext", "plain, a small ConvNeXt", PLAIN, "convnext"),
    Arm(
        "lite0-frozen",
        "ImageNet features and a logistic regression",
        merged(LITE0, {"network": {"trainable": "none"}}),
    ),
    Arm("features-svm", "hand-crafted features, SVM", method="features-svm"),
    Arm("features-logistic", "hand-crafted features, logistic regression", method="features-logistic"),
    Arm("size", "the box's sides alone, logistic regression", method="size"),
)
_CURVE = (
    *(
        Arm(f"{arm.name}-{n}", f"{arm.what}; {n} training masses", arm.changes, n_train=n, as_many_images=True)
        for n in (43, 86, 172, 344)
        for arm in (_PLAIN, _DIAGNET)
    ),
    _PLAIN,
    _DIAGNET,
)
# Both calibration and robustness: the same runs serve the two studies.
_HELD_OUT = (
    Arm("plain-held-out", "plain cross-entropy; an inner fold held out", PLAIN, holdout=True, perturbed=True),
    Arm("diagnet-held-out", f"{_DIAGNET.what}; an inner fold held out", holdout=True, perturbed=True),
)
_SHORTCUTS = (
    Arm("permuted", "plain, the training masses' labels shuffled", PLAIN, "permuted"),
    Arm("border", "plain, the marked box blanked: the border alone", PLAIN, "border"),
    Arm("brightness", "mean and spread of the grey values, logistic regression", method="brightness"),
    Arm("scale", "how much a crop was reduced, logistic regression", method="scale"),
    Arm("size", "the box's sides alone, logistic regression", method="size"),
)
STUDIES: Mapping[str, tuple[Arm, ...]] = {
    "neighbors": _grid(),
    "lambda": _sweep(),
    "ablation": _ABLATION,
    "comparators": _COMPARATORS,
    "table1": _COMPARATORS,
    "curve": _CURVE,
    "robustness": _HELD_OUT,
    "calibration": _HELD_OUT,
    "shortcuts": _SHORTCUTS,
}
