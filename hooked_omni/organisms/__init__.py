"""Models that come with the package, by name; made of torch, which a name alone does not import."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from hooked_omni.organisms.trained import EXAMPLE_CLIP, TRAINED, organism, require_whole

__all__ = ["EXAMPLE_CLIP", "SHIPPED", "require_whole"]

_RANDOM = {
    "random_weights": ("random_omni", "random_vl"),
    "random_qwen3": ("random_omni3", "random_vl3", "random_vl3_moe"),
    "random_towers": (
        "random_qwen2_vl",
        "random_internvl",
        "random_video_llama3",
        "random_llava_onevision",
        "random_audio",
        "random_audio_flamingo3",
        "random_voxtral",
        "random_qwen3_asr",
    ),
    "random_phi": ("random_phi4",),
}


def _random(file: str, name: str) -> tuple[Any, Any]:
    return getattr(import_module(f"{__name__}.{file}"), name)()


SHIPPED: dict[str, Callable[[], tuple[Any, Any]]] = {
    **{name: partial(organism, name) for name in TRAINED},
    **{n.replace("_", "-"): partial(_random, f, n) for f, names in _RANDOM.items() for n in names},
}
