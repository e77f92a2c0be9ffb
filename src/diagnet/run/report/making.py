"""How a result was made: data, neighbors and graph, learning, settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diagnet.arrays import Images
from diagnet.run.array_files import SyntheticImages
from diagnet.run.report.figures import auc_curves, embedding_map, graph_curves, loss_curves, picture
from diagnet.run.report.files import RunFiles
from diagnet.run.report.page import Html, figure, joined, number, reminder, section, table, tag

_COLUMNS = 6  # of the panel of neighbors
_KINDS = {1: "positive neighbors", -1: "negative neighbors"}


def data(run: RunFiles) -> Html:
    """Counts by part and class, and what was left out."""
    found = run.record["data"]
    names = ["masses", "images", "patients", *found["classes"]]
    counts = [
        [part, *(each.get(name, "") for name in names)]
        for part, each in run.record["counts"].items()
        if any(each.values())
    ]
    n_unlabelled = found.get("unlabelled", 0)
    left_out, notes = ([[*item] for item in found[name].items()] for name in ("left_out", "notes"))
    return section(
        "Data and split",
        table(["part", *names], counts),
        _sources(found),
        tag(
            "p",
            "Neighbors, graph and network are fitted on training masses; the threshold, and the temperature that"
            " makes scores probabilities, on validation masses. Test masses are only scored.",
            class_="soft",
        ),
        tag(
            "p",
            f"{n_unlabelled} masses without a label count by edges between the images of a lesion, in training alone.",
        )
        if n_unlabelled
        else None,
        tag("h3", "Left out"),
        table(["reason", "how many"], left_out, class_="reasons") if left_out else tag("p", "Nothing."),
        *((tag("h3", "Noticed, and kept"), table(["what", "how many"], notes, class_="reasons")) if notes else ()),
    )


def neighbors(run: RunFiles, images: Images) -> Html:
    """The panel of Fig. 2, how far neighbors moved, and the graph they joined."""
    found = run.neighbors
    title = "Adversarial neighbors (the paper's Fig. 2)"
    graph = None
    if run.signs is not None:
        n_attracting, n_repelling = int((run.signs > 0).sum()), int((run.signs < 0).sum())
        graph = tag(
            "p",
            f"The signed graph joins {run.n_points:,} points (originals and neighbors) by {n_attracting:,}"
            f" attracting and {n_repelling:,} repelling edges.",
        )
    if found is None:
        return section(title, tag("p", "This run made no adversarial neighbors."), graph)
    if not found.images.size:
        return section(
            title,
            tag(
                "p",
                "Synthetic feature vectors that help in training: the features of a training mass, moved. There is"
                " nothing to look at. Test masses play no part in making them.",
            ),
            _moves(found, run.classes),
            graph,
        )
    return section(
        title,
        tag(
            "p",
            "Synthetic images that help in training; test masses play no part in making them. A positive neighbor"
            " is an image that a discriminator of its class takes for one of the class. A negative neighbor lies"
            " near the class too, but the discriminator tells it apart.",
        ),
        *(_panel(found, label, name, images) for label, name in enumerate(run.classes)),
        tag("h3", "How far they moved"),
        _moves(found, run.classes),
        tag(
            "p",
            "Moved: cosine distance to the nearest original of the class. Closest pair: that distance between the"
            " two most alike originals. P: how strongly a discriminator that has not seen the image takes it for an"
            " original.",
            class_="soft",
        ),
        graph,
    )


def learning(run: RunFiles) -> Html:
    """Curves by epoch, and where the masses lie in the network's eyes."""
    curves = (
        ("classification_loss", loss_curves, "Classification loss (Eq. 5) of training and validation masses."),
        ("signed_graph_loss", graph_curves, "Signed graph loss (Eq. 4) of the training points."),
        ("validation_auc", auc_curves, "AUC of the validation masses. Dotted: guessing."),
    )
    drawn = [
        figure(draw(run.history), caption)
        for name, draw, caption in curves
        if any(row.get(name) is not None for row in run.history)
    ]
    return section("Learning", tag("div", *drawn, class_="figures"), _map(run), reminder(run.is_synthetic))


