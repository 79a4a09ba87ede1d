"""Qwen3-Omni: the thinker, a mixture of experts that sees, hears and answers in text.

Vision features are added again after the first blocks (DeepStack), rotary position ids are floats,
and sound inside a video is merged with it token by token.
"""

from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family

_TOKENS_PER_CHUNK = 13
_SECONDS_PER_TOKEN = 0.08  # three convolutions of stride 2 over 10 ms frames


def _chunk(hf_model: Any) -> int:
    """Mel frames that the audio tower reads at a time: 100, one second."""
    return 2 * hf_model.config.audio_config.n_window


def n_audio_tokens(hf_model: Any, mel: Int[Tensor, " clip"]) -> Int[Tensor, " clip"]:
    """Audio tokens for so many mel frames: three convolutions of each second by itself."""
    chunk = _chunk(hf_model)
    rest = (mel % chunk - 1) // 2 + 1
    return ((rest - 1) // 2 + 1 - 1) // 2 + 1 + mel // chunk * _TOKENS_PER_CHUNK


def audio_seconds(hf_model: Any, tokens: Int[Tensor, " token"]) -> Float[Tensor, " token"]:
    """Start second of audio tokens."""
    chunk = tokens // _TOKENS_PER_CHUNK * (_chunk(hf_model) / 100)
    return chunk + tokens % _TOKENS_PER_CHUNK * _SECONDS_PER_TOKEN


QWEN3_OMNI = Family(
    name="qwen3-omni",
    checkpoints="Qwen3-Omni (30B-A3B)",
    decoder="mixture of experts, qk-norm, interleaved M-RoPE, DeepStack",
    model_types=("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    hf_class="Qwen3OmniMoeThinkerForConditionalGeneration",
    decoder_config=qwen.qwen3_config,
    on_disk=qwen.ON_DISK,
    times=partial(checks.times, audio_seconds=audio_seconds, count=n_audio_tokens),
    check_inputs=partial(checks.check_omni, n_tokens=n_audio_tokens),
    received=checks.received,
    prepare=partial(processing.prepare_omni, system="", default_fps=1.0),
    unwrap=lambda model: getattr(model, "thinker", model),
    base="qwen3-vl",
    media=qwen.PATCHES_OF_16,
    proved="0, tiny random weights of its class, eager experts",
    towers={"audio": ("audio_tower.layers", "audio_tower.proj2"), **qwen.EYES},
)
