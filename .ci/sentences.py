"""Sentence lengths of the documents: number, mean, longest. Exit code 1 where a document reads too heavily."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_MEAN, MAX_LENGTH = 18, 35  # words
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|Eqs?|Secs?|Figs?|vs|cf)\.(?=\s)", re.IGNORECASE)


def documents() -> list[Path]:
    """README, CONTRIBUTING, CHANGELOG and all pages."""
    return [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")] + sorted(ROOT.glob("docs/**/*.md"))


def sentences(text: str) -> list[str]:
    """The sentences of a Markdown text, without code blocks, tables, headings, HTML and the targets of links."""
    text = re.sub(r"^ *```.*?^ *```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^ *(\||#|:::).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"</?[a-z][^>]*>", "", text)
    text = re.sub(r"^ *([-*]|\d+\.) +", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"[*_]", "", text)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        line = ABBREVIATIONS.sub(lambda match: match[0][:-1], " ".join(paragraph.split()))
        found += [each for each in re.split(r"(?<=[.!?])[\"')]*\s+", line) if re.search(r"[A-Za-z]", each)]
    return found


def read(document: Path) -> list[str]:
    """The sentences of a document; of the changes, the unreleased ones."""
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":
        text = re.split(r"^## ", text, flags=re.MULTILINE)[1]
        text = text.partition("\n")[2]
    return sentences(text)


def n_words(sentence: str) -> int:
    """Words of a sentence: what holds a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def main(names: list[str]) -> int:
    """Print a line for each document; 1 where one is too heavy."""
    is_heavy = False
    for document in [Path(name).resolve() for name in names] or documents():
        found = read(document)
        if not found:
            continue
        lengths = [n_words(each) for each in found]
        mean, longest = sum(lengths) / len(lengths), max(lengths)
        n_long = sum(length > MAX_LENGTH for length in lengths)
        is_heavy |= mean > MAX_MEAN or n_long > 0
        text = max(found, key=n_words)
        name = document.relative_to(ROOT) if document.is_relative_to(ROOT) else document
        print(f"{name}: {len(found)} sentences, mean {mean:.1f}, longest {longest}, {n_long} too long: {text}")
    return int(is_heavy)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
