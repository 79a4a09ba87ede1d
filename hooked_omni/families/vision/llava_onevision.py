"""LLaVA-OneVision: frames as squares, pooled two by two, and does not hear.

One token of a new line ends the clip. It is in the last frame's step.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.media import MediaSettings


def _tokens_per_frame(hf_model: Any) -> int:
    vision = hf_model.config.vision_config
    return math.ceil(vision.image_size // vision.patch_size / 2) ** 2


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    pixels = inputs.get("pixel_values_videos")
    expected = 0
    if pixels is not None:
        clips, frames = pixels.shape[:2]
        expected = clips * (frames * _tokens_per_frame(hf_model) + 1)
    checks.require_tokens(inputs, hf_model.config.video_token_id, expected, "video")


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    pixels = inputs.get("pixel_values_videos")
    return 0.0, () if pixels is None else (pixels.shape[1],)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    n = n_tokens["video"]
    if not n:
        return {}, None
    squares = checks.square_cells(n - 1, _tokens_per_frame(hf_model))
    new_line = torch.tensor([[int(squares[-1, 0]), -1, -1]])
    return {}, torch.cat([squares, new_line])


LLAVA_ONEVISION = Family(
    name="llava-onevision",
    checkpoints="LLaVA-OneVision as `-hf` (0.5B, 7B, 72B)",
    decoder="Qwen2, 1-D positions",
    model_types=("llava_onevision",),
    hf_class="LlavaOnevisionForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    # The embedding of its new line is no tower's, and would be left without weights.
    on_disk=replace(qwen.ON_DISK, reference=qwen.text_reference("LlavaOnevisionConfig")),
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.prepare_squares,
    hears=False,
    towers={"vision": ("vision_tower.encoder.layers", "multi_modal_projector")},
    media=MediaSettings(fps=1.0, min_frames=1, max_frames=32, frame_factor=1, resize=False),
    correct_words=checks.stamps_as_markup("(?!)"),  # it writes none
    frames_per_step=1,
    one_clip="first",
    own_reading="every frame is resized to a square",
)
