"""The licences of all that an installation with every extra brings: a table, and a refusal of copyleft.

    python .ci/licenses.py OUT.md

It reads the metadata of what is installed beside the Python that runs it; what is not installed is named, not guessed.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

NAME = "diagnet-mammography"
STRONG = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
WEAK = re.compile(r"\b(LGPL|GNU Lesser|MPL|Mozilla Public|EPL|Eclipse Public)", re.IGNORECASE)
# What a package's own metadata does not say, read in its source: name -> (licence, where)
KNOWN: dict[str, tuple[str, str]] = {}


def closure() -> tuple[dict[str, metadata.Distribution], list[str]]:
    """All distributions that any extra needs, by name, and the names of those that are not installed."""
    found, missing, left = {}, set(), [(NAME, set(metadata.metadata(NAME).get_all("Provides-Extra") or []))]
    while left:
        name, extras = left.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(key)
            continue
        if key in found and not extras:
            continue
        found[key] = distribution
        for text in distribution.requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in ("", *extras)):
                left.append((needed.name, set(needed.extras)))
    return found, sorted(missing)


def licence(distribution: metadata.Distribution) -> str:
    """What a distribution's metadata says: the expression, else the classifiers, else the first line of the text."""
    facts = distribution.metadata
    if facts["License-Expression"]:
        return facts["License-Expression"]
    named = [each.split(" :: ")[-1] for each in facts.get_all("Classifier") or [] if each.startswith("License :: ")]
    named = [each for each in named if each != "OSI Approved"]
    text = (facts["License"] or "").strip().split("\n")[0][:80]
    return "; ".join(named) or text or "not said"


def is_strong(text: str) -> bool:
    """Tell whether all of the choices are GPL or AGPL; LGPL is not, nor what has another choice beside it."""
    text = re.sub(r"GPL-[\d.]+(-or-later|-only)? WITH [\w.-]+|LGPL|Lesser General", "", text)  # exceptions let users be
    return all(STRONG.search(each) for each in re.split(r"\bOR\b", text))


def main() -> int:
    """Write the table; 1 where a licence is copyleft or nobody says which it is."""
    found, missing = closure()
    rows, refused, told = [], [], []
    for name, distribution in sorted(found.items()):
        text = KNOWN[name][0] if name in KNOWN else licence(distribution)
        rows.append(f"| {name} | {distribution.version} | {text} |")
        if text == "not said" or is_strong(text):
            refused.append(f"{name}: {text}")
        elif WEAK.search(text):
            told.append(f"{name}: {text}")
    lines = ["# Licences of diagnet and of all that its extras bring", "", "| package | version | licence |"]
    lines += ["|---|---|---|", *rows, ""]
    lines += [f"Copyleft of a file or a library, not of what uses it: {'; '.join(told) or 'none'}.", ""]
    lines += [f"Not installed here, so not looked at: {', '.join(missing) or 'none'}.", ""]
    Path(sys.argv[1]).write_text("\n".join(lines), encoding="utf-8")
    print(f"licences: {len(rows)} packages, told: {'; '.join(told) or 'none'}")
    print(f"licences: not looked at: {', '.join(missing) or 'none'}")
    for each in refused:
        print(f"licences: `licence` must be permissive, got {each}", file=sys.stderr)
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
