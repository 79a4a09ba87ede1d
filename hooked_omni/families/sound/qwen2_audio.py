"""Qwen2-Audio: hears and answers, and does not see. Positions have one dimension."""

from dataclasses import replace
from functools import partial

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family

SYSTEM = "You are a helpful assistant."
_TOKENS_PER_SECOND = 25


QWEN2_AUDIO = Family(
    name="qwen2-audio",
    checkpoints="Qwen2-Audio",
    decoder="1-D positions",
    model_types=("qwen2_audio",),
    hf_class="Qwen2AudioForConditionalGeneration",
    decoder_config=qwen.decoder_config,
    # Its own forward reads its audio tower's device, even for words alone.
    on_disk=replace(qwen.ON_DISK, reference=qwen.text_reference("Qwen2AudioConfig")),
    times=partial(checks.times, audio_seconds=lambda model, tokens: tokens / _TOKENS_PER_SECOND),
    check_inputs=checks.check_audio,
    received=checks.received,
    prepare=partial(processing.prepare_sound, system=SYSTEM),
    sees=False,
    towers=qwen.EARS,
)
