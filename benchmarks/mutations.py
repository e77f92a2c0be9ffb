"""Would a test notice? Important lines are made wrong, one at a time, in a copy of this checkout.

    python benchmarks/mutations.py --json                              # all of benchmarks/mutations.toml
    python benchmarks/mutations.py --only roi --only threshold         # of these files or claims
    python benchmarks/mutations.py --out rows.jsonl                    # taken up again where it was stopped

Each entry of the list names a line, what is put in its place, the test files that should notice, and what users would
be told wrongly. The named test files must pass as they are; then, for each entry, they run until the first
failure: a failure, an error or a run far beyond its usual time means that the line is guarded. What survives is either
explained in the list (`survives`) or a gap: the exit status is then 1. Rows of --out are kept while neither the source
nor the tests of an entry change.
"""

import argparse
import ast
import contextlib
import hashlib
import itertools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_suffix(".toml")
_SOURCE = "src/diagnet"
_COPIED = ("src", "tests", "benchmarks", "docs", "evidence", "examples")
_LEFT = ("__pycache__", ".hypothesis", ".pytest_cache")
_LONGEST_S = 3600.0  # that tests may take as they are
_PLUGIN = "without_shrinking"  # hypothesis: the same examples each time, and the first that fails will do
_PLUGIN_TEXT = """
from hypothesis import Phase, settings

settings.register_profile("once", phases=[Phase.explicit, Phase.generate], derandomize=True, database=None)
settings.load_profile("once")
"""
_SPARE_S = 60.0  # added to thrice the time that the tests take as they are
_CHANGES = itertools.count(1)  # seconds: each change of a file has a time of its own, so that no old bytecode is run


def read_list(path=LIST):
    """The entries of a list of mutations."""
    return tomllib.loads(path.read_text(encoding="utf-8"))["mutation"]


def mutated(entry, checkout=ROOT):
    """The whole text of an entry's file with the mutation in it.

    Raises:
        ValueError: the entry fits the checkout no more.
    """
    name = f"`{entry['file']}`, {entry['claim']!r}"
    path = checkout / _SOURCE / entry["file"]
    if not path.is_file():
        raise ValueError(f"{name}: the file must be there, got none. Fix: change the name in the list")
    for test in entry["tests"]:
        if not (checkout / "tests" / test).is_file():
            raise ValueError(f"{name}: the test file must be there, got no tests/{test}")
    source = path.read_text(encoding="utf-8")
    if (n_found := source.count(entry["old"])) != 1:
        raise ValueError(f"{name}: `old` must occur once in the file, got {n_found} times. Fix: copy the text again")
    text = source.replace(entry["old"], entry["new"])
    if text == source:
        raise ValueError(f"{name}: `new` must differ from `old`, got the same")
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"{name}: `new` must be Python in its place, got {error}") from None
    return text


def copied(checkout, folder):
    """Copy what tests need; `folder` gets ../shared too, which some of them look for beside the checkout."""
    copy = folder / "checkout"
    copy.mkdir(parents=True)
    for name in _COPIED:
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns(*_LEFT))
    for path in checkout.iterdir():
        if path.is_file():
            shutil.copy2(path, copy)
    (folder / f"{_PLUGIN}.py").write_text(_PLUGIN_TEXT, encoding="utf-8")
    if (shared := checkout.parent / "shared").is_dir():
        (folder / "shared").symlink_to(shared.resolve())
    return copy


def tested(copy, tests, limit_s):
    """Run test files until the first failure: how it ended, which test failed, and the seconds it took."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", _PLUGIN, "-rfE"]
    command += ["-p", "pytest_timeout"]  # pyproject.toml has a setting of it
    command += [f"tests/{test}" for test in tests]
    environment = os.environ | {"PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy.parent}", "OMP_NUM_THREADS": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # their import takes as long as most of the tests
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=limit_s)
            how = {0: "passed", 1: "failed", 5: "empty"}.get(process.returncode, "error")
        except subprocess.TimeoutExpired:
            said, how = "", "time"
        finally:  # what the tests started goes with them
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    noticed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", said, re.MULTILINE)
    test = noticed.group(1) if noticed else ""
    return {"how": how, "test": test, "seconds": round(time.perf_counter() - began, 1)}, said


def try_mutation(entry, copy, limit_s):
    """Run an entry's tests with its mutation in the copy, and take it out again."""
    path = copy / _SOURCE / entry["file"]
    source, stamp = path.read_text(encoding="utf-8"), path.stat().st_mtime
    path.write_text(mutated(entry, copy), encoding="utf-8")
    os.utime(path, (changed := next(_CHANGES), changed))
    try:
        row, _ = tested(copy, entry["tests"], limit_s)
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, (stamp, stamp))
    row["caught"] = row["how"] not in ("passed", "empty")
    return row


