"""Speed and memory of the signed graph, against faiss-cpu's flat index (pip install faiss-cpu) on the same queries.

    python benchmarks/graph.py --json                    # 100,000 points, three turns: fifteen minutes on two cores
    python benchmarks/graph.py --json --repeats 1        # one turn
    python benchmarks/graph.py --json --quick            # 10,000 points: for a look, not for the record

Both search by cosine with the same number of threads, in turns. faiss is given unit vectors and asked, for each class,
for n+ + 1 points of its own pool (one is the query itself) and n- of the other pool; our time also holds the making of
the unit vectors and of the graph. Without faiss-cpu the comparison is skipped and said so.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from diagnet.graph import GraphSettings, signed_graph

SETTINGS = GraphSettings()


def make_points(n_points, n_features):
    """Clustered embeddings: two classes of twenty clusters each, one point in ten a negative neighbor."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n_points)
    kinds = np.where(rng.random(n_points) < 0.1, -1, 0).astype(np.int8)
    centers = rng.standard_normal((40, n_features), dtype=np.float32)
    vectors = rng.standard_normal((n_points, n_features), dtype=np.float32)
    for vector, label in zip(vectors, labels, strict=True):  # in place: the peak of memory is to be the graph's
        vector += centers[20 * label + rng.integers(20)]
    return vectors, labels, kinds


def faiss_edges(units, labels, kinds):
    """Anchors and their nearest points in both pools, by faiss.IndexFlatIP."""
    import faiss

    anchors, points = [], []
    for label in (0, 1):
        own = (labels == label) & (kinds >= 0)
        queries = np.flatnonzero(own)
        for pool, k in ((queries, SETTINGS.n_attracting + 1), (np.flatnonzero(~own), SETTINGS.n_repelling)):
            index = faiss.IndexFlatIP(units.shape[1])
            index.add(units[pool])
            found = pool[index.search(units[queries], k)[1]]
            is_other = found != queries[:, None]
            anchors.append(np.repeat(queries[:, None], k, axis=1)[is_other])
            points.append(found[is_other])
    return np.concatenate(anchors), np.concatenate(points)


def timed(job):
    """How long a job takes, and what it returns."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def large_graph(n_points, n_repeats):
    """Median seconds of both sides, their ratio, and the share of edges they agree on."""
    points = make_points(n_points, 1_024)
    has_faiss = importlib.util.find_spec("faiss") is not None
    if has_faiss:
        units = points[0] / np.linalg.norm(points[0], axis=1, keepdims=True)
    else:
        print("faiss-cpu is not there, so nothing is compared with it. Fix: pip install faiss-cpu", file=sys.stderr)
    ours, theirs = [], []
    for _ in range(n_repeats):
        took, graph = timed(lambda: signed_graph(*points, SETTINGS))
        ours.append(took)
        if has_faiss:
            took, (anchors, nearest) = timed(lambda: faiss_edges(units, *points[1:]))
            theirs.append(took)
    figures = {"graph_100k_points": n_points, "graph_100k_s": statistics.median(ours)}
    if has_faiss:
        agreed = np.count_nonzero(graph.signs[anchors, nearest])
        figures["graph_100k_faiss_s"] = statistics.median(theirs)
        figures["graph_100k_vs_faiss"] = figures["graph_100k_faiss_s"] / figures["graph_100k_s"]
        figures["graph_100k_edges_agreed"] = agreed / max(graph.signs.nnz, len(anchors))
    return figures


def small_graph():
    """Seconds of a graph as training builds it every few epochs: 900 points x 128."""
    points = make_points(900, 128)
    return {"graph_small_s": statistics.median(timed(lambda: signed_graph(*points, SETTINGS))[0] for _ in range(25))}


def extra_memory(n_points):
    """Peak resident memory of the graph above the data, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", str(n_points)]
    return {"graph_100k_extra_gb": float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)}


def measured_memory(n_points):
    """Gigabytes by which the graph raises the memory of this process (Linux)."""
    small = make_points(100, 1_024)
    signed_graph(*small, SETTINGS)  # libraries are loaded, their buffers made
    points = make_points(n_points, 1_024)
    before = status_gb("VmRSS")
    signed_graph(*points, SETTINGS)
    return status_gb("VmHWM") - before


def status_gb(name):
    """A figure of /proc/self/status; unlike getrusage, it knows nothing of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


def figures(quick, n_repeats=3, n_threads=None):
    """All figures of this file."""
    if importlib.util.find_spec("faiss") is not None:
        import faiss  # noqa: F401 -- loaded before the number of threads is set, which counts for loaded libraries only
    n_points = 10_000 if quick else 100_000
    n_threads = n_threads or os.cpu_count()
    with threadpool_limits(n_threads):
        result = {"graph_threads": n_threads, **small_graph(), **large_graph(n_points, n_repeats)}
    return result | extra_memory(n_points)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="10,000 points instead of 100,000")
    parser.add_argument("--repeats", type=int, default=3, help="turns of either side")
    parser.add_argument("--threads", type=int, help="threads of either side; all cores by default")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of is not None:
        print(measured_memory(arguments.memory_of))
        return
    result = {"quick": arguments.quick, **figures(arguments.quick, arguments.repeats, arguments.threads)}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name:40} {value}")


if __name__ == "__main__":
    main()
