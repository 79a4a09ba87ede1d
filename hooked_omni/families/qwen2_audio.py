"""Qwen2-Audio: hears and answers, and does not see. SpanPositions have one dimension.

Source: transformers, `modeling_qwen2_audio.py` and `processing_qwen2_audio.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.media import Audio, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = ["QWEN2_AUDIO"]

SYSTEM = "You are a helpful assistant."
_TOKENS_PER_SECOND = 25


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Its decoder is Qwen2's; its own forward asks the audio tower where it is, even for words."""
    whole = transformers.Qwen2AudioConfig.from_dict(dict(raw))
    config = whole.get_text_config()
    config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
    return transformers.Qwen2ForCausalLM, config


def _media_tokens(hf_model: Any) -> dict[str, int]:
    return {"audio": hf_model.config.audio_token_id}


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    mask, features = inputs.get("feature_attention_mask"), inputs.get("input_features")
    came = int((inputs["input_ids"] == hf_model.config.audio_token_id).sum())
    if (mask is None) != (features is None) or (mask is None and came):
        raise PromptError(
            f"expected input_features with feature_attention_mask for {came} audio tokens, got "
            "one without the other. Pass the processor's whole output."
        )
    if mask is not None:
        mel = mask.sum(-1)
        expected = int((((mel - 1) // 2 + 1 - 2) // 2 + 1).sum())
        if came != expected:
            raise PromptError(
                f"expected {expected} audio tokens for {mel.tolist()} mel frames, got {came}: the "
                "model would spread the sound over other positions. Pass the whole output of one "
                "call of the processor."
            )


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    mask = inputs.get("feature_attention_mask")
    if mask is None or len(mask) != 1:
        return {}, None
    return {"audio": torch.arange(n_tokens["audio"]) / _TOKENS_PER_SECOND}, None


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    if prompt.rope != "model":
        raise PromptError(
            f"expected rope='model' for a model that does not see, got {prompt.rope!r}. Leave it "
            "out."
        )
    items = [{"type": "audio", "audio_url": "sound"}] if audio is not None else []
    arguments: dict[str, Any] = {"text": qwen.chat(processor, prompt, items, SYSTEM)}
    if audio is not None:
        arguments["audio"] = [audio.samples]
        arguments["sampling_rate"] = audio.sampling_rate
    return dict(processor(**arguments, return_tensors="pt"))


QWEN2_AUDIO = Family(
    name="qwen2-audio",
    model_types=("qwen2_audio",),
    hf_class="Qwen2AudioForConditionalGeneration",
    unwrap=lambda model: model,
    decoder_config=qwen.decoder_config,
    tensor_name=qwen.tensor_name,
    on_disk=replace(qwen.ON_DISK, reference=_reference),
    media_tokens=_media_tokens,
    times=_times,
    check_inputs=_check_inputs,
    prepare=_prepare,
    sees=False,
)
