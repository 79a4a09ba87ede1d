"""A run that is ready to be killed: a fork server loads this once, and forks it for each run."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from analyses import attention_share
from analyses.cases import Case
from analyses.running import runs
from analyses.study import run as study
from hooked_omni import load

__all__ = ["study_of", "work"]

torch.set_num_threads(1)
_OMNI = load("random-omni")
_CASES = [
    Case(_OMNI.model.as_prompt(torch.arange(2, 40 + n)[None]), f"sample {n}", question=question)
    for n in range(12)
    for question in ("see", "hear")
]
for _ending in ("png", "pdf"):  # imports what draws them
    Figure().savefig("/dev/null", format=_ending)


def work(out: Path) -> None:
    """Ask all of them."""
    config = attention_share.Config(max_new_tokens=4)
    runs.carry_out(runs.Run("attention_share", config, _OMNI, _CASES), out)


def study_of(data: Path) -> study.Study:
    """A small study of a shipped organism."""
    return study.Study(
        "organism-biased",
        data,
        "organism-base",
        max_new_tokens=12,
        judge={"name": "truth"},
        configs={"knockout": {"width": 3, "step": 2}},
    )
