"""What do two workers of a Ray cluster gain over one?

    python -m benchmarks.cluster [--cases 36] [--tokens 200]

One CPU thread each, on this machine, which needs two idle cores for it. Timed is from when the last
worker has its model to the end of the last case: a start does not grow with the work, and stands
beside it. Tables are compared to the bit.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd

from analyses import captions
from analyses.cases import read_cases
from analyses.running import results
from analyses.running.options import ModelOptions
from analyses.running.request import on_cluster
from analyses.running.runs import Run, execute
from benchmarks.timing import machine
from data_prep.organism.world.dataset import write_world
from hooked_omni import load
from hooked_omni.cluster.joining import Cluster


def main() -> None:
    """Print both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=36)
    parser.add_argument("--tokens", type=int, default=200)
    given = parser.parse_args()
    print(f"{machine()}\n\n| workers | cases | start | seconds a case | times faster |")
    print("|---" * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), 4, 0, "test")
        cases = read_cases(Path(folder, "pairs.jsonl"))[: given.cases]
        run = Run("captions", captions.Config(given.tokens), load("organism-biased"), cases)
        seconds, tables = [], []
        for n in (1, 2):
            start, each = _timed(run, Path(folder, f"out {n}"), n)
            seconds.append(each)
            tables.append(results.load(Path(folder, f"out {n}")))
            ratio = seconds[0] / each
            print(f"| {n} | {len(cases)} | {start:.1f} s | {each:.3f} | {ratio:.2f} |", flush=True)
    pd.testing.assert_frame_equal(*tables)


def _timed(run: Run, out: Path, n: int) -> tuple[float, float]:
    """Seconds until all workers had their models, and seconds a case from then on."""
    cluster, ready, ends, begun = Cluster("local", cpus=1), set[str](), [], time.perf_counter()

    def note(title: str, done: int, total: int) -> None:
        if title != run.name:
            ready.add(title)
        elif len(ready) == n:
            ends.append((time.perf_counter(), done))

    with cluster.joined(num_cpus=n):
        _, workers = on_cluster(ModelOptions("organism-biased"), cluster, run.cases, None)
        execute(run, out, note, workers)
    (first, before), (last, after) = ends[0], ends[-1]
    return first - begun, (last - first) / (after - before)


if __name__ == "__main__":
    main()
