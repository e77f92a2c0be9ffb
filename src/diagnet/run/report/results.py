"""How good the scores are, what they mean, and where they are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from diagnet.arrays import Images
from diagnet.run.report.figures import calibration_plot, decision_plot, picture, roc_plot
from diagnet.run.report.files import RunFiles
from diagnet.run.report.page import Html, figure, joined, number, reminder, section, table, tag
from diagnet.run.tables import ScoredMass

_WORST = 6  # mistakes shown of each class
_RULES = {
    "youden": ": it has the highest sum of sensitivity and specificity there",
    "sensitivity90": ": it is the highest that still finds 90 % of the malignant masses there",
}
_NAMES = {"auc": "AUC", "accuracy": "Accuracy", "sensitivity": "Sensitivity", "specificity": "Specificity"}
_VALUES = {"ppv": "PPV", "npv": "NPV"}  # runs from before have none


def results(run: RunFiles) -> Html:
    """Headline, table by unit, ROC curve, calibration, confusion matrix."""
    test, threshold, target = run.metrics["test"], run.metrics["threshold"], run.target
    mass, level = test["units"]["mass"], f"{100 * test['confidence']:g}\N{NO-BREAK SPACE}%"
    others = " or ".join(name for name in run.classes if name != target)
    meanings = {
        "auc": f"How often a {target} mass scores higher than a {others} one; 0.5 is guessing.",
        "accuracy": "Masses whose decision agrees with their label.",
        "sensitivity": f"{target.capitalize()} masses that are called {target}.",
        "specificity": f"{others.capitalize()} masses that are not called {target}.",
        "ppv": f"Masses called {target} that are. Lower where {target} masses are rarer than here.",
        "npv": f"Masses not called {target} that are not. Higher where {target} masses are rarer than here.",
    }
    return section(
        "Result on masses the network never saw",
        tag(
            "p",
            f"{mass['n']} test masses of {mass['n_patients']} patients: ",
            ", ".join(f"{count} {name}" for name, count in mass["n_per_class"].items()),
            f". Below each figure, its {level} interval.",
        ),
        tag(
            "div",
            *(
                tag(
                    "div",
                    tag("span", (_NAMES | _VALUES)[name]),
                    tag("b", _value(name, mass[name]["value"])),
                    tag("small", _range(name, mass[name]), class_="interval"),
                    tag("small", text),
                    class_="card",
                )
                for name, text in meanings.items()
                if name in mass
            ),
            class_="cards",
        ),
        reminder(run.is_synthetic),
        tag("p", "The interval of the AUC reaches 0.5: this run does not show more than guessing.", class_="warning")
        if mass["auc"]["low"] is not None and mass["auc"]["low"] <= 0.5
        else None,
        tag(
            "p",
            f"A mass is called {target} from a score of {threshold['value']:.3f}. This threshold was chosen on"
            f" {threshold.get('chosen_on', 'validation masses')}, not on test masses",
            _RULES.get(threshold.get("rule", ""), ""),
            ".",
        ),
        _abstentions(run),
        _folds(run.metrics.get("folds") or {}),
        tag("h3", "By mass, by image, by patient"),
        _units(test["units"]),
        _by_source(test.get("by_source") or {}),
        _by_lesion(test.get("by_lesion")),
        tag(
            "p",
            "An image scores as its most suspicious mass, a patient as the most suspicious image. The"
            f" intervals come from drawing the test patients anew {test['n_resamples']:,} times, each patient with"
            " all masses: they say how far a figure may move with other patients of the same kind, not at another"
            " hospital. Brier score and calibration error: lower is better.",
            f" {mass['n_resamples_dropped']} draws lacked a class and gave no AUC."
            if mass["n_resamples_dropped"]
            else None,
            class_="soft",
        ),
        _net_benefits(mass.get("decision_curve"), target),
        tag("div", *_curves(mass, target, level), _confusion(mass["confusion"], run.classes), class_="figures"),
        reminder(run.is_synthetic),
    )


def meaning(run: RunFiles) -> Html:
    """What a score means, and what it does not."""
    mass, target = run.metrics["test"]["units"]["mass"], run.target
    share = mass["n_per_class"].get(target, 0) / mass["n"]
    points = (
        f"A score is this network's probability that a marked mass is {target}, among masses like those it learned"
        f" from. Of the test masses {100 * share:.0f} % are {target}; where they are rarer, scores are too high.",
        "It judges masses that somebody has marked. It finds none, and knows nothing of the rest of the breast, of"
        " earlier examinations or of the patient.",
        "A label is what the data set says (a biopsy or a reader's BI-RADS), errors included.",
        "It was not tested on hospitals, devices or populations other than those of the data. It is no medical device.",
    )
    return section("What a score means, and what not", tag("ul", *(tag("li", text) for text in points)))


def mistakes(run: RunFiles, images: Images) -> Html:
    """The test masses that were decided wrongly by the widest margin, by class."""
    target = run.target
    wrong = [mass for mass in run.predictions if (mass.decision == target) != (mass.label == target)]
    wrong.sort(key=lambda mass: -abs(mass.malignancy - (mass.label == target)))
    groups = []
    for name in reversed(run.classes):
        rows = [mass for mass in wrong if mass.label == name]
        what = f"not called {target}" if name == target else f"called {target}"
        if rows:
            shown = f", the worst {_WORST} shown" if len(rows) > _WORST else ""
            groups += [
                tag("h3", f"{name.capitalize()}, but {what}: {len(rows)}{shown}"),
                tag("div", *(_case(mass, images) for mass in rows[:_WORST]), class_="cases"),
            ]
    return section(
        "Worst mistakes",
        *(groups or [tag("p", "No test mass was decided wrongly.")]),
        tag(
            "p",
            "# is the row of the mass in the data, counted from 0, as in split.csv. These are pictures of"
            " patients: pass this file on as carefully as the images themselves.",
            class_="soft",
        ),
        reminder(run.is_synthetic),
    )


def _case(mass: ScoredMass, images: Images) -> Html:
    index, score = mass.index, f"score {mass.malignancy:.3f}"
    what = f"#{index} {mass.laterality} {mass.view}".rstrip() + (f", {mass.source}" if mass.source else "")
    return figure(
        tag("img", src=picture(images[index]), alt=f"Mass {what}, labeled {mass.label}, {score}"),
        tag("b", score),
        tag("br"),
        what,
    )


def _curves(mass: Mapping[str, Any], target: str, level: str) -> list[Html]:
    roc, bins = mass["roc"], mass["calibration"]
    drawn = []
    if roc:
        drawn.append(
            figure(
                roc_plot(roc, mass["auc"], mass["sensitivity"], mass["specificity"]),
                "ROC curve: what each threshold would find (up), and at what cost in false alarms (right)."
                f" Band: where the curve lies in {level} of the draws, place by place. Dotted: guessing.",
            )
        )
    if bins:
        drawn.append(
            figure(
                calibration_plot(bins, target),
                f"Calibration: on the dotted line, 30 of 100 masses that score 0.3 are {target}. A point stands for"
                f" about {mass['n'] // len(bins)} masses with like scores, its bar for the {level} interval.",
            )
        )
    if curve := mass.get("decision_curve"):  # runs from before have none
        drawn.append(
            figure(
                decision_plot(curve, target),
                f"Decision curve: {target} masses found a mass, less the false alarms, each weighed by what the"
                " threshold says it costs: at 0.2 four false alarms cost as much as one mass found is worth."
                f" Band: {level} interval, place by place. Where the line is not above both others, scores are of no"
                " use for a decision at that threshold.",
            )
        )
    return drawn


_SHOWN = (0.1, 0.2, 0.3, 0.5, 0.7)  # thresholds of the table of net benefits


def _net_benefits(curve: Mapping[str, Any] | None, target: str) -> Html | None:
    """Net benefit by 100 masses at a few thresholds, as a table."""
    if not curve:
        return None
    rows = []
    for shown in _SHOWN:
        at = min(range(len(curve["thresholds"])), key=lambda k: abs(curve["thresholds"][k] - shown))
        ends = [f"({100 * curve['low'][at]:.1f} to {100 * curve['high'][at]:.1f})"] if curve["low"] else []
        rows.append(
            [
                f"{shown:g}",
                joined(f"{100 * curve['net_benefit'][at]:.1f}", *(tag("small", f" {each}") for each in ends)),
                f"{100 * curve['call_all'][at]:.1f}",
            ]
        )
    return joined(
        tag("h3", "Net benefit"),
        table([f"called {target} from", "net benefit of 100 masses", "if all were called"], rows),
        tag(
            "p",
            "Masses found less false alarms, each false alarm weighed by t / (1 - t) for the threshold t. Calling none"
            " has a net benefit of 0.",
            class_="soft",
        ),
    )


def _abstentions(run: RunFiles) -> Html | None:
    """How many test masses the model would not call, and how good its calls of the others are."""
    tested = [mass for mass in run.predictions if mass.fold in run.bands]
    if not tested:
        return None
    called = [mass for mass in tested if not _is_between(mass.malignancy, run.bands[mass.fold])]
    n_right, n_not = sum(mass.decision == mass.label for mass in called), len(tested) - len(called)
    others = f", and {100 * n_right / len(called):.1f} % of the calls of the others are right" if called else ""
    return tag(
        "p",
        tag("b", "Without a call: "),
        f"{n_not} of {len(tested)} test masses ({100 * n_not / len(tested):.1f} %) score so near to the threshold that"
        f" predict, listen and the reader page do not call them{others}. The figures here count every mass as called.",
    )


def _is_between(malignancy: float, band: tuple[float, float]) -> bool:
    return band[0] < malignancy < band[1]


def _units(units: Mapping[str, Any]) -> Html:
    names = {name: shown for name, shown in (_NAMES | _VALUES).items() if name in units["mass"]}
    rows = [
        [
            f"by {unit}",
            found["n"],
            *(_figure(name, found[name]) for name in names),
            number(found["brier"]["value"]),
            number(found["calibration_error"]),
        ]
        for unit, found in units.items()
    ]
    return table(["", "n", *names.values(), "Brier score", "Calibration error"], rows)


def _by_source(figures: Mapping[str, Any]) -> Html | None:
    if not figures:
        return None
    rows = [[name, found["n"], found["n_patients"], _figure("auc", found["auc"])] for name, found in figures.items()]
    return joined(tag("h3", "By source"), table(["", "test masses", "patients", "AUC"], rows))


def _by_lesion(figures: Mapping[str, Any] | None) -> Html | None:
    if not figures:
        return None
    n, n_masses, n_patients = (figures[name] for name in ("n", "n_masses", "n_patients"))
    rows = [
        ["lesions: the mean log-odds of their masses", n, n_patients, _figure("auc", figures["auc"])],
        ["the same masses one by one", n_masses, n_patients, _figure("auc", figures["auc_of_masses"])],
    ]
    return joined(tag("h3", "Lesions seen in two views"), table(["", "n", "patients", "AUC"], rows))


def _figure(name: str, figure: Mapping[str, Any]) -> Html:
    """A value with its interval below it."""
    return joined(_value(name, figure["value"]), tag("small", _range(name, figure)))


def _folds(folds: Mapping[str, Any]) -> Html | None:
    if folds.get("n", 1) < 2:
        return None
    spread = ", ".join(
        f"{_NAMES[name]} {number(folds[name]['mean'])} (SD {number(folds[name]['sd'])}, SE {number(folds[name]['se'])})"
        for name in ("auc", "accuracy")
    )
    return tag(
        "p",
        f"Mean over {folds['n']} folds: {spread}. Each mass was tested once, by a network that had not seen it; the"
        " threshold is the mean of theirs. Neighbors, graph and embeddings below are those of the first fold.",
    )


def _confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Html:
    rows = [tag("tr", tag("td"), *(tag("th", f"called {name}", scope="col") for name in classes))]
    for label, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = [
            tag(
                "td",
                tag("b", count),
                f"{100 * count / max(1, sum(row)):.0f} %",
                class_="right" if called == label else "wrong",
            )
            for called, count in enumerate(row)
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    return figure(
        tag("table", *rows, class_="matrix"),
        "Confusion matrix: labels by row, decisions by column, fractions of the row.",
    )


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.3f}" if name == "auc" else f"{100 * value:.1f} %"


def _range(name: str, found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return ""
    if name == "auc":
        return f"({found['low']:.3f} to {found['high']:.3f})"
    return f"({100 * found['low']:.1f} to {100 * found['high']:.1f} %)"
