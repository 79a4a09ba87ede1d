"""What do two workers of a Ray cluster gain over one?

    python -m benchmarks.cluster [--cases 48] [--tokens 50]

One CPU thread each, on this machine, which needs two idle cores for it. Cases are knockouts of
answers of 50 tokens. Timed is from when every worker has ended its first case, which imports what
reads clips, to the end of the last; what comes before does not grow with the work, and stands under
"start". Beside it, the same by processes without Ray: what two cores of this machine give at most.
Tables are compared to the bit.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses import knockout
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
    """Print all rates, and how many times faster two are than one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}\n\n| by | cases | start | seconds a case | times faster |")
    print("|---" * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), 4, 0, "test")
        cases = read_cases(Path(folder, "pairs.jsonl"))[: given.cases]
        config = knockout.Config(max_new_tokens=given.tokens)
        run = Run("knockout", config, load("organism-biased"), cases)
        for by, timed in (("processes without Ray", _forked), ("workers", _workers)):
            seconds = list[float]()
            for n in (1, 2):
                start, each = timed(run, Path(folder, f"{by} {n}"), n)
                seconds.append(each)
                ratio = f"{len(cases)} | {start:.1f} s | {each:.3f} | {seconds[0] / each:.2f}"
                print(f"| {n} {by} | {ratio} |", flush=True)
        one, two = (results.load(Path(folder, f"workers {n}")) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two)


def _workers(run: Run, out: Path, n: int) -> tuple[float, float]:
    """Seconds until all workers have done a case, and seconds a case from then on."""
    cluster, ready, ends, begun = Cluster("local", cpus=1), set[str](), [], time.perf_counter()

    def note(title: str, done: int, total: int) -> None:
        if title == run.name:
            ends.extend([(time.perf_counter(), done)] * (len(ready) == n))
        elif done:
            ready.add(title)

    with cluster.joined(num_cpus=n):
        _, workers = on_cluster(ModelOptions("organism-biased"), cluster, run.cases, None)
        execute(run, out, note, workers)
    (first, before), (last, after) = ends[0], ends[-1]
    return first - begun, (last - first) / (after - before)


def _forked(run: Run, out: Path, n: int) -> tuple[float, float]:
    """The same by forks of this process, each with its share of the cases."""
    context, begun = multiprocessing.get_context("fork"), time.perf_counter()
    barrier, ended = context.Barrier(n), context.SimpleQueue()
    shares = [(replace(run, shard=(i + 1, n)), out / str(i), barrier, ended) for i in range(n)]
    processes = [context.Process(target=_share, args=share) for share in shares]
    for process in processes:
        process.start()
    times = [ended.get() for _ in processes]
    for process in processes:
        process.join()
    first = min(one for one, _ in times)
    return first - begun, (max(last for _, last in times) - first) / (len(run.cases) - n)


def _share(run: Run, out: Path, barrier: Any, ended: Any) -> None:
    times = list[float]()

    def note(title: str, done: int, total: int) -> None:
        if done == 1:
            barrier.wait()
        times.extend([time.perf_counter()] * (done > 0))

    execute(run, out, note)
    ended.put((times[0], times[-1]))


if __name__ == "__main__":
    main()
