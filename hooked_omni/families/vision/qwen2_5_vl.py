"""Qwen2.5-VL: sees and answers, and does not hear. Base model of Qwen2.5-Omni."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hooked_omni.errors import PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.video import Video

SYSTEM = "You are a helpful assistant."


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    checks.check_vl(hf_model, inputs)
    if inputs.get("pixel_values_videos") is not None and inputs.get("second_per_grid_ts") is None:
        raise PromptError(
            "expected second_per_grid_ts beside pixel_values_videos, got none: the model would "
            "take every step for one second. Pass the processor's whole output."
        )


def _metadata(video: Video) -> dict[str, Any]:
    """The sampled frames as a clip of their own: its rate becomes the length of a step."""
    n_frames = len(video.frames)
    indices = list(range(n_frames))
    return {"total_num_frames": n_frames, "fps": video.fps, "frames_indices": indices}


QWEN2_5_VL = Family(
    name="qwen2.5-vl",
    checkpoints="Qwen2.5-VL (3B, 7B)",
    decoder="M-RoPE",
    model_types=("qwen2_5_vl",),
    hf_class="Qwen2_5_VLForConditionalGeneration",
    decoder_config=qwen.decoder_config,
    on_disk=qwen.ON_DISK,
    times=checks.times,
    check_inputs=_check_inputs,
    received=checks.received,
    prepare=partial(processing.prepare_video, system=SYSTEM, metadata=_metadata),
    hears=False,
    towers=qwen.EYES,
)
