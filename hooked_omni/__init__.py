"""Find out what audio-visual language models really see and hear.

`load` a model, `embed` a prompt, and run the decoder with TransformerLens's hooks: cache, patch,
knock out, caption. `prove` shows that its logits are Hugging Face's.

Names are imported when they are first used: the half that embeds clips needs neither
TransformerLens nor the newest transformers, and a command that only asks for help needs neither.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hooked_omni import names
    from hooked_omni.activation_cache import ActivationCache
    from hooked_omni.edits import Reference, ablate, patch, steer
    from hooked_omni.errors import HookedOmniError
    from hooked_omni.generate import Capture, Generation
    from hooked_omni.knockout import knockout, scale_attention, windows
    from hooked_omni.media import MediaSettings
    from hooked_omni.omni import HookedOmni, load
    from hooked_omni.prompt import EmbeddedPrompt, Prompt
    from hooked_omni.prove import ParityReport, prove
    from hooked_omni.spans import Spans
    from hooked_omni.towers import Towers
    from hooked_omni.transformer import HookedTransformer

__all__ = [
    "ActivationCache",
    "Capture",
    "EmbeddedPrompt",
    "Generation",
    "HookedOmni",
    "HookedOmniError",
    "HookedTransformer",
    "MediaSettings",
    "ParityReport",
    "Prompt",
    "Reference",
    "Spans",
    "Towers",
    "ablate",
    "knockout",
    "load",
    "names",
    "patch",
    "prove",
    "scale_attention",
    "steer",
    "windows",
]

_HOMES = {
    "activation_cache": ("ActivationCache",),
    "edits": ("Reference", "ablate", "patch", "steer"),
    "errors": ("HookedOmniError",),
    "generate": ("Capture", "Generation"),
    "knockout": ("knockout", "scale_attention", "windows"),
    "media": ("MediaSettings",),
    "omni": ("HookedOmni", "load"),
    "prompt": ("EmbeddedPrompt", "Prompt"),
    "prove": ("ParityReport", "prove"),
    "spans": ("Spans",),
    "towers": ("Towers",),
    "transformer": ("HookedTransformer",),
}


def __getattr__(name: str) -> Any:
    for home, members in _HOMES.items():
        if name in members:
            value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    if name == "names":
        return importlib.import_module(f"{__name__}.names")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Keeps `prove` and `knockout` functions when the files of these names are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES.get(name, ()):
            value = vars(value)[name]
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
