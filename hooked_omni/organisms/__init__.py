"""Models that come with the package, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hooked_omni.organisms.random_phi import random_phi4
from hooked_omni.organisms.random_qwen3 import random_omni3, random_vl3, random_vl3_moe
from hooked_omni.organisms.random_towers import (
    random_audio,
    random_audio_flamingo3,
    random_internvl,
    random_llava_onevision,
    random_qwen2_vl,
    random_qwen3_asr,
    random_video_llama3,
    random_voxtral,
)
from hooked_omni.organisms.random_weights import random_omni, random_vl
from hooked_omni.organisms.trained import TRAINED, organism, require_whole

__all__ = ["SHIPPED", "require_whole"]

SHIPPED: dict[str, Callable[[], tuple[Any, Any]]] = {
    **{name: partial(organism, name) for name in TRAINED},
    "random-omni": random_omni,
    "random-vl": random_vl,
    "random-omni3": random_omni3,
    "random-vl3": random_vl3,
    "random-vl3-moe": random_vl3_moe,
    "random-qwen2-vl": random_qwen2_vl,
    "random-internvl": random_internvl,
    "random-video-llama3": random_video_llama3,
    "random-llava-onevision": random_llava_onevision,
    "random-audio": random_audio,
    "random-audio-flamingo3": random_audio_flamingo3,
    "random-voxtral": random_voxtral,
    "random-qwen3-asr": random_qwen3_asr,
    "random-phi4": random_phi4,
}
