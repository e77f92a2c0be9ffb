"""The verb that shows the documentation, which comes with diagnet: docs."""

from pathlib import Path
from typing import Annotated

import typer

from diagnet.cli.shared import Json, print_json

_PACKAGE = Path(__file__).parents[1]


def docs(
    page: Annotated[str | None, typer.Argument(help="Its name, such as predict.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Print a page of the documentation, or list all of them.

    The pages are Markdown files, and come with the package.
    """
    folder = docs_folder()
    pages = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.md"))}
    if page is not None:
        page = page.removeprefix("docs/").removesuffix(".md")
        if page not in pages:
            raise typer.BadParameter(
                f"must name a page, got {page}. Fix: `diagnet docs` lists them.", param_hint="PAGE"
            )
    if as_json:
        print_json({"folder": str(folder), **({"pages": [*pages]} if page is None else {"page": page})})
    elif page is None:
        wide = max(map(len, pages))
        for name, path in pages.items():
            print(f"{name:<{wide}}  {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
        print(f"Folder: {folder}")
    else:
        print(pages[page].read_text(encoding="utf-8"))


def docs_folder() -> Path:
    """Where the pages lie: inside the installed package, or beside the sources it was linked from."""
    inside = _PACKAGE / "docs"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "docs"
