"""How is work spread over the machines of a Ray cluster?

A worker is one actor, on a GPU or on some CPUs, that loads one model and is given a task at a time,
the longest clips first. What its results depend on is compared before it gets any: versions, code,
weights, and the contents of each task's files. A task whose worker is lost is done again.
"""

import importlib.util
import logging
import os
import platform
import socket
import sys
import tempfile
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from hooked_omni.endings import say
from hooked_omni.errors import ClusterError, FileError, WorkerLostError
from hooked_omni.files import digest, file_hash, remove, write_whole
from hooked_omni.inputs.container import promised_seconds

Progress = Callable[[str, int, int], None]
Work = Callable[[Any, Sequence[Path]], Any]
"""A function of what a task is given, and of the paths that it is to write to."""
Made = tuple[Work, dict[str, Any]]
"""What does the work, and all that its results depend on, such as a hash of weights."""

_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "av", "librosa")
_CODE = ("hooked_omni", "analyses", "data_prep")
_STORAGES = ("driver", "shared")
_MOST_LOSSES = 3
_TICK = 1.0  # seconds between looks at which nodes there are
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_py_gcs_connect_timeout_s": "3",
    "RAY_gcs_rpc_server_connect_timeout_s": "2",
}
"""Read when ray is imported: no reports home, no lines of its own among ours, answers in seconds."""


@dataclass(frozen=True)
class Cluster:
    """Which cluster, and what a worker of it is.

    Attributes:
        address: "auto" for the one that this machine is a node of, "local" for one of this machine
            alone, or HOST:PORT of its head; this machine must be a node of it.
        cpus: Of each worker, and its threads; None for as many threads as torch has here, by which
            sums on a CPU are the same to the bit.
        storage: Who writes results: the workers, to a folder that is "shared", or the "driver".

    Raises:
        ClusterError: For values other than these, and without Ray.
    """

    address: str = "auto"
    cpus: int | None = None
    storage: Literal["driver", "shared"] = "driver"

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        known = self.address in ("auto", "local") or (host.strip("/") == host and port.isdecimal())
        if not known or (not host and port.isdecimal()):
            raise ClusterError(
                f"expected auto, local or HOST:PORT as the address, got {self.address!r}. "
                "`ray status` prints that of a cluster."
            )
        if (self.cpus or 1) < 1 or self.storage not in _STORAGES:
            raise ClusterError(
                f"expected at least 1 CPU and storage among {_STORAGES}, got {self.cpus} "
                f"and {self.storage!r}."
            )
        if importlib.util.find_spec("ray") is None:
            raise ClusterError(
                "expected the package ray for work on a cluster, got an environment without it. "
                "Install it: pip install 'hooked-omni[ray]'."
            )

    @contextmanager
    def joined(self) -> Iterator[Any]:
        """Ray, connected to the cluster; a connection that is there already is used, and stays.

        Raises:
            ClusterError: If there is no cluster of this version, within seconds.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import ray
        import ray._private.utils

        if ray.is_initialized():
            yield ray
            return
        ray._private.utils.set_sigterm_handler = lambda handler: None  # it has one: `StopSignals`
        logging.getLogger("ray").setLevel(logging.ERROR)
        quiet: dict[str, Any] = dict(log_to_driver=False, configure_logging=False)
        try:
            if self.address == "local":
                ray.init("local", include_dashboard=False, **quiet)
            else:
                ray.init(_reached(self.address), **quiet)
        except Exception as error:  # Ray's, gRPC's and the system's
            raise ClusterError(
                f"expected a Ray cluster at {self.address!r} that this machine is a node of, got: "
                f"{error}. `ray start --head` begins one, `ray start --address=HOST:PORT` joins it."
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _reached(address: str) -> str:
    """The address as HOST:PORT, after an answer from there."""
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient

    found = canonicalize_bootstrap_address(address) or address
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    GcsClient(address=found)  # anything may listen at a port
    return found


@dataclass(frozen=True, eq=False)
class Task:
    """What one call of a worker's function does: `files` are read, `outputs` written."""

    name: str
    given: Any
    files: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()

    @property
    def contents(self) -> dict[str, str | None]:
        """Hashes of the files, None for one that cannot be read."""
        found: dict[str, str | None] = {}
        for path in map(str, self.files):
            found[path] = None
            with suppress(FileError):
                found[path] = file_hash(path)
        return found


