"""Qwen2.5-Omni: the thinker, which sees, hears and answers in text.

Source: transformers, `modeling_qwen2_5_omni.py` and `processing_qwen2_5_omni.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import qwen2
from hooked_omni.families.family import Family
from hooked_omni.media import Audio, Video
from hooked_omni.prompt import Prompt

__all__ = ["QWEN2_5_OMNI"]

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
_AUDIO_TOKENS_PER_SECOND = 25


def _media_tokens(hf_model: Any) -> dict[str, int]:
    config = hf_model.config
    return {
        "audio": config.audio_token_id,
        "video": config.video_token_id,
        "image": config.image_token_id,
    }


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    if inputs.get("attention_mask") is None:
        raise PromptError(
            "expected attention_mask among the inputs, got none: the model would silently count "
            "positions in one dimension. Pass the processor's whole output."
        )
    tokens, config = inputs["input_ids"], hf_model.config
    pairs = (tokens[:, :-1] == config.vision_start_token_id) & (
        tokens[:, 1:] == config.audio_start_token_id
    )
    if bool(pairs.any()) and inputs.get("use_audio_in_video") is None:
        raise PromptError(
            "expected use_audio_in_video among the inputs for sound inside a video, got none: the "
            "processor does not return it, and without it the model silently gives this block 1-D "
            "positions. Pass use_audio_in_video=True, or False to repeat the paper's scripts."
        )
    if inputs.get("video_grid_thw") is not None and inputs.get("video_second_per_grid") is None:
        raise PromptError(
            "expected video_second_per_grid beside video_grid_thw, got none: the model cannot "
            "place the video in time without it. Pass the processor's whole output."
        )
    qwen2.check_video(hf_model, inputs)
    mask, features = inputs.get("feature_attention_mask"), inputs.get("input_features")
    if features is not None and mask is None:
        raise PromptError("expected feature_attention_mask beside input_features, got none.")
    if mask is None and bool((tokens == config.audio_token_id).any()):
        raise PromptError(
            "expected input_features for the audio tokens among input_ids, got none: the model "
            "would read the placeholders. Pass the processor's whole output."
        )
    if mask is not None:
        mel = mask.sum(-1)
        expected = int((((mel - 1) // 2 + 1 - 2) // 2 + 1).sum())
        came = int((tokens == config.audio_token_id).sum())
        if expected != came:
            raise PromptError(
                f"expected {expected} audio tokens for {mel.tolist()} mel frames, got {came}. "
                "Tokens and sound belong to different calls of the processor."
            )


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    seconds: dict[str, Tensor] = {}
    frames = None
    mask = inputs.get("feature_attention_mask")
    if mask is not None and len(mask) == 1:
        seconds["audio"] = torch.arange(n_tokens["audio"]) / _AUDIO_TOKENS_PER_SECOND
    grid, per_grid = inputs.get("video_grid_thw"), inputs.get("video_second_per_grid")
    if grid is not None and len(grid) == 1 and per_grid is not None:
        merge = hf_model.config.vision_config.spatial_merge_size
        seconds["video"], frames = qwen2.video_times(grid.cpu(), merge, float(per_grid[0]))
    return seconds, frames


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    interleaved = prompt.interleaved and audio is not None
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    if audio is not None and not interleaved:
        items.append({"type": "audio", "audio": "sound"})
    arguments: dict[str, Any] = {"text": qwen2.chat(processor, prompt, items, SYSTEM)}
    if video is not None:
        # The paper's scripts leave the rate to the processor, which takes it for 2 frames a second.
        fps = video.fps if prompt.rope == "model" else 2.0
        arguments |= qwen2.video_arguments(processor, video, fps)
    if audio is not None:
        arguments["audio"] = [audio.samples]
    if interleaved:
        arguments |= _sound_inside_video(processor)
    inputs = dict(processor(**arguments, return_tensors="pt"))
    inputs["use_audio_in_video"] = interleaved and prompt.rope == "model"
    return inputs


def _sound_inside_video(processor: Any) -> dict[str, Any]:
    if hasattr(processor, "load_audio_from_video"):  # transformers >= 5.19
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}


QWEN2_5_OMNI = Family(
    name="qwen2.5-omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    hf_class="Qwen2_5OmniThinkerForConditionalGeneration",
    unwrap=lambda model: getattr(model, "thinker", model),
    decoder_config=qwen2.decoder_config,
    tensor_name=qwen2.tensor_name,
    media_tokens=_media_tokens,
    times=_times,
    check_inputs=_check_inputs,
    prepare=_prepare,
    sound=True,
)
