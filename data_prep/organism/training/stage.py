"""How is one stage trained, and how does it go on after a kill?

AdamW with a warm-up and a cosine. Every batch is drawn from (seed, stage, step) alone, so weights,
optimizer and step are all that a checkpoint needs for the rest to be the same to the bit.
"""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hooked_omni.errors import ResultsError
from hooked_omni.files import write_whole

Log = Callable[[str], None]

_WARM_UP = 50
_EVERY = 50  # steps between checkpoints


@dataclass(frozen=True)
class Stage:
    """A stage to train, by name; parameters that require a gradient are trained."""

    name: str
    model: nn.Module
    loss: Callable[[int], Tensor]  # of a step
    steps: int
    rate: float  # the highest


def run_stage(stage: Stage, folder: Path, log: Log) -> None:
    """Train to the end, from the start or from the latest checkpoint in `folder`.

    Raises:
        ResultsError: For a damaged checkpoint, or a loss that is not finite.
    """
    trained = [p for p in stage.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, stage.rate, betas=(0.9, 0.98), weight_decay=0.01)
    first = _resume(stage, folder, optimizer)
    stage.model.train()
    start, losses = time.monotonic(), []
    for step in range(first, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * _schedule(step, stage.steps)
        loss = stage.loss(step)
        if not bool(loss.isfinite()):
            raise ResultsError(
                f"expected a finite loss in {stage.name}, got {float(loss)} at step {step}. "
                "Lower its rate in the recipe."
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % _EVERY == 0 or step + 1 == stage.steps:
            _save(stage, folder, optimizer, step + 1)
            seconds, mean = time.monotonic() - start, sum(losses) / len(losses)
            log(f"{stage.name}: step {step + 1} of {stage.steps}, loss {mean:.3f}, {seconds:.0f} s")
            losses.clear()
    stage.model.eval()


def _schedule(step: int, steps: int) -> float:
    """Share of the highest rate: up in a line, down to a tenth along a cosine."""
    done = step / max(steps, 1)
    return min(1.0, (step + 1) / _WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * done))


def _path(stage: Stage, folder: Path) -> Path:
    return folder / "stages" / f"{stage.name}.pt"


def _resume(stage: Stage, folder: Path, optimizer: torch.optim.Optimizer) -> int:
    path = _path(stage, folder)
    if not path.exists():
        return 0
    try:
        kept = torch.load(path, weights_only=True)
        stage.model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        return int(kept["step"])
    except Exception as error:  # torch, zipfile and pickle raise their own each
        raise ResultsError(
            f"expected a whole checkpoint, got {path} ({error!r:.120}). Delete "
            "it, and the stage starts again."
        ) from error


def _save(stage: Stage, folder: Path, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"step": step, "model": stage.model.state_dict(), "optimizer": optimizer.state_dict()}
    whole = io.BytesIO()
    torch.save(state, whole)  # to a full disk, torch raises errors of its own
    write_whole(_path(stage, folder), whole.getvalue())
