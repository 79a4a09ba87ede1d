"""Is a run on a cluster as an undisturbed one, whichever process is killed? See `kills.py`."""

import os
import queue
import random
import re
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from analyses.running import results
from hooked_omni.cluster.joining import SETTINGS, Cluster
from tests.support import killed, workers

_AFTER = 0.0, 6.0  # seconds from when a worker has its model to the kill; its first case takes 3
_NODE: dict[str, Any] = dict(num_cpus=1, object_store_memory=80_000_000)


def rows(data: Path, folder: Path, n: int) -> Iterator[tuple[str, killed.Stops]]:
    """What comes of killing a worker, a node and the driver `n` times each."""
    os.environ.update(SETTINGS)
    from ray.cluster_utils import Cluster as Nodes

    nodes: Any = Nodes(initialize_head=True, head_node_args={**_NODE, "include_dashboard": False})
    nodes.add_node(**_NODE)

    def kill_worker(title: str) -> None:
        os.kill(int(re.findall(r"process (\d+)", title)[0]), signal.SIGKILL)

    def kill_node(title: str) -> None:
        nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
        nodes.add_node(**_NODE)

    try:
        cluster = Cluster(nodes.address, 1)
        folder.mkdir()
        workers.small_run(data, folder / "undisturbed")
        for name, kill in {"worker": kill_worker, "node": kill_node}.items():
            yield f"a {name} of a cluster", _disturbed(data, folder / name, cluster, n, kill)
        nodes.remove_node(nodes.list_all_nodes()[-1])  # one worker starts sooner than two
        given: Any = dict(out=folder / "driver" / "out", marker="run.json", n=n)
        given["out"].parent.mkdir()
        stops = killed.stopped_at_random(workers.small_run_on, cluster, data, **given)
        yield "the driver of a cluster", stops
    finally:
        nodes.shutdown()


def _disturbed(
    data: Path, out: Path, cluster: Cluster, n: int, kill: Callable[[str], None]
) -> killed.Stops:
    """The same run again and again, until something of it was killed `n` times.

    A worker is chosen when it has its model. A run that gave up a case is gone on with.
    """
    expected, found, kills = killed.of_run(out.with_name("undisturbed")), [], list[str]()
    generator, ready, over = random.Random(0), queue.SimpleQueue[str](), threading.Event()

    def note(title: str, done: int, total: int) -> None:
        if "process" in title and not done:
            ready.put(title)

    def disturb() -> None:
        while len(kills) < n and not over.is_set():
            with suppress(queue.Empty, ProcessLookupError):  # none is ready; it has ended
                title = ready.get(timeout=1)
                if not over.wait(generator.uniform(*_AFTER)):
                    kill(title)
                    kills.append(title)

    while len(kills) < n or (out / "run.json").exists():
        over.clear()
        killer = threading.Thread(target=disturb)
        killer.start()
        try:
            workers.small_run(data, out, cluster, note)
        finally:
            over.set()
            killer.join()
        while not ready.empty():
            ready.get()
        if not results.load(out).attrs.get("lost"):
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
