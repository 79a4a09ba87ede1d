"""Qwen2.5-Omni: the thinker, which sees, hears and answers in text.

Source: transformers, `modeling_qwen2_5_omni.py` and `processing_qwen2_5_omni.py`.
"""

from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
_AUDIO_TOKENS_PER_SECOND = 25


def _audio_seconds(hf_model: Any, tokens: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    return tokens / _AUDIO_TOKENS_PER_SECOND


QWEN2_5_OMNI = Family(
    name="qwen2.5-omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    hf_class="Qwen2_5OmniThinkerForConditionalGeneration",
    decoder_config=qwen.decoder_config,
    tensor_name=qwen.tensor_name,
    on_disk=qwen.ON_DISK,
    times=partial(checks.times, audio_seconds=_audio_seconds),
    check_inputs=partial(checks.check_omni, n_tokens=lambda model, mel: checks.n_audio_tokens(mel)),
    prepare=partial(processing.prepare_omni, system=SYSTEM, default_fps=2.0),
    media_tokens=checks.media_tokens,
    unwrap=lambda model: getattr(model, "thinker", model),
    base="qwen2.5-vl",
)
