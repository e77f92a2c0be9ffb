"""An HTML page that needs nothing but itself: text is escaped by construction, and nothing is loaded or run."""

import html
from collections.abc import Sequence
from importlib.resources import files

from diagnet.notice import NOTICE, notice_of

# Images are data, the style is inside, scripts and everything remote are forbidden to the browser as well.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_EMPTY = ("br", "img", "meta")  # elements without an end


class Html(str):
    """Text that is HTML already; every other string is escaped before it becomes part of a page."""

    __slots__ = ()


def tag(element: str, *children: object, **attributes: object) -> Html:
    """Make an element; children that are no `Html` are escaped, and so are attributes.

    Args:
        element: its name.
        children: its content; None is left out.
        attributes: `class_` stands for class and `aria_label` for aria-label; None is left out.
    """
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    written = "".join(
        f' {names[name]}="{html.escape(str(value))}"' for name, value in attributes.items() if value is not None
    )
    if element in _EMPTY:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{joined(*children)}</{element}>")


def joined(*children: object) -> Html:
    """Put pieces one after another, escaping those that are no `Html`."""
    return Html(
        "".join(
            child if isinstance(child, Html) else html.escape(str(child)) for child in children if child is not None
        )
    )


def table(head: Sequence[object], rows: Sequence[Sequence[object]], **attributes: object) -> Html:
    """Make a table whose first column names the rows; it scrolls where the screen is too narrow."""
    header = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else None
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    return tag("div", tag("table", header, tag("tbody", *body), **attributes), class_="wide")


def figure(drawn: Html, *caption: object, **attributes: object) -> Html:
    """Put a caption under a drawing."""
    return tag("figure", drawn, tag("figcaption", *caption), **attributes)


def section(title: str, *content: object) -> Html:
    """Make a section with its heading."""
    return tag("section", tag("h2", title), *content)


def reminder(is_synthetic: bool) -> Html:
    """Repeat the notice beside scores: the band on top is lost where one section is copied."""
    return tag("p", notice_of(is_synthetic), class_="reminder")


def number(value: float | None) -> str:
    """Three decimals, or that there is none."""
    return "not defined" if value is None else f"{value:.3f}"


def page(title: str, *body: Html, is_synthetic: bool = False) -> str:
    """Return a whole HTML document with its style sheet."""
    style = files("diagnet.run.report").joinpath("report.css").read_text(encoding="utf-8")
    style = style.replace(NOTICE, notice_of(is_synthetic))  # on top of each printed page
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="robots", content="noindex"),
        tag("title", title),
        tag("style", Html(style)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"
