"""Qwen2.5-Omni: the thinker, which sees, hears and answers in text."""

from functools import partial

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of "
    "perceiving auditory and visual inputs, as well as generating text and speech."
)
_TOKENS_PER_SECOND = 25


QWEN2_5_OMNI = Family(
    name="qwen2.5-omni",
    checkpoints="Qwen2.5-Omni (3B, 7B)",
    decoder="M-RoPE, time-aligned sound inside video",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    hf_class="Qwen2_5OmniThinkerForConditionalGeneration",
    decoder_config=qwen.decoder_config,
    on_disk=qwen.ON_DISK,
    times=partial(checks.times, audio_seconds=lambda model, tokens: tokens / _TOKENS_PER_SECOND),
    check_inputs=checks.check_omni,
    received=checks.received,
    prepare=partial(processing.prepare_omni, system=SYSTEM, default_fps=2.0),
    unwrap=lambda model: getattr(model, "thinker", model),
    base="qwen2.5-vl",
    towers={"audio": ("audio_tower.layers", "audio_tower.proj"), **qwen.EYES},
)
