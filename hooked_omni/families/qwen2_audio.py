"""Qwen2-Audio: hears and answers, and does not see. Positions have one dimension."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import transformers

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

SYSTEM = "You are a helpful assistant."
_TOKENS_PER_SECOND = 25


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Qwen2: the model's own forward reads its audio tower's device, even for words alone."""
    whole = transformers.Qwen2AudioConfig.from_dict(dict(raw))
    config = whole.get_text_config()
    config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
    return transformers.Qwen2ForCausalLM, config


def _prepare(
    processor: Any, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    processing.require_model_rope(prompt)
    items = [{"type": "audio", "audio_url": "sound"}] if audio is not None else []
    arguments: dict[str, Any] = {"text": processing.chat(processor, prompt, items, SYSTEM)}
    if audio is not None:
        arguments |= {"audio": [audio.samples], "sampling_rate": audio.sampling_rate}
    return dict(processor(**arguments, return_tensors="pt"))


QWEN2_AUDIO = Family(
    name="qwen2-audio",
    model_types=("qwen2_audio",),
    hf_class="Qwen2AudioForConditionalGeneration",
    decoder_config=qwen.decoder_config,
    on_disk=replace(qwen.ON_DISK, reference=_reference),
    times=partial(checks.times, audio_seconds=lambda model, tokens: tokens / _TOKENS_PER_SECOND),
    check_inputs=checks.check_audio,
    received=checks.received,
    prepare=_prepare,
    sees=False,
    towers={"audio": ("audio_tower.layers", "multi_modal_projector")},
)
