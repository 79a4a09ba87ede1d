"""How are tasks spread over workers, so that none is lost or done twice?

Each worker is given a task at a time, the longest clips first. A task whose worker is lost, by its
own fault or with its node, is done again by another; after three it is given up.
"""

import os
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.tasks import Made, Task, WorkerActor, versions
from hooked_omni.endings import say
from hooked_omni.errors import ClusterError, WorkerLostError
from hooked_omni.files import remove, write_whole
from hooked_omni.inputs.container import promised_seconds

Progress = Callable[[str, int, int], None]

_MOST_LOSSES = 3
_MOST_CUT_OFF = 5
_TICK = 1.0  # seconds between looks at which nodes there are
_LATEST = 60.0  # seconds after which a network's file system shows what another machine wrote


def spread(
    cluster: Cluster | None,
    make: Callable[[], Made],
    tasks: Sequence[Task],
    facts: Mapping[str, Any] | None = None,
    gpus: int = 0,
    progress: Progress = lambda title, done, total: None,
) -> Iterator[tuple[Task, Future[Any]]]:
    """Do all tasks, and yield each as it ends; its outputs are there, and its future is done.

    The future raises what the task raised, or a `WorkerLostError` after three workers were lost by
    it. `make` is called once in each worker, and must be picklable, as what tasks are given.

    Args:
        cluster: Where; None for this process.
        make: Loads a model; see `Made`.
        tasks: Each independent of the others.
        facts: Those that `make` must return in a worker; None for those of the first worker.
        gpus: Of each worker.
        progress: Called with each worker's name, how many tasks it has done, and of how many.

    Raises:
        ClusterError: For no such cluster, one without room for a worker, workers that differ or do
            not start, files that differ there, and storage that is not shared.
    """
    if not tasks:
        return
    if cluster is None:
        yield from _here(make, tasks)
        return
    longest = sorted(tasks, key=lambda task: -sum(map(promised_seconds, task.files)))
    queue, losses = deque(longest), Counter[Task]()
    with cluster.joined() as ray, _token(cluster, tasks) as token:
        workers = _Workers(ray, cluster, make, token, facts, gpus, len(tasks), progress)
        try:
            while queue or workers.n_busy:
                workers.start(len(queue))
                workers.give(queue)
                for task, future in workers.ended(queue):
                    lost = isinstance(future.exception(), WorkerLostError)
                    losses[task] += lost
                    if lost and losses[task] < _MOST_LOSSES:
                        queue.append(task)
                    else:
                        yield task, future
        finally:
            workers.stop()


def _here(make: Callable[[], Made], tasks: Sequence[Task]) -> Iterator[tuple[Task, Future[Any]]]:
    work, _ = make()
    for task in tasks:
        future = Future[Any]()
        try:
            future.set_result(work(task.given, task.outputs))
        except Exception as error:
            future.set_exception(error)
        yield task, future


@contextmanager
def _token(cluster: Cluster, tasks: Sequence[Task]) -> Iterator[tuple[Path, str] | None]:
    """A file, and what it holds, by which workers see that they write to the driver's folder."""
    outputs = [path.absolute().parent for task in tasks for path in task.outputs]
    if cluster.storage == "driver" or not outputs:
        yield None
        return
    path, text = Path(os.path.commonpath(outputs), ".shared"), uuid.uuid4().hex
    write_whole(path, text.encode())
    try:
        yield path, text
    finally:
        remove(path)


