"""Work for the workers of a cluster, which import this file: no torch, but where a model is run."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from hooked_omni.cluster.joining import Cluster
from hooked_omni.cluster.tasks import Made
from tests.support.places import OWN_ADDRESSES

WEIGHTS = {"weights": "those of the driver"}


def doubling() -> Made:
    """Doubles numbers, into files; kills its process at 13, and raises at 7."""

    def work(given: int, paths: Sequence[Path]) -> int:
        if given == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if given == 7:
            raise ValueError("seven")
        time.sleep(0.05)
        for path in paths:
            path.write_text(str(2 * given))
        return 2 * given

    return work, WEIGHTS


def other_weights() -> Made:
    """Weights that are not the driver's."""
    return doubling()[0], {"weights": "others"}


def full() -> Made:
    """A model that does not load."""
    raise MemoryError("the GPU is full")


@dataclass(frozen=True)
class Named:
    """A captioner that names clips, and cannot read one of them."""

    device, workers = "cpu", 1

    @property
    def facts(self) -> dict[str, Any]:
        """As a `Captioner`."""
        return {"model": "named"}

    def caption(self, clip: Path) -> str:
        """As a `Captioner`."""
        if clip.stem == "3":
            os.kill(os.getpid(), signal.SIGKILL)
        return f"The clip {clip.name}."

    def worker(self) -> Made:
        """As `Local`."""
        return lambda clip, paths: self.caption(clip), self.facts


def models() -> tuple[Any, None, dict[str, Any]]:
    """A small model."""
    from hooked_omni import load
    from tests.support.padding import fill_padding

    fill_padding()
    return load("random-omni"), None, {}


def small_run(
    data: Path,
    out: Path,
    cluster: Cluster | None = None,
    progress: Callable[[str, int, int], None] = lambda title, done, total: None,
) -> None:
    """Attention shares of a manifest, here or on a cluster."""
    from analyses import attention_share
    from analyses.cases import read_cases
    from analyses.running.runs import Run, Workers, execute
    from tests.support.figures import no_figures

    config = attention_share.Config(max_new_tokens=4)
    run = Run("attention_share", config, models()[0], read_cases(data))
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        execute(run, out, progress, cluster and Workers(cluster, models))


def small_run_on(cluster: Cluster, data: Path, out: Path) -> None:
    """The same, always on a cluster."""
    small_run(data, out, cluster)


def driver(given: Connection) -> None:
    """A driver to be killed, which is forked before Ray has threads."""
    data, out, cluster = given.recv()
    OWN_ADDRESSES.add(cluster.address.partition(":")[0])

    def rest(title: str, done: int, total: int) -> None:
        if title == "attention_share" and done == 4:
            signal.pause()  # until it is killed

    small_run(data, out, cluster, rest)


def commanded(given: Connection) -> None:
    """The same for a command of `python -m analyses`, whose standard error goes to a file."""
    from analyses.__main__ import main

    words, address, printed = given.recv()
    OWN_ADDRESSES.add(address.partition(":")[0])
    os.environ["RAY_ADDRESS"] = address
    sys.stderr = printed.open("w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    main(words)