def spread(
    cluster: Cluster,
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
        cluster: Where.
        make: Loads a model; see `Made`.
        tasks: Each independent of the others.
        facts: Those that `make` must return in a worker; None for those of the first worker.
        gpus: Of each worker.
        progress: Called with each worker's name, how many tasks it has done, and of how many.

    Raises:
        ClusterError: For no such cluster, one without room for a worker, workers that differ or do
            not start, files that differ there, and storage that is not shared.
    """
    longest = sorted(tasks, key=lambda task: -sum(map(promised_seconds, task.files)))
    queue, losses = deque(longest), Counter[str]()
    if not queue:
        return
    with cluster.joined() as ray, _token(cluster, tasks) as token:
        workers = _Workers(ray, cluster, make, token, facts, gpus, len(tasks), progress)
        try:
            while queue or workers.n_busy:
                workers.start(len(queue))
                while queue and workers.idle:
                    workers.give(queue.popleft())
                for task, future in workers.ended():
                    lost = isinstance(future.exception(), WorkerLostError)
                    losses[task.name] += lost
                    if lost and losses[task.name] < _MOST_LOSSES:
                        queue.append(task)
                    else:
                        yield task, future
        finally:
            workers.stop()


@contextmanager
def _token(cluster: Cluster, tasks: Sequence[Task]) -> Iterator[Path | None]:
    """A file by which workers see that they write to the driver's folder."""
    outputs = [path.absolute().parent for task in tasks for path in task.outputs]
    if cluster.storage == "driver" or not outputs:
        yield None
        return
    path = Path(os.path.commonpath(outputs), f".shared-{uuid.uuid4().hex}")
    write_whole(path, path.name.encode())
    try:
        yield path
    finally:
        remove(path)


class _Actor:
    """The actor: one process on some node, which holds one model."""

    def start(self, make: Callable[[], Made], token: Path | None, folder: str, env: Any) -> Any:
        """Load the model; where this is, and all that results depend on."""
        os.environ.update(env)
        with suppress(OSError):  # paths below it are then missing, and that is an error
            os.chdir(folder)
        where = f"{socket.gethostname()}, process {os.getpid()}"
        if token is not None and not (token.is_file() and token.read_text() == token.name):
            raise ClusterError(
                f"expected the folder {token.parent} of the driver on {where}, got another one or "
                "none. Choose a folder that all machines share, or --storage driver."
            )
        self.folder = None if token is None else token.parent
        self.work, facts = make()
        return where, {**_versions(), **facts}

    def do(self, task: Task, contents: dict[str, str | None]) -> tuple[Any, list[Any]]:
        """What the work returns, and the bytes of its outputs if the driver writes them."""
        if wrong := [path for path, hashed in task.contents.items() if hashed != contents[path]]:
            raise ClusterError(
                f"expected {wrong[0]} on {socket.gethostname()} as the driver has it, got another "
                "file or none. Put the data where all machines see it under one path."
            )
        if self.folder is not None:
            return self.work(task.given, task.outputs), []
        with tempfile.TemporaryDirectory() as own:
            paths = [Path(own, str(i), path.name) for i, path in enumerate(task.outputs)]
            for path in paths:
                path.parent.mkdir()
            value = self.work(task.given, paths)
            return value, [path.read_bytes() if path.exists() else None for path in paths]


def _versions() -> dict[str, Any]:
    """Of what computes: Python, packages without their builds' names, and this project's code."""
    root = Path(__file__).parents[1]
    sources = sorted(path for name in _CODE for path in (root / name).rglob("*.py"))
    code = digest([[path.relative_to(root).as_posix(), file_hash(path)] for path in sources])
    packages = {name: version(name).partition("+")[0] for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, "code of this project": code}


@dataclass(eq=False)
class _Workers:
    """The actors of one `spread`."""

    ray: Any
    cluster: Cluster
    make: Callable[[], Made]
    token: Path | None
    facts: Mapping[str, Any] | None
    gpus: int
    total: int
    progress: Progress
    idle: list[Any] = field(default_factory=list)
    waiting: dict[Any, tuple[Any, Task | None]] = field(default_factory=dict)
    names: dict[Any, str] = field(default_factory=dict)
    done: Counter[Any] = field(default_factory=Counter)
    failures: int = 0  # starts that failed since the last one that did not
    reason: str = ""

    def __post_init__(self) -> None:
        threads = getattr(sys.modules.get("torch"), "get_num_threads", lambda: 1)
        self.needs = {"CPU": self.cluster.cpus or threads(), "GPU": self.gpus}
        kept = {k: v for k, v in os.environ.items() if k.startswith("HOOKED_OMNI_")}
        env = {**kept, "OMP_NUM_THREADS": str(self.needs["CPU"])}
        self.given = self.ray.put(self.make), self.token, str(Path.cwd()), env
        self.versions = _versions()

    @property
    def n_busy(self) -> int:
        """How many tasks are being done."""
        return sum(task is not None for _, task in self.waiting.values())

    def start(self, n_left: int) -> None:
        """Start workers, as long as there is room and work for them."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        needs = {name: n for name, n in self.needs.items() if n}
        room = sum(min(int(node.get(k, 0)) // n for k, n in needs.items()) for node in nodes)
        if room == 0 or self.failures > 2 * room:
            raise ClusterError(
                f"expected a cluster with room for workers of {needs}, got {len(nodes)} nodes "
                f"with room for {room}{self.reason and f', where none starts: {self.reason}'}. "
                "Choose --cpus or --device to fit; what is finished is kept."
            )
        options = dict(num_cpus=needs["CPU"], num_gpus=self.gpus, max_restarts=0)
        for _ in range(min(room, n_left + self.n_busy) - len(self.idle) - len(self.waiting)):
            actor = self.ray.remote(_Actor).options(**options).remote()
            self.waiting[actor.start.remote(*self.given)] = actor, None

    def give(self, task: Task) -> None:
        """Let a free worker do a task."""
        actor = self.idle.pop()
        self.waiting[actor.do.remote(task, task.contents)] = actor, task

    def ended(self) -> Iterator[tuple[Task, Future[Any]]]:
        """Tasks that have ended since, or whose workers were lost."""
        for ref in self.ray.wait(list(self.waiting), timeout=_TICK)[0]:
            (actor, task), future = self.waiting.pop(ref), Future[Any]()
            try:
                value = self.ray.get(ref)
                if task is None:
                    self._compare(actor, *value)
                else:
                    future.set_result(self._received(actor, task, *value))
                self.idle.append(actor)
            except self.ray.exceptions.RayTaskError as error:
                cause = getattr(error, "cause", None) or error
                if isinstance(cause, ClusterError):
                    raise cause from None
                if task is None:
                    self._lost(actor, f"{type(cause).__name__}: {cause}")
                else:
                    self.idle.append(actor)
                    future.set_exception(cause)
            except self.ray.exceptions.RayError as error:
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
        self.done[actor] += 1
        self.progress(self.names[actor], self.done[actor], self.total)
        return value

    def _lost(self, actor: Any, text: str, task: Task | None = None) -> str:
        """Forget a worker, and say why; the reason."""
        self.failures += task is None
        self.ray.kill(actor)
        why = [line for line in text.splitlines() if line[:1] != "\t"]  # else ids
        self.reason = " ".join(" ".join(why).partition(" Some common")[0].split())[:300]
        name, what = self.names.get(actor, "a worker"), task.name if task else "loading its model"
        say(f"lost: {name}, at {what}: {self.reason}")
        return self.reason
