"""Find out what audio-visual language models really see and hear.

`load` a model, `embed` a prompt, and run the decoder with TransformerLens's hooks: cache, patch,
knock out, caption. `prove` shows that its logits are Hugging Face's.
"""

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
