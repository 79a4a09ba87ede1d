from . import names as names
from .decoding.lens import read_lens as read_lens
from .decoding.prefill import prefill as prefill
from .errors import HookedOmniError as HookedOmniError
from .hooks.activation_cache import ActivationCache as ActivationCache
from .hooks.attention_edits import knockout as knockout
from .hooks.attention_edits import scale_attention as scale_attention
from .hooks.attention_edits import windows as windows
from .hooks.edits import ablate as ablate
from .hooks.edits import patch as patch
from .hooks.edits import steer as steer
from .inputs.items import Prompt as Prompt
from .inputs.prompt import EmbeddedPrompt as EmbeddedPrompt
from .inputs.spans import Spans as Spans
from .omni import HookedOmni as HookedOmni
from .omni import load as load
from .organisms import EXAMPLE_CLIP as EXAMPLE_CLIP
from .parity import prove as prove
from .transformer import HookedTransformer as HookedTransformer

__all__ = [
    "EXAMPLE_CLIP",
    "ActivationCache",
    "EmbeddedPrompt",
    "HookedOmni",
    "HookedOmniError",
    "HookedTransformer",
    "Prompt",
    "Spans",
    "ablate",
    "knockout",
    "load",
    "names",
    "patch",
    "prefill",
    "prove",
    "read_lens",
    "scale_attention",
    "steer",
    "windows",
]
