"""Qwen3-VL: sees and answers, and does not hear. Base model of Qwen3-Omni.

Every step of the video is a block of its own after its time in words, "<1.5 seconds>".
"""

import re
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.video import Video

_STAMP = re.compile(r"<[\d.]+ seconds>$")
_LONGEST_STAMP = 24  # tokens, even at one a byte
_CLOCK = 1000  # ticks per second of the frame times that the processor gets


def _correct_words(
    tokenizer: Any, tokens: Int[Tensor, " pos"], masks: dict[str, Bool[Tensor, " pos"]]
) -> dict[str, Bool[Tensor, " pos"]]:
    """The time in words in front of each block of video tokens is markup."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    start = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    for opening in (tokens == start).nonzero()[:, 0].tolist():
        for first in range(opening - 1, max(opening - _LONGEST_STAMP, 0) - 1, -1):
            if _STAMP.search(tokenizer.decode(tokens[first:opening])):
                found[first:opening] = True
                break
    found &= masks["question"]
    return {"question": masks["question"] & ~found, "markup": masks["markup"] | found}


def _metadata(video: Video) -> dict[str, Any]:
    """The time of every frame, which becomes the words in front of its step."""
    ticks = [round(_CLOCK * second) for second in video.frame_seconds]
    return {"total_num_frames": len(ticks), "fps": _CLOCK, "frames_indices": ticks}


QWEN3_VL = Family(
    name="qwen3-vl",
    model_types=("qwen3_vl",),
    hf_class="Qwen3VLForConditionalGeneration",
    decoder_config=qwen.qwen3_config,
    on_disk=qwen.ON_DISK,
    times=checks.times,
    check_inputs=checks.check_vl,
    received=checks.received,
    prepare=partial(processing.prepare_video, system="", metadata=_metadata),
    hears=False,
    media=qwen.PATCHES_OF_16,
    correct_words=_correct_words,
    towers=qwen.EYES,
)
