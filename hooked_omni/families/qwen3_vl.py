"""Qwen3-VL: sees and answers, and does not hear. Base model of Qwen3-Omni.

Every step of the video is a block of its own behind its time in words, "<1.5 seconds>". Source:
transformers, `modeling_qwen3_vl.py` and `processing_qwen3_vl.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked_omni.families import qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.media import Audio, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = ["QWEN3_VL"]

_STAMP = re.compile(r"<[\d.]+ seconds>$")
_LONGEST_STAMP = 24  # tokens, even at one a byte
_CLOCK = 1000  # ticks per second in which frame times are told to the processor


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    qwen.check_types(inputs)
    qwen.check_video(hf_model, inputs)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    grid = inputs.get("video_grid_thw")
    if grid is None or len(grid) != 1:
        return {}, None
    merge = hf_model.config.vision_config.spatial_merge_size
    return {}, qwen.video_times(grid.cpu(), merge, 1.0)[1]


def _words(
    tokenizer: Any, tokens: Int[Tensor, " pos"], words: dict[str, Bool[Tensor, " pos"]]
) -> dict[str, Bool[Tensor, " pos"]]:
    """The time in words in front of each block of video tokens is markup."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    start = tokenizer.convert_tokens_to_ids("<|vision_start|>")
    for opening in (tokens == start).nonzero()[:, 0].tolist():
        for first in range(opening - 1, max(opening - _LONGEST_STAMP, 0) - 1, -1):
            if _STAMP.search(tokenizer.decode(tokens[first:opening])):
                found[first:opening] = True
                break
    found &= words["question"]
    return {"question": words["question"] & ~found, "markup": words["markup"] | found}


def _metadata(video: Video) -> dict[str, Any]:
    """The time of every frame, which becomes the words in front of its step."""
    ticks = [round(_CLOCK * second) for second in video.frame_seconds]
    return {"total_num_frames": len(ticks), "fps": _CLOCK, "frames_indices": ticks}


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    return qwen.prepare_seen(processor, prompt, video, "", _metadata)


QWEN3_VL = Family(
    name="qwen3-vl",
    model_types=("qwen3_vl",),
    hf_class="Qwen3VLForConditionalGeneration",
    unwrap=lambda model: model,
    decoder_config=qwen.qwen3_config,
    tensor_name=qwen.tensor_name,
    on_disk=qwen.ON_DISK,
    media_tokens=qwen.seen_tokens,
    times=_times,
    check_inputs=_check_inputs,
    prepare=_prepare,
    hears=False,
    media=qwen.PATCHES_OF_16,
    words=_words,
)
