"""An HTML page that needs nothing but itself: text is escaped by construction, and nothing is loaded or run."""

import html
from importlib.resources import files
from typing import Any

# Images are data, the style is inside, scripts and everything remote are forbidden to the browser as well.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
_EMPTY = ("img", "meta")  # elements without an end


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


def table(head: list[Any], rows: list[list[Any]], **attributes: object) -> Html:
    """Make a table whose first column names the rows; it scrolls where the screen is too narrow."""
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    header = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    return tag("div", tag("table", tag("thead", header), tag("tbody", *body), **attributes), class_="wide")


def page(title: str, *body: Html) -> str:
    """Make a whole document."""
    style = files("diagnet").joinpath("report.css").read_text(encoding="utf-8")
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
