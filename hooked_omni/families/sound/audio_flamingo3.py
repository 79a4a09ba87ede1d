"""Audio Flamingo 3: hears up to ten minutes in windows of 30 s, and does not see."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Family

_TOKENS_PER_SECOND = 25


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    mask = inputs.get("input_features_mask")  # of each window
    return 0.0 if mask is None else int(mask.sum()) / 100, ()


AUDIO_FLAMINGO3 = Family(
    name="audio-flamingo3",
    checkpoints="Audio Flamingo 3 as `-hf`",
    decoder="Qwen2, 1-D positions",
    model_types=("audioflamingo3",),
    hf_class="AudioFlamingo3ForConditionalGeneration",
    decoder_config=qwen.any_decoder_config,
    on_disk=qwen.ON_DISK,
    times=checks.times_of_sound(lambda model, tokens: tokens / _TOKENS_PER_SECOND),
    check_inputs=checks.of_input_features_mask(checks.check_audio),
    received=checks.received_of_one_clip(_received),
    prepare=partial(processing.prepare_sound, system="You are a helpful assistant."),
    sees=False,
    towers=qwen.EARS,
    one_clip="first",
    call=processing.call_in_dtype,
)