def settings(run: RunFiles) -> Html:
    """Everything that is needed to make the run again."""
    record = run.record
    facts = {
        "command": record["command"],
        "git revision": record["git_revision"] or "unknown",
        "device, precision": f"{record['device']}, {record['precision']}",
        "duration": "unknown" if record["duration_s"] is None else f"{record['duration_s']:.0f} s",
        "SHA-256 of the images": record["data"]["sha256"],
        "temperature of the scores": number(run.metrics.get("temperature")),
        **{f"{name} version": version for name, version in record["versions"].items()},
    }
    return section(
        "Settings and versions",
        tag(
            "details",
            tag("summary", "Versions and origin"),
            table([], [[*fact] for fact in facts.items()], class_="reasons"),
        ),
        tag("details", tag("summary", "Every setting (config.toml)"), tag("pre", run.config)),
    )


def _sources(found: Mapping[str, Any]) -> Html | None:
    if "sources" not in found:
        return None
    rows = [[name, each["masses"], each["patients"]] for name, each in found["sources"].items()]
    rule = "different patients" if found["distinct_patients"] else "one patient"
    return joined(
        tag("h3", "Sources"),
        table(["source", "masses", "patients"], rows),
        tag("p", f"Patients of the same name in different sources are {rule}.", class_="soft"),
    )


def _map(run: RunFiles) -> Html | None:
    found = run.embeddings
    if found is None or len(found.labels) < 3:
        return None
    return figure(
        embedding_map(found.embeddings, found.labels, found.part, run.classes),
        "Embedding map: masses as the network sees them, in the two directions that vary most (principal components"
        " of unit vectors). It was trained to set the pale training masses apart; what it learned shows in the"
        " outlined test masses.",
        class_="broad",
    )


def _panel(found: SyntheticImages, label: int, name: str, images: Images) -> Html | None:
    """Originals on top, their neighbors below; originals with neighbors of both kinds come first."""
    made = {
        kind: {int(found.parents[i]): int(i) for i in np.flatnonzero((found.labels == label) & (found.kinds == kind))}
        for kind in _KINDS
    }
    parents = sorted({*made[1], *made[-1]}, key=lambda parent: (-(parent in made[1]) - (parent in made[-1]), parent))
    parents = parents[:_COLUMNS]
    if not parents:
        return None
    rows: list[list[object]] = [["originals"]]
    for parent in parents:
        original = tag("img", src=picture(images[parent]), alt=f"Original {name} mass #{parent}")
        rows[0].append(tag("div", original, tag("small", f"#{parent}")))
    for kind, title in _KINDS.items():
        row: list[object] = [title]
        for parent in parents:
            i = made[kind].get(parent)
            if i is None:
                row.append("")
                continue
            shown = tag("img", src=picture(found.images[i]), alt=f"One of the {title} of {name} mass #{parent}")
            moved, probability = f"moved {found.distance[i]:.2g}", f"P {found.probability[i]:.2f}"
            row.append(tag("div", shown, tag("small", moved), tag("small", probability)))
        if any(row[1:]):
            rows.append(row)
    return tag("div", tag("h3", name.capitalize()), table([], rows, class_="panel"))


def _moves(found: SyntheticImages, classes: Sequence[str]) -> Html:
    rows = []
    for label, name in enumerate(classes):
        for kind, title in _KINDS.items():
            chosen = (found.labels == label) & (found.kinds == kind)
            if chosen.any():
                low, middle, high = np.quantile(found.distance[chosen], [0, 0.5, 1])
                closest_pair = float(found.closest_pair[label])
                rows.append(
                    [
                        f"{name}, {title}",
                        int(chosen.sum()),
                        f"{middle:.3g} ({low:.3g} to {high:.3g})",
                        f"{closest_pair:.3g}",
                        f"{middle / closest_pair:.1f}" if closest_pair > 0 else "",
                        f"{np.median(found.probability[chosen]):.2f}",
                    ]
                )
    return table(["", "how many", "moved: median (range)", "closest pair", "moved / closest pair", "P: median"], rows)
