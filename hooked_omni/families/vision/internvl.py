"""InternVL of transformers (2.5, 3, 3.5): one square tile a frame, and does not hear.

Every tile comes after its number in words, "Frame1: ". Pictures and frames have one placeholder.
Dynamic rotary positions are the default ones up to `max_position_embeddings`; longer prompts are
refused.
"""

from collections.abc import Mapping
from typing import Any

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.media import MediaSettings


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    tiles, config = inputs.get("pixel_values"), hf_model.config
    expected = 0 if tiles is None else len(tiles) * config.image_seq_length
    checks.require_tokens(inputs, config.image_token_id, expected, "video")


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    tiles = inputs.get("pixel_values")
    return 0.0, () if tiles is None else (len(tiles),)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    if not n_tokens["video"]:
        return {}, None
    return {}, checks.square_cells(n_tokens["video"], hf_model.config.image_seq_length)


INTERNVL = Family(
    name="internvl",
    checkpoints="InternVL2.5, 3 and 3.5 as `-hf` (1B to 241B-A28B)",
    decoder="Qwen2, Qwen3, its mixture of experts or Llama, 1-D positions",
    model_types=("internvl",),
    hf_class="InternVLForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    on_disk=qwen.ON_DISK,
    media_tokens=lambda model: {"video": model.config.image_token_id},
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.prepare_squares,
    hears=False,
    towers={"vision": ("vision_tower.encoder.layer", "multi_modal_projector")},
    media=MediaSettings(fps=1.0, min_frames=1, max_frames=32, frame_factor=1, resize=False),
    correct_words=checks.stamps_as_markup(r"Frame\d+: ", between="\n?"),
    frames_per_step=1,
    one_clip="anywhere",
    own_reading="every frame is resized to one square tile",
)
