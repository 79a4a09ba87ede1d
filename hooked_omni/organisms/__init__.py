"""Models that come with the package, by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hooked_omni.organisms.random_phi import random_phi4
from hooked_omni.organisms.random_qwen3 import random_audio, random_omni3, random_vl3
from hooked_omni.organisms.random_weights import random_omni, random_vl
from hooked_omni.organisms.trained import TRAINED, organism, require_whole

__all__ = ["SHIPPED", "require_whole"]

SHIPPED: dict[str, Callable[[], tuple[Any, Any]]] = {
    **{name: partial(organism, name) for name in TRAINED},
    "random-omni": random_omni,
    "random-vl": random_vl,
    "random-omni3": random_omni3,
    "random-vl3": random_vl3,
    "random-audio": random_audio,
    "random-phi4": random_phi4,
}
