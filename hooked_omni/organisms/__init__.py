"""Models that come with the package, by name."""

from collections.abc import Callable
from typing import Any

from hooked_omni.organisms.random_weights import random_omni, random_vl

__all__ = ["SHIPPED"]

SHIPPED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "random-omni": random_omni,
    "random-vl": random_vl,
}
