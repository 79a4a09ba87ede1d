"""How are two ways compared fairly on a noisy machine?

In turn, A B A B ..., after a warm-up; the ratio is of medians within one run.
"""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

__all__ = ["in_turn", "machine"]


def in_turn(
    ways: Mapping[Any, Callable[[], object]],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, float]:
    """Median seconds of each way by a clock; every round runs all of them."""
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for round_ in range(runs + 1):
        for name, way in ways.items():
            start = clock()
            way()
            if round_:  # the first round warms up
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def machine() -> str:
    """Date, commit, versions and threads, to stand above a table."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, {device}, {torch.get_num_threads()} thread(s)"
    )
