"""How the Qwen omni families are asked: sound, picture, and sound inside the picture.

Source: transformers, `processing_qwen2_5_omni.py` and `processing_qwen3_omni_moe.py`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import qwen
from hooked_omni.inputs.media import Audio, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = ["check_inputs", "media_tokens", "prepare", "times"]


def media_tokens(hf_model: Any) -> dict[str, int]:
    """Placeholder token of each modality."""
    config = hf_model.config
    return {
        "audio": config.audio_token_id,
        "video": config.video_token_id,
        "image": config.image_token_id,
    }


def check_inputs(
    hf_model: Any,
    inputs: Mapping[str, Any],
    n_audio_tokens: Callable[[Any, Int[Tensor, " clip"]], Int[Tensor, " clip"]],
) -> None:
    """Refuse inputs that the model would silently misread.

    Args:
        hf_model: Towers and decoder.
        inputs: What would be passed to it.
        n_audio_tokens: From the model and the mel frames of each sound to its tokens.

    Raises:
        PromptError: For such inputs.
    """
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
    qwen.check_video(hf_model, inputs)
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
        expected = int(n_audio_tokens(hf_model, mel).sum())
        came = int((tokens == config.audio_token_id).sum())
        if expected != came:
            raise PromptError(
                f"expected {expected} audio tokens for {mel.tolist()} mel frames, got {came}. "
                "Tokens and sound belong to different calls of the processor."
            )


def times(
    hf_model: Any,
    inputs: Mapping[str, Any],
    n_tokens: dict[str, int],
    audio_seconds: Callable[[Any, Int[Tensor, " token"]], Float[Tensor, " token"]],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Start second of each media token, and the grid step of each video token.

    Args:
        hf_model: Towers and decoder.
        inputs: The processor's whole output.
        n_tokens: Tokens of each modality.
        audio_seconds: From the model and the numbers of audio tokens to their start seconds.
    """
    seconds: dict[str, Tensor] = {}
    frames = None
    mask = inputs.get("feature_attention_mask")
    if mask is not None and len(mask) == 1:
        seconds["audio"] = audio_seconds(hf_model, torch.arange(n_tokens["audio"]))
    grid, per_grid = inputs.get("video_grid_thw"), inputs.get("video_second_per_grid")
    if grid is not None and len(grid) == 1 and per_grid is not None:
        merge = hf_model.config.vision_config.spatial_merge_size
        seconds["video"], frames = qwen.video_times(grid.cpu(), merge, float(per_grid[0]))
    return seconds, frames


def prepare(
    processor: Any,
    prompt: Prompt,
    video: Video | None,
    audio: Audio | None,
    *,
    system: str,
    unasked_fps: float,
) -> dict[str, Any]:
    """From a prompt, its frames and its sound to model inputs.

    Args:
        processor: The model's own.
        prompt: What is asked.
        video: Its frames.
        audio: Its sound.
        system: The family's system prompt; empty for none.
        unasked_fps: The rate that the processor assumes when it is not told, as in the paper's
            scripts.
    """
    interleaved = prompt.interleaved and audio is not None
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    if audio is not None and not interleaved:
        items.append({"type": "audio", "audio": "sound"})
    arguments: dict[str, Any] = {"text": qwen.chat(processor, prompt, items, system)}
    if video is not None:
        fps = video.fps if prompt.rope == "model" else unasked_fps
        arguments |= qwen.video_arguments(processor, video, fps)
    if audio is not None:
        arguments["audio"] = [audio.samples]
    if interleaved:
        if transformers.__version__.startswith("4."):  # there, nested arguments hide flat ones
            arguments["videos_kwargs"]["use_audio_in_video"] = True
        else:
            arguments |= _sound_inside_video(processor)
    inputs = dict(processor(**arguments, return_tensors="pt"))
    inputs["use_audio_in_video"] = interleaved and prompt.rope == "model"
    return inputs


def _sound_inside_video(processor: Any) -> dict[str, Any]:
    if hasattr(processor, "load_audio_from_video"):  # transformers >= 5.19
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}
