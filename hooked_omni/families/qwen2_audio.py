"""Qwen2-Audio: hears and answers, and does not see. Positions have one dimension."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import transformers

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family, Read
from hooked_omni.inputs.prompt import Prompt

SYSTEM = "You are a helpful assistant."
_TOKENS_PER_SECOND = 25
_FORMS = {"audio": {"type": "audio", "audio_url": "sound"}}


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Qwen2: the model's own forward reads its audio tower's device, even for words alone."""
    whole = transformers.Qwen2AudioConfig.from_dict(dict(raw))
    config = whole.get_text_config()
    config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
    return transformers.Qwen2ForCausalLM, config


def _prepare(processor: Any, prompt: Prompt, read: Read) -> dict[str, Any]:
    processing.require_model_rope(prompt)
    text = processing.chat(processor, prompt, SYSTEM, _FORMS)

    def arguments(medium: processing.Medium) -> dict[str, Any]:
        sound: Any = medium.read
        return {"audio": [sound.samples], "sampling_rate": sound.sampling_rate}

    return processing.one_by_one(processor, text, processing.media_of(prompt, read), arguments)


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
)
