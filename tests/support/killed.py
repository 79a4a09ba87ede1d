"""Runs that are killed at random moments: a fork server loads this once, and forks it for each."""

import multiprocessing
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import attention_share
from analyses.cases import Case
from analyses.running.runs import Run, execute
from analyses.study.config import Study
from analyses.study.run import run_study
from hooked_omni import load
from tests.support.figures import no_figures

Same = Callable[[Path, Path], None]

torch.set_num_threads(1)
_OMNI = load("random-omni")
_CASES = [
    Case(_OMNI.model.as_prompt(torch.arange(2, 40 + n)[None]), f"sample {n}", question=question)
    for n in range(12)
    for question in ("see", "hear")
]


def small_run(out: Path) -> None:
    """24 cases of one analysis."""
    no_figures(pytest.MonkeyPatch())
    execute(Run("attention_share", attention_share.Config(max_new_tokens=4), _OMNI, _CASES), out)


def small_study(data: Path, out: Path) -> None:
    """All stages of `study_of(data)`, on a sample of each kind, with answers of four tokens."""
    no_figures(pytest.MonkeyPatch())
    run_study(replace(study_of(data), limit=1, max_new_tokens=4), out)


def study_of(data: Path) -> Study:
    """A study of a shipped organism."""
    more: Any = dict(judge={"name": "truth"}, configs={"knockout": {"width": 3, "step": 2}})
    return Study("organism-biased", data, "organism-base", max_new_tokens=12, **more)


def killed_at_random(
    target: Callable[..., None], *given: Any, out: Path, marker: str, n_kills: int, same: Same
) -> None:
    """Kill `target(*given, out)` at random moments and start it again, until it ends by itself.

    It writes `marker` last. Half of the kills must hit it before that; `same` compares folders.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])

    def start(folder: Path) -> Any:
        process = context.Process(target=target, args=(*given, folder))
        process.start()
        return process

    context.Process(target=time.sleep, args=(0,)).start()  # starts the fork server
    undisturbed, begun = out.with_name("undisturbed"), time.perf_counter()
    start(undisturbed).join()
    seconds = time.perf_counter() - begun
    generator, caught = random.Random(0), 0
    for _ in range(n_kills):
        process = start(out)
        time.sleep(generator.uniform(0, seconds))
        process.kill()
        process.join()
        caught += process.exitcode == -9
        if (out / marker).exists():
            same(out, undisturbed)
            shutil.rmtree(out)
    process = start(out)
    process.join()
    assert process.exitcode == 0 and caught >= n_kills // 2
    same(out, undisturbed)
