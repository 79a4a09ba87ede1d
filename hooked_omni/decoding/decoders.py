"""Which published decoders are contrasts, and with which weights?

Each is a declaration of terms and gates. Where a clip lacks a modality it is either knocked out, on
the clip's own prompt, or another prompt, such as the clip in silence, which is passed as `other`.
Guidance over a modality and a contrast against its absence are one formula: scale 1 + a.
"""

from hooked_omni.decoding.contrast import Contrast, Term
from hooked_omni.hooks.attention_edits import knockout
from hooked_omni.hooks.types import Condition, Intervention
from hooked_omni.inputs.prompt import EmbeddedPrompt


def without(*spans: str, query: str = "last+generated") -> list[Intervention]:
    """Knockouts of all reading of these spans by what is chosen and what is generated."""
    return [knockout(query=query, key=span) for span in spans]


def contrastive(against: Condition, a: float | int = 1.0, plausible: float | int = 0.1) -> Contrast:
    """Contrastive decoding, (1 + a) plain - a against (Li et al., arXiv 2210.15097)."""
    return Contrast((Term(1 + a), Term(-a, against)), plausible)


def distorted(
    other: EmbeddedPrompt, a: float | int = 1.0, plausible: float | int = 0.1
) -> Contrast:
    """Against the same clip distorted: VCD, if by noise (Leng et al., arXiv 2311.16922).

    With a clip in silence as `other`, audio minus silence.
    """
    return Contrast((Term(1 + a), Term(-a, prompt=other)), plausible)


def guidance(modality: str, scale: float | int = 1.5) -> Contrast:
    """Classifier-free guidance over a modality (Sanchez et al., arXiv 2306.17806)."""
    return Contrast((Term(scale), Term(1 - scale, without(modality))))


def avcd(
    a: float | int = 0.5,
    plausible: float | int = 0.2,
    least_entropy: float | int = 0.6,
    masked: tuple[str, str] = ("audio", "video"),
) -> Contrast:
    """Audio-visual contrastive decoding (Jung et al., arXiv 2505.20862).

    Weights and gates are those of the released code (`videollama2/__init__.py`), there for the
    modality that dominates: with text, both others are masked. Its masks leave out what gets more
    attention than the median, in all layers but the last; here a modality is cut as a whole.
    """
    first, second = masked
    both = Term(-2 * a, without(*masked))
    alone = Term(1.0, without(first)), Term(1.0, without(second))
    return Contrast((Term(2 + 2 * a), both, *alone), plausible, least_entropy)
