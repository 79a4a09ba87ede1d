"""Qwen2.5-VL: sees and answers, and does not hear. Base model of Qwen2.5-Omni.

Source: transformers, `modeling_qwen2_5_vl.py` and `processing_qwen2_5_vl.py`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.media import Audio, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = ["QWEN2_5_VL"]

SYSTEM = "You are a helpful assistant."


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    qwen.check_types(inputs)
    qwen.check_video(hf_model, inputs)
    if inputs.get("pixel_values_videos") is not None and inputs.get("second_per_grid_ts") is None:
        raise PromptError(
            "expected second_per_grid_ts beside pixel_values_videos, got none: the model would "
            "take every step for one second. Pass the processor's whole output."
        )


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    grid, per_grid = inputs.get("video_grid_thw"), inputs.get("second_per_grid_ts")
    if grid is None or len(grid) != 1 or per_grid is None:
        return {}, None
    merge = hf_model.config.vision_config.spatial_merge_size
    seconds, frames = qwen.video_times(grid.cpu(), merge, float(per_grid[0]))
    return {"video": seconds}, frames


def _metadata(video: Video) -> dict[str, Any]:
    """The sampled frames as a clip of their own: its rate becomes the length of a step."""
    n_frames = len(video.frames)
    indices = list(range(n_frames))
    return {"total_num_frames": n_frames, "fps": video.fps, "frames_indices": indices}


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    return qwen.prepare_seen(processor, prompt, video, SYSTEM, _metadata)


QWEN2_5_VL = Family(
    name="qwen2.5-vl",
    model_types=("qwen2_5_vl",),
    hf_class="Qwen2_5_VLForConditionalGeneration",
    unwrap=lambda model: model,
    decoder_config=qwen.decoder_config,
    tensor_name=qwen.tensor_name,
    on_disk=qwen.ON_DISK,
    media_tokens=qwen.seen_tokens,
    times=_times,
    check_inputs=_check_inputs,
    prepare=_prepare,
    hears=False,
)
