"""Qwen3-ASR: Qwen3-Omni's ears before a Qwen3, and does not see.

It was made to transcribe. Its chat template has one place for words, the system turn, which says
what the sound is about: the question stands there.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooked_omni.errors import PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family, Masks, Read
from hooked_omni.families.omni.qwen3_omni import audio_seconds, n_audio_tokens
from hooked_omni.inputs.prompt import Prompt


def _prepare(processor: Any, prompt: Prompt, read: Read) -> dict[str, Any]:
    if prompt.system is not None:
        raise PromptError(
            f"expected no system prompt for Qwen3-ASR, got {prompt.system!r}: the question stands "
            "in its place, the only one for words. Say all of it in the question."
        )
    question = next(str(item.source) for item in prompt.content if item.kind == "text")
    return processing.prepare_sound(processor, prompt, read, system=question)


def _correct_words(tokenizer: Any, tokens: Int[Tensor, " pos"], masks: Masks) -> Masks:
    """The system turn is the question."""
    return {"question": masks["system"], "system": torch.zeros_like(masks["system"])}


QWEN3_ASR = Family(
    name="qwen3-asr",
    checkpoints="Qwen3-ASR as `-hf` (0.6B, 1.7B)",
    decoder="Qwen3: qk-norm, 1-D positions",
    model_types=("qwen3_asr",),
    hf_class="Qwen3ASRForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    on_disk=qwen.ON_DISK,
    times=checks.times_of_sound(audio_seconds),
    check_inputs=checks.of_input_features_mask(
        partial(checks.check_audio, n_tokens=n_audio_tokens)
    ),
    received=checks.of_input_features_mask(checks.received),
    prepare=_prepare,
    correct_words=_correct_words,
    sees=False,
    towers=qwen.EARS,
    one_clip="anywhere",
    call=processing.call_in_dtype,
)