def key_of(entry, checkout):
    """Hash of all that an entry's row hangs on: source, mutation and tests."""
    parts = [entry["new"], (checkout / _SOURCE / entry["file"]).read_text(encoding="utf-8"), entry["old"]]
    parts += [(checkout / "tests" / test).read_text(encoding="utf-8") for test in entry["tests"]]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def run(entries, checkout=ROOT, *, out=None, workers=1, tell=lambda _: None):
    """Try entries; return a row for each, in their order.

    Raises:
        ValueError: an entry does not fit the checkout, or its tests fail as they are.
    """
    for entry in entries:
        mutated(entry, checkout)
    rows = {}
    if out is not None and out.exists():
        rows = {row["key"]: row for row in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    keys = [key_of(entry, checkout) for entry in entries]
    left = [(key, entry) for key, entry in zip(keys, entries, strict=True) if key not in rows]
    usual_s, locks = {}, defaultdict(threading.Lock)
    with tempfile.TemporaryDirectory(prefix="diagnet-mutations-") as folder, ThreadPoolExecutor(workers) as pool:
        copies = queue.Queue()
        for number in range(min(workers, len(left))):
            copies.put(copied(checkout, Path(folder) / str(number)))

        def as_it_is(test, copy):
            """How long a test file takes without a mutation, measured once."""
            with locks[test]:
                if test not in usual_s:
                    found, said = tested(copy, [test], _LONGEST_S)
                    if found["how"] != "passed":
                        raise ValueError(f"{test} must pass without a mutation, got: {found['how']}\n{said[-3000:]}")
                    tell(f"{found['seconds']:6.1f} s as it is: {test}")
                    usual_s[test] = found["seconds"]
                return usual_s[test]

        def tried(key, entry):
            copy = copies.get()
            try:
                usual = sum(as_it_is(test, copy) for test in entry["tests"])
                row = try_mutation(entry, copy, 3 * usual + _SPARE_S)
            finally:
                copies.put(copy)
            return {"key": key, "file": entry["file"], "claim": entry["claim"], **row}

        try:
            for row in pool.map(tried, *zip(*left, strict=True)) if left else ():
                rows[row["key"]] = row
                how = "caught  " if row["caught"] else "SURVIVED"
                tell(f"{row['seconds']:6.1f} s {how} {row['file']}: {row['claim']}")
                if out is not None:
                    with out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        finally:
            pool.shutdown(cancel_futures=True)
    return [rows[key] for key in keys]


def summary(entries, rows):
    """Count rows; name what survived without a reason, and what was caught although the list explains it."""
    pairs = list(zip(entries, rows, strict=True))
    told = [(f"{entry['file']}: {entry['claim']}", entry.get("survives"), row["caught"]) for entry, row in pairs]
    return {
        "mutations": len(rows),
        "caught": sum(row["caught"] for row in rows),
        "explained": {name: reason for name, reason, is_caught in told if reason and not is_caught},
        "gaps": [name for name, reason, is_caught in told if not reason and not is_caught],
        "caught_although_explained": [name for name, reason, is_caught in told if reason and is_caught],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="text of a file's name or claim; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="the same for what is passed over")
    parser.add_argument("--out", type=Path, help="a JSON line for each mutation; those there are not tried again")
    parser.add_argument("--workers", type=int, default=1, help="mutations tried at a time, each in a copy of its own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()

    def has(entry, texts):
        return any(text in entry["file"] or text in entry["claim"] for text in texts)

    entries = [
        each for each in read_list() if (not asked.only or has(each, asked.only)) and not has(each, asked.without)
    ]
    try:
        rows = run(entries, out=asked.out, workers=asked.workers, tell=lambda line: print(line, file=sys.stderr))
    except ValueError as error:
        sys.exit(f"mutations: error: {error}")
    found = summary(entries, rows)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:28} {value}")
    sys.exit(1 if found["gaps"] else 0)


if __name__ == "__main__":
    main()