@dataclass(eq=False)
class _Workers:
    """The actors of one `spread`."""

    ray: Any
    cluster: Cluster
    make: Callable[[], Made]
    token: tuple[Path, str] | None
    facts: Mapping[str, Any] | None
    gpus: int
    total: int
    progress: Progress
    idle: list[Any] = field(default_factory=list)
    waiting: dict[Any, tuple[Any, Task | None]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    done: Counter[Any] = field(default_factory=Counter)
    refused: int = 0  # workers whose model does not load: their room is not used
    failures: int = 0  # starts that were cut off since the last one that was not
    looked: float = 0.0  # when at the nodes; 0 where a worker was lost since
    reason: str = ""

    def __post_init__(self) -> None:
        threads = getattr(sys.modules.get("torch"), "get_num_threads", lambda: 1)
        self.needs = {"CPU": self.cluster.cpus or threads(), "GPU": self.gpus}
        kept = {k: v for k, v in os.environ.items() if k.startswith("HOOKED_OMNI_")}
        env = {**kept, "OMP_NUM_THREADS": str(self.needs["CPU"])}
        self.given = self.ray.put(self.make), self.token, str(Path.cwd()), env
        self.versions = versions()

    @property
    def n_busy(self) -> int:
        """How many tasks are being done."""
        return sum(task is not None for _, task in self.waiting.values())

    def start(self, n_left: int) -> None:
        """Start workers, as long as there is room and work for them."""
        if time.monotonic() - self.looked < _TICK:
            return
        self.looked = time.monotonic()
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        needs = {name: n for name, n in self.needs.items() if n}
        room = sum(min(int(node.get(k, 0)) // n for k, n in needs.items()) for node in nodes)
        if room <= self.refused or self.failures > _MOST_CUT_OFF:
            raise ClusterError(
                f"expected a cluster with room for workers of {needs}, got {len(nodes)} nodes "
                f"with room for {room}{self.reason and f', where none starts: {self.reason}'}. "
                "Choose --cpus or --device to fit; what is finished is kept."
            )
        n_most = min(room - self.refused, n_left + self.n_busy)
        options = dict(num_cpus=needs["CPU"], num_gpus=self.gpus, max_restarts=0)
        for _ in range(n_most - len(self.idle) - len(self.waiting)):
            actor = self.ray.remote(WorkerActor).options(**options).remote()
            self.waiting[actor.start.remote(*self.given)] = actor, None

    def give(self, queue: deque[Task]) -> None:
        """Let free workers do tasks."""
        while queue and self.idle:
            actor, task = self.idle.pop(), queue.popleft()
            self.waiting[actor.do.remote(task, task.contents)] = actor, task

    def ended(self, queue: deque[Task]) -> Iterator[tuple[Task, Future[Any]]]:
        """Tasks that have ended since, or whose workers were lost; no worker waits meanwhile."""
        for ref in self.ray.wait(list(self.waiting), timeout=_TICK)[0]:
            (actor, task), future = self.waiting.pop(ref), Future[Any]()
            try:
                value = self.ray.get(ref)
                if task is None:
                    self._compare(actor, *value)
                self.idle.append(actor)
                self.give(queue)
                if task is not None:
                    future.set_result(self._received(actor, task, *value))
            except self.ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None) or error
                if isinstance(cause, ClusterError):
                    raise cause from None
                if task is None:
                    self.refused += 1
                    self._lost(actor, f"{type(cause).__name__}: {cause}")
                else:
                    self.idle.append(actor)
                    future.set_exception(cause)
            except self.ray.exceptions.RayError as error:
                self.failures += task is None
                reason = self._lost(actor, str(error), task)
                future.set_exception(WorkerLostError(reason))
            if task is not None:
                yield task, future

    def stop(self) -> None:
        """End all workers."""
        for actor in [*self.idle, *(actor for actor, _ in self.waiting.values())]:
            self.ray.kill(actor)

    def _compare(self, actor: Any, where: str, found: dict[str, Any]) -> None:
        self.facts = found if self.facts is None else self.facts
        expected = {**self.versions, **self.facts}
        if wrong := {k: v for k, v in expected.items() if found.get(k) != v}:
            there = {name: found.get(name) for name in wrong}
            raise ClusterError(
                f"expected workers with the driver's versions and weights, got on {where} "
                f"{there!s:.300} for {wrong!s:.300}. Install the same there."
            )
        self.names[actor], self.failures = where, 0
        self.progress(where, 0, self.total)

    def _received(self, actor: Any, task: Task, value: Any, data: Sequence[bytes | None]) -> Any:
        for path, made in zip(task.outputs, data, strict=False):  # none where storage is shared
            if made is not None:
                write_whole(path, made)
        end = time.monotonic() + _LATEST
        while not all(path.exists() for path in task.outputs) and time.monotonic() < end:
            time.sleep(0.1)
        self.done[actor] += 1
        self.progress(self.names[actor], self.done[actor], self.total)
        return value

    def _lost(self, actor: Any, text: str, task: Task | None = None) -> str:
        """Forget a worker, and say why; the reason."""
        self.looked = 0.0
        self.ray.kill(actor)
        why = [line for line in text.splitlines() if line[:1] != "\t"]  # else ids
        self.reason = " ".join(" ".join(why).partition(" Some common")[0].split())[:300]
        name, what = self.names.get(actor, "a worker"), task.name if task else "loading its model"
        say(f"lost: {name}, at {what}: {self.reason}")
        return self.reason
