"""The method as scikit-learn and imbalanced-learn estimators, for images in memory."""

import inspect
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float32
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ValidationError
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, OneToOneFeatureMixin
from sklearn.utils import InputTags, Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    check_random_state,
    column_or_1d,
    validate_data,
)

from diagnet.arrays import Images
from diagnet.config import one_line
from diagnet.evaluation.calibration import probabilities
from diagnet.graph import GraphSettings
from diagnet.neighbors import NeighborSettings, find_neighbors
from diagnet.network import NetworkSettings
from diagnet.renamed import NEW_NAMES, twice, warn_of_old_name
from diagnet.sampling_strategy import SamplingStrategy, samples_to_make
from diagnet.training.loop import train
from diagnet.training.points import Points
from diagnet.training.scoring import embeddings_and_logits
from diagnet.training.state import TrainingSettings, start

Settings = TypeVar("Settings", bound=BaseModel)

_SMALLEST = 16  # images are enlarged to this height and width at least, for the network's four halvings


class _Scale:
    """Grey values to [0, 1] by the training set's range, and rows to images."""

    def __init__(self, X: NDArray[Any], image_shape: tuple[int, int] | None) -> None:  # noqa: N803 -- scikit-learn's
        n_features = int(np.prod(X.shape[1:]))
        if X.ndim > 2:
            self.shape = _image_shape(X)
        elif image_shape is not None:
            self.shape = image_shape
        else:
            side = round(n_features**0.5)
            self.shape = (side, side) if side * side == n_features else (1, n_features)
        if self.shape[0] * self.shape[1] != n_features:
            raise ValueError(f"`image_shape` must have {n_features} pixels, got {self.shape}")
        self.low, self.high = float(X.min()), float(X.max())

    def images(self, X: NDArray[Any]) -> Images:  # noqa: N803 -- scikit-learn's name
        spread = self.high - self.low or 1.0
        scaled = np.clip((X.reshape(len(X), *self.shape) - self.low) / spread, 0, 1).astype(np.float32)
        times = [-(-_SMALLEST // side) for side in self.shape]
        return np.ascontiguousarray(np.repeat(np.repeat(scaled, times[0], axis=1), times[1], axis=2))

    def rows(self, images: Images) -> Float32[np.ndarray, "image feature"]:
        """Return flat rows in the data's own range; the inverse of `images`, but for clipped values."""
        times = [-(-_SMALLEST // side) for side in self.shape]
        small = images[:, :: times[0], :: times[1]].reshape(len(images), self.shape[0] * self.shape[1])
        return (small * (self.high - self.low) + self.low).astype(np.float32)


class DiagNetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """DiagNet for images in memory: adversarial augmentation, signed graph and joint training in `fit`.

    Args:
        graph_weight: lambda of Eq. 6; 0 is plain cross-entropy.
        n_attracting: n+ of Eq. 3.
        n_repelling: n- of Eq. 3.
        positive_ratio: positive neighbors made over originals of each class; may exceed 1.
        negative_ratio: negative neighbors made over originals of each class.
        budget: evaluations of the search for each neighbor.
        network: "small", "paper", or settings; the number of classes is the data's.
        epochs: passes over the data.
        batch_size: images a step.
        learning_rate: AdamW's.
        augment: flip, rotate and zoom at random while training; turn it off where rows are no pictures.
        image_shape: (height, width) of rows of `X`; None: a square where the number of features is one.
        random_state: seed of every random draw.
        positive_share: old name of `positive_ratio`, until the next version.
        negative_share: old name of `negative_ratio`, until the next version.

    Attributes:
        classes_: class labels.
        network_: the trained network.
        neighbors_: the synthetic images and where they came from; None where both ratios are 0.

    `X` is (n, height, width), (n, 1, height, width), or (n, height * width) with `image_shape`; any range,
    scaled by the training set's.
    """

    def __init__(
        self,
        *,
        graph_weight: float = 0.05,
        n_attracting: int = 1,
        n_repelling: int = 4,
        positive_ratio: float = 1.0,
        negative_ratio: float = 0.0,
        budget: int = 200,
        network: str | NetworkSettings = "small",
        epochs: int = 60,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        augment: bool = True,
        image_shape: tuple[int, int] | None = None,
        random_state: int | np.random.RandomState | None = None,
        positive_share: float | Literal["deprecated"] = "deprecated",
        negative_share: float | Literal["deprecated"] = "deprecated",
    ) -> None:
        self.graph_weight = graph_weight
        self.n_attracting = n_attracting
        self.n_repelling = n_repelling
        self.positive_ratio = positive_ratio
        self.negative_ratio = negative_ratio
        self.budget = budget
        self.network = network
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.augment = augment
        self.image_shape = image_shape
        self.random_state = random_state
        self.positive_share = positive_share
        self.negative_share = negative_share

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "DiagNetClassifier":  # noqa: N803
        """Augment, build the signed graph and train.

        Args:
            X: images.
            y: their classes.
            groups: patient of each image; with it, no image is attracted to one of its own patient.
        """
        X, y = _validate(self, X, y)  # noqa: N806 -- scikit-learn's name
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"`y` must hold at least two classes, got {len(self.classes_)} class")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.scale_ = _Scale(X, self.image_shape)
        images = self.scale_.images(X)
        relatives = np.arange(len(images)) if groups is None else _numbered(groups, len(images))
        neighbors = find_neighbors(
            images,
            labels.astype(np.int64),
            _settings(
                NeighborSettings,
                **_ratios(self),
                budget=self.budget,
            ),
            rng=np.random.default_rng([seed, 0]),
        )
        points = Points(
            np.concatenate([images, neighbors.images]),
            np.concatenate([labels.astype(np.int64), neighbors.labels]),
            np.concatenate([np.zeros(len(labels), np.int8), neighbors.kinds]),
            np.concatenate([relatives, relatives[neighbors.parents]]),
            origins=np.concatenate([np.arange(len(images)), neighbors.parents]),
        )
        graph = _settings(
            GraphSettings,
            n_attracting=self.n_attracting,
            n_repelling=self.n_repelling,
            space="embedding",
            skip_same_patient=groups is not None,
            skip_own_neighbors=groups is not None,
        )
        settings = _settings(
            TrainingSettings,
            epochs=self.epochs,
            batch_size=self.batch_size,
            graph_weight=self.graph_weight,
            learning_rate=self.learning_rate,
        )
        if not self.augment:
            settings = settings.model_copy(update={"flips": "none", "rotation": 0.0, "zoom": 0.0})
        shape = self.network
        network = shape if isinstance(shape, NetworkSettings) else _settings(NetworkSettings, preset=shape)
        network = network.model_copy(update={"n_classes": len(self.classes_)})
        state = start(points, network, graph, settings, seed=seed)
        train(state, points, graph, settings, seed=seed)
        self.network_ = state.network.eval()
        self.neighbors_ = neighbors if len(neighbors.images) else None
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803 -- scikit-learn's name
        """Class probabilities, (n, n_classes), in the order of `classes_`; not calibrated."""
        check_is_fitted(self)
        X, _ = _validate(self, X, is_fitted=True)  # noqa: N806 -- scikit-learn's name
        logits = embeddings_and_logits(self.network_, self.scale_.images(X))[1].astype(np.float64)
        return probabilities(logits)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803 -- scikit-learn's name
        """Return the most probable class of each image, one of `classes_`."""
        chances = self.predict_proba(X)
        return np.asarray(self.classes_[chances.argmax(axis=1)])


@dataclass(slots=True)
class _SamplerInputTags(InputTags):  # type: ignore[misc]  # scikit-learn ships no types
    sparse: bool = True
    dataframe: bool = True


@dataclass(slots=True)
class _SampleTags:
    sample_indices: bool = False


@dataclass(slots=True)
class _SamplerTags(Tags):  # type: ignore[misc]  # scikit-learn ships no types
    """What imbalanced-learn asks of a sampler beyond scikit-learn's tags; it need not be installed."""

    input_tags: _SamplerInputTags = field(default_factory=_SamplerInputTags)
    sampler_tags: _SampleTags = field(default_factory=_SampleTags)


class AdversarialAugmenter(OneToOneFeatureMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Positive and negative neighbors (Sec. 3.1) in imbalanced-learn's shape: `fit_resample`.

    Args:
        positive_ratio: positive neighbors made over originals of each class; may exceed 1.
        negative_ratio: negative neighbors made over originals of each class.
        sampling_strategy: positive neighbors wanted, as imbalanced-learn asks its over-samplers: "auto", "minority",
            "not minority", "not majority", "all", a fraction, or sizes by class; None: `positive_ratio` of each class.
        negative_class: class that negative neighbors come back under; None: they do not come back, but stay in
            `negatives_`, for they are no samples of the class they were made from.
        budget: evaluations of the search for each neighbor (T).
        search_space: "subspace", or "pixel" as in the paper.
        image_shape: (height, width) of rows of `X`; None: a square where the number of features is one.
        random_state: seed of every random draw.
        positive_share: old name of `positive_ratio`, until the next version.
        negative_share: old name of `negative_ratio`, until the next version.

    Attributes:
        kinds_: for each row returned, 0 an original, +1 a positive and -1 a negative neighbor.
        parents_: for each row returned, the row of `X` it comes from.
        sampling_strategy_: how many neighbors each class got.
        negatives_: the negative neighbors, as rows of `X`.
        negative_parents_: for each of them, the row of `X` it comes from.

    `X` is (n, height, width), (n, 1, height, width) or (n, height * width), and comes back in that shape and dtype;
    lists, data frames, sparse matrices and one-hot rows of `y` come back as such.
    """

    def __init__(
        self,
        *,
        positive_ratio: float = 0.2,
        negative_ratio: float = 0.0,
        sampling_strategy: SamplingStrategy | None = None,
        negative_class: Any = None,
        budget: int = 200,
        search_space: str = "subspace",
        image_shape: tuple[int, int] | None = None,
        random_state: int | np.random.RandomState | None = None,
        positive_share: float | Literal["deprecated"] = "deprecated",
        negative_share: float | Literal["deprecated"] = "deprecated",
    ) -> None:
        self.positive_ratio = positive_ratio
        self.negative_ratio = negative_ratio
        self.sampling_strategy = sampling_strategy
        self.negative_class = negative_class
        self.budget = budget
        self.search_space = search_space
        self.image_shape = image_shape
        self.random_state = random_state
        self.positive_share = positive_share
        self.negative_share = negative_share

    def __sklearn_tags__(self) -> _SamplerTags:
        """Return scikit-learn's tags: which inputs are taken, and that this is a sampler."""
        tags = super().__sklearn_tags__()
        own = {each.name: getattr(tags, each.name) for each in fields(tags) if each.name != "input_tags"}
        return _SamplerTags(**own | {"estimator_type": "sampler"})

    def fit(self, X: Any, y: Any) -> "AdversarialAugmenter":  # noqa: N803 -- scikit-learn's name
        """Check the data; the search itself is `fit_resample`'s."""
        self._check(X, y)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:  # noqa: N803 -- scikit-learn's name
        """Return the originals followed by their neighbors, and their classes.

        Raises:
            ValueError: `sampling_strategy` cannot be met, or `negative_class` is of another type than `y`.
        """
        given = X, y
        X, y, one_hot = self._check(X, y)  # noqa: N806 -- scikit-learn's name
        classes, labels = np.unique(y, return_inverse=True)
        scale = _Scale(X, self.image_shape)
        n_positive = None
        if self.sampling_strategy is not None:
            to_make = samples_to_make(self.sampling_strategy, y.tolist())
            n_positive = {label: to_make[name] for label, name in enumerate(classes.tolist())}
        found = find_neighbors(
            scale.images(X),
            labels.astype(np.int64),
            _settings(
                NeighborSettings,
                **_ratios(self),
                budget=self.budget,
                search_space=self.search_space,
            ),
            rng=np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1)),
            n_positive=n_positive,
        )
        made = scale.rows(found.images).reshape(len(found.images), *X.shape[1:]).astype(X.dtype)
        is_negative = found.kinds < 0
        self.negatives_, self.negative_parents_ = made[is_negative], found.parents[is_negative]
        back = np.flatnonzero(~is_negative | (self.negative_class is not None))
        self.kinds_ = np.concatenate([np.zeros(len(X), np.int8), found.kinds[back]])
        self.parents_ = np.concatenate([np.arange(len(X)), found.parents[back]])
        made_of = np.bincount(found.labels[back], minlength=len(classes)).tolist()
        self.sampling_strategy_ = dict(zip(classes.tolist(), made_of, strict=True))
        targets = y[self.parents_]
        if self.negative_class is not None:
            targets = self._with_negative_class(targets, one_hot)
        images = _in_the_type_of(given[0], np.concatenate([X, made[back]]))
        return images, _in_the_type_of(given[1], targets if one_hot is None else one_hot[self.parents_])

    def _with_negative_class(self, targets: NDArray[Any], one_hot: NDArray[Any] | None) -> NDArray[Any]:
        """Name the negative neighbors' class; text becomes as wide as it must be."""
        own = np.asarray(self.negative_class)
        if one_hot is not None or own.ndim or (own.dtype.kind in "US") != (targets.dtype.kind in "US"):
            raise ValueError(
                f"`negative_class` must be a class of the kind of `y`, which must not be one-hot, got {own!r}"
            )
        return np.where(self.kinds_ < 0, own, targets)

    def _check(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:  # noqa: N803
        """`X` and `y` as arrays, and the one-hot rows of `y` where it has such."""
        one_hot = None
        if y is not None and type_of_target(y) == "multilabel-indicator":
            one_hot = np.asarray(y.toarray() if issparse(y) else y)
            if (one_hot.sum(axis=1) != 1).any():
                raise ValueError("`y` must name one class an image, got several or none in a one-hot row")
            y = one_hot.argmax(axis=1)
        if issparse(X):
            X = X.toarray()  # noqa: N806 -- scikit-learn's name
        elif hasattr(X, "sparse"):  # a data frame whose columns are all sparse
            X = X.sparse.to_dense()  # noqa: N806 -- scikit-learn's name
        X, y = _validate(self, X, y)  # noqa: N806 -- scikit-learn's name
        if len(np.unique(y)) < 2:
            raise ValueError("`y` must hold at least two classes, got 1 class")
        return X, y, one_hot


def _in_the_type_of(given: Any, values: NDArray[Any]) -> Any:
    """Values as a list, a sparse matrix or in pandas' types, where such were given; else in the array's own dtype."""
    if isinstance(given, list):
        return values.tolist()
    if issparse(given):
        return type(given)(values)
    if hasattr(given, "iloc"):  # pandas, without importing it
        names = {"columns": given.columns} if hasattr(given, "columns") else {"name": given.name}
        return type(given)(values, **names).astype(given.dtypes)
    dtype = np.asarray(given).dtype
    if dtype.kind in "US":
        return values  # which may be longer
    return np.asarray(np.rint(values) if dtype.kind in "iu" and values.dtype.kind == "f" else values, dtype=dtype)


def _image_shape(X: NDArray[Any]) -> tuple[int, int]:  # noqa: N803 -- scikit-learn's name
    """Height and width of grey images, with one channel first or none."""
    if X.ndim == 3 or (X.ndim == 4 and X.shape[1] == 1):
        return int(X.shape[-2]), int(X.shape[-1])
    raise ValueError(
        f"`X` must be grey images (n, height, width), (n, 1, height, width) or rows (n, height * width), got {X.shape}"
    )


def _settings(kind: type[Settings], **values: Any) -> Settings:
    """Make settings of parameters; a bad one is a ValueError of one line."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(one_line(error)) from error


def _ratios(estimator: Any) -> dict[str, Any]:
    """`positive_ratio` and `negative_ratio` of an estimator, which may have been given by their old names."""
    found = {}
    for old in ("positive_share", "negative_share"):
        (new,) = NEW_NAMES[old]
        value, by_old_name = getattr(estimator, new), getattr(estimator, old)
        if by_old_name != "deprecated":
            if value != inspect.signature(type(estimator)).parameters[new].default:
                raise ValueError(twice(old, new))
            warn_of_old_name(old, [new])
            value = by_old_name
        found[new] = value
    return found


def _numbered(groups: ArrayLike, n: int) -> NDArray[np.int64]:
    """Number the groups from 0 up; NaN, None and another length are refused."""
    found = np.asarray(groups)
    if found.shape != (n,):
        raise ValueError(f"`groups` must have one entry an image, {n}, got the shape {found.shape}")
    if any(each is None or each != each for each in found.tolist()):
        raise ValueError("`groups` must be known for each image, got NaN or None")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(found.tolist()))}  # names of any kinds
    return np.array([numbers[name] for name in found.tolist()], np.int64)


def _validate(
    estimator: Any,
    X: Any,  # noqa: N803 -- scikit-learn's name
    y: Any = None,
    *,
    is_fitted: bool = False,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check `X` (2-D by scikit-learn's rules, or of any more dimensions) and, when fitting, `y`."""
    dtype = [np.float64, np.float32]
    if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]) > 1:
        X = np.stack(X)  # noqa: N806 -- scikit-learn's name
    if getattr(X, "ndim", 2) > 2:
        X = check_array(X, allow_nd=True, dtype=dtype)  # noqa: N806 -- scikit-learn's name
        found = _image_shape(X)
        if is_fitted and found != estimator.scale_.shape:
            raise ValueError(f"`X` must have images of {estimator.scale_.shape}, got {found}")
    elif is_fitted:
        X = validate_data(estimator, X, reset=False, dtype=dtype)  # noqa: N806 -- scikit-learn's name
    else:
        X, y = validate_data(estimator, X, y, dtype=dtype)  # noqa: N806 -- scikit-learn's name
    if is_fitted:
        return X, np.zeros(0)
    check_classification_targets(y)
    y = column_or_1d(y, warn=True)
    check_consistent_length(X, y)
    return X, y
