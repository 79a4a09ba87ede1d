"""VideoLLaMA3: sees and answers, and does not hear.

Every frame comes after its time in words, "Time 1.0s:". Tokens whose patches are as in the frame
before are left out.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.families.vision.qwen3_vl import frame_times
from hooked_omni.inputs.media import MediaSettings


def _cells(inputs: Mapping[str, Any]) -> Int[Tensor, "token 3"]:
    """Frame, row and column of each token that is kept, clip after clip."""
    grids = zip(
        inputs["video_grid_thw"].tolist(), inputs["video_merge_sizes"].tolist(), strict=True
    )
    clips = [checks.cells(n, rows // m, columns // m) for (n, rows, columns), m in grids]
    cells, kept = torch.cat(clips), inputs.get("video_compression_mask")
    return cells if kept is None else cells[kept.cpu()]


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    grid, pixels, expected = inputs.get("video_grid_thw"), inputs.get("pixel_values_videos"), 0
    patches = 0 if grid is None else int(grid.prod(-1).sum())
    if patches != (0 if pixels is None else len(pixels)):
        raise PromptError(
            f"expected {patches} patches of video for this grid, got "
            f"{0 if pixels is None else len(pixels)}. Pass the processor's whole output."
        )
    if grid is not None:
        expected = len(_cells(inputs))
    checks.require_tokens(inputs, hf_model.config.video_token_id, expected, "video")


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    grid = inputs.get("video_grid_thw")
    if grid is None:
        return 0.0, ()
    n_frames, height, width = grid[0].tolist()
    patch = hf_model.config.vision_config.patch_size
    return 0.0, (n_frames, height * patch, width * patch)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    return {}, _cells(inputs) if n_tokens["video"] else None


VIDEO_LLAMA3 = Family(
    name="video-llama3",
    checkpoints="VideoLLaMA3 as `-HF` (2B, 7B)",
    decoder="Qwen2, 1-D positions",
    model_types=("video_llama_3",),
    hf_class="VideoLlama3ForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    on_disk=qwen.ON_DISK,
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=partial(processing.prepare_video, system="", metadata=frame_times),
    hears=False,
    towers={"vision": ("vision_model.encoder.layers", "projector")},
    media=MediaSettings(fps=1.0, max_frames=180, frame_factor=1, total_pixels=16_384 * 28 * 28),
    correct_words=checks.stamps_as_markup(r"Time [\d.]+s:", between=",?"),
    frames_per_step=1,
    one_clip="anywhere",
    own_reading="tokens whose patches are as in the frame before are left out",
)
