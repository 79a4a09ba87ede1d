from . import names as names
from .decoding.generate import Generation as Generation
from .errors import HookedOmniError as HookedOmniError
from .hf.towers import Towers as Towers
from .hooks.activation_cache import ActivationCache as ActivationCache
from .hooks.attention_edits import (
    knockout as knockout,
)
from .hooks.attention_edits import (
    scale_attention as scale_attention,
)
from .hooks.attention_edits import (
    windows as windows,
)
from .hooks.edits import (
    ablate as ablate,
)
from .hooks.edits import (
    patch as patch,
)
from .hooks.edits import (
    steer as steer,
)
from .inputs.media import MediaSettings as MediaSettings
from .inputs.prompt import EmbeddedPrompt as EmbeddedPrompt
from .inputs.prompt import Prompt as Prompt
from .inputs.spans import Spans as Spans
from .omni import HookedOmni as HookedOmni
from .omni import load as load
from .parity import ParityReport as ParityReport
from .parity import prove as prove
from .transformer import HookedTransformer as HookedTransformer

__all__ = [
    "ActivationCache",
    "EmbeddedPrompt",
    "Generation",
    "HookedOmni",
    "HookedOmniError",
    "HookedTransformer",
    "MediaSettings",
    "ParityReport",
    "Prompt",
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
