"""Is a run on a cluster as an undisturbed one, whichever process is killed? See `kills.py`."""

import os
import random
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hooked_omni.cluster.joining import SETTINGS, Cluster
from tests.support import killed, workers

_BETWEEN = 3.0, 9.0  # seconds from a kill to the next
_NODE: dict[str, Any] = dict(num_cpus=1, object_store_memory=80_000_000)


def rows(data: Path, folder: Path, n: int) -> Iterator[tuple[str, killed.Stops]]:
    """What comes of killing a worker, a node and the driver `n` times each."""
    os.environ.update(SETTINGS)
    from ray.cluster_utils import Cluster as Nodes

    nodes: Any = Nodes(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    nodes.add_node(**_NODE)
    try:
        cluster = Cluster(nodes.address, 1)
        folder.mkdir()
        workers.small_run(data, folder / "undisturbed")
        for name in ("a worker of a cluster", "a node of a cluster"):
            yield (
                name,
                _disturbed(data, folder / name, cluster, n, nodes if "node" in name else None),
            )
        given: Any = dict(out=folder / "driver" / "out", marker="run.json", n=n)
        given["out"].parent.mkdir()
        yield (
            "the driver of a cluster",
            killed.stopped_at_random(workers.small_run_on, cluster, data, **given),
        )
    finally:
        nodes.shutdown()


def _disturbed(data: Path, out: Path, cluster: Cluster, n: int, nodes: Any) -> killed.Stops:
    """The same run again and again, until something of it was killed `n` times."""
    expected, found, kills = killed.of_run(out.with_name("undisturbed")), [], list[float]()
    generator, processes, over = random.Random(0), dict[str, int](), threading.Event()

    def note(title: str, done: int, total: int) -> None:
        if process := re.search(r"process (\d+)", title):
            processes[title] = int(process[1])

    def kill() -> None:
        while len(kills) < n and not over.wait(seconds := generator.uniform(*_BETWEEN)):
            if nodes is not None:
                nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
                nodes.add_node(**_NODE)
                kills.append(seconds)
            elif processes:
                with suppress(ProcessLookupError):  # it has ended
                    os.kill(processes.popitem()[1], signal.SIGKILL)
                    kills.append(seconds)

    while len(kills) < n:
        over.clear()
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            workers.small_run(data, out, cluster, note)
        finally:
            over.set()
            killer.join()
        found.append(Counter(killed.of_run(out)))
        shutil.rmtree(out)
    whole = Counter(expected)
    return killed.Stops(
        tried=n,
        caught=len(kills),
        lost=sum((whole - one).total() for one in found),
        doubled=sum((one - whole).total() for one in found),
        equal=all(one == whole for one in found),
        codes=frozenset(),
        printed=[],
    )
