"""How are models called whose own `chat` makes the inputs, and where is the question in them?"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from hooked_omni.errors import PromptError


def file_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those arguments of `from_pretrained` with which files are found."""
    return {k: options[k] for k in ("revision", "local_files_only") if k in options}


class _Stopped(Exception):
    """Carries the arguments of the call of `generate`."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs


def stopped(module: Any, call: Callable[[], Any]) -> dict[str, Any]:
    """The arguments with which `call`, of a model's own code, calls the module's `generate`."""

    def capture(*args: Any, **inputs: Any) -> None:
        raise _Stopped(inputs)

    module.generate = capture
    try:
        call()
    except _Stopped as captured:
        return captured.inputs
    finally:
        del module.generate
    raise PromptError(
        f"expected {type(module).__name__}.generate to be called, got a call without. This code "
        "is not the one this family was written for."
    )


def pictures(frames: Float[Tensor, "frame channel height width"]) -> list[Image.Image]:
    """Frames of 0..255 as pictures."""
    pixels = frames.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(one)) for one in pixels]


def within_bounds(bounds: Any, n_pos: int) -> Bool[Tensor, " pos"]:
    """Which positions are inside any of the half-open `bounds`."""
    inside = torch.zeros(n_pos, dtype=torch.bool)
    for first, end in torch.as_tensor(bounds).reshape(-1, 2).tolist():
        inside[int(first) : int(end)] = True
    return inside


def question_after_clip(
    tokenizer: Any, tokens: Int[Tensor, " pos"], masks: dict[str, Bool[Tensor, " pos"]]
) -> dict[str, Bool[Tensor, " pos"]]:
    """Spans of a prompt in which the question comes after the clip.

    What the model's own code writes among the clip's tokens ("Frame1: "), and the line break after
    them, is markup. The words of an earlier turn are the system prompt's.
    """
    question, system, markup = (masks[name].clone() for name in ("question", "system", "markup"))
    if not bool(question.any()):
        return {}
    place = torch.arange(len(tokens))
    turns = (tokens == tokenizer.convert_tokens_to_ids("<|im_start|>")).nonzero()[:, 0]
    last = int(question.nonzero()[-1])
    start = max((int(turn) for turn in turns if turn < last), default=0)
    earlier = question & (place < start)
    system |= earlier
    question &= ~earlier
    media = torch.zeros_like(question)
    for name in ("video", "audio"):
        media |= masks.get(name, media)
    if bool(media.any()):
        end = int(media.nonzero()[-1])
        written = question & (place < end)
        after = (question & (place > end)).nonzero()[:, 0]
        if len(after) and not tokenizer.decode([int(tokens[after[0]])]).strip():
            written[after[0]] = True
        question &= ~written
        markup |= written
    return {"question": question, "system": system, "markup": markup}
