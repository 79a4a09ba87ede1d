"""What can each analysis be set to?

Apart from the analyses, which import torch: a wrong setting is refused at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from analyses.circuit_configs import HeadsConfig
from analyses.condition_configs import PLAIN as PLAIN
from analyses.condition_configs import ChoiceConfig, MitigationConfig
from hooked_omni.errors import ResultsError
from hooked_omni.names import LENSES, LensKind

MODALITIES = ("audio", "video", "image", "text")
"""The segments whose shares add up to 100 %."""

VARIANTS: Mapping[str, str] = {
    "intact": "none",
    "mute": "audio",
    "shift": "audio",
    "swap sound": "audio",
    "blank": "video",
    "swap picture": "video",
    "mute and blank": "both",
}
"""Each variant, and which modality it takes away."""


@dataclass(frozen=True)
class CaptionsConfig:
    """How long an answer may be, and which words name sounds.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        own: Words or phrases by sound event, besides the table of `events.py`.
    """

    max_new_tokens: int = 50
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ResultsError(f"expected at least 1 new token, got {self.max_new_tokens}.")


@dataclass(frozen=True)
class AttentionShareConfig:
    """How long an answer may be, and what to tell apart.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        segments: Spans whose shares are measured. "text" is all that is no tower's, the paper's
            query text, and the sum of "question", "system" and "markup"; "generated"
            is the answer so far.
        heads: Rows for each head, in place of their mean.
        tokens: Rows for each generated position, in place of their mean.
        sinks: "kept" counts them as what else they are; "apart" finds them (see `sinks.py`), takes
            them out of every segment, and gives them one of their own, "sink".
    """

    max_new_tokens: int = 50
    segments: tuple[str, ...] = (*MODALITIES, "question", "system", "markup", "generated")
    heads: bool = False
    tokens: bool = False
    sinks: Literal["kept", "apart"] = "kept"

    def __post_init__(self) -> None:
        if self.max_new_tokens < 2:
            raise ResultsError(
                f"expected at least 2 new tokens, got {self.max_new_tokens}: no pass reads the "
                "last one, so an answer of one attends to nothing."
            )
        if self.sinks not in ("kept", "apart") or not self.segments or "sink" in self.segments:
            raise ResultsError(
                f"expected sinks 'kept' or 'apart' and segments other than 'sink', got "
                f"{self.sinks!r} and {self.segments!r}."
            )


@dataclass(frozen=True)
class AttentionMapConfig:
    """How long an answer may be, and how many weights of each row are kept.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        kept: The so many largest weights of each generated position, layer and head.
    """

    max_new_tokens: int = 50
    kept: int = 9

    def __post_init__(self) -> None:
        if self.max_new_tokens < 2 or not 1 <= self.kept <= 1000:
            raise ResultsError(
                f"expected at least 2 new tokens and 1 to 1000 kept weights, got "
                f"{self.max_new_tokens} and {self.kept}: no pass reads the last token."
            )


@dataclass(frozen=True)
class LogitLensConfig:
    """Where to read, with which lens, and which words to look for.

    Attributes:
        span: What to read: "audio", "video", or any span, such as "audio@3.0-4.0s".
        lenses: "norm" puts the final norm before the unembedding, "raw" does not (the paper's
            scripts).
        top_k: How many of the likeliest tokens to keep at each position.
        words: Words to look for besides those of the reference captions.
        words_everywhere: Keep a row for every word and position, not for its best one alone.
        own: Words or phrases by sound event, besides the table of `events.py`.
        at_least: Reference captions that must name an event for it to count.
    """

    span: str = "audio"
    lenses: tuple[LensKind, ...] = LENSES
    top_k: int = 1
    words: tuple[str, ...] = ()
    words_everywhere: bool = False
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    at_least: int = 1

    def __post_init__(self) -> None:
        if not (self.span and self.lenses) or min(self.top_k, self.at_least) < 1:
            raise ResultsError(
                "expected a span, a lens, and top_k and at_least of 1 or more, got "
                f"{self.span!r}, {self.lenses!r}, {self.top_k} and {self.at_least}."
            )


@dataclass(frozen=True)
class KnockoutConfig:
    """What is cut, in which windows of layers, and what is measured.

    Attributes:
        keys: Spans that are not read, one at a time; any span, such as "audio@3.0-4.0s" or "text".
        query: What does not read them. "generated" is the paper's G: the last prompt position, at
            which the first new token is chosen, still reads everything.
        width: Layers in a window; None for a quarter of the model, 9 of 36 as in the paper.
        step: Layers from one window to the next; None for 2 of 36, as in the paper.
        windows: First and last layer of each window, in place of width and step.
        max_new_tokens: Longest answer, in tokens.
        references: How many captions of each modality are scored.
        own: Words or phrases by sound event, besides the table of `events.py`.
        memory_budget: Bytes for the batch; None for no limit.
    """

    keys: tuple[str, ...] = ("video", "audio")
    query: Literal["generated", "generated+last"] = "generated"
    width: int | None = None
    step: int | None = None
    windows: tuple[tuple[int, int], ...] = ()
    max_new_tokens: int = 50
    references: int = 1
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        if self.query not in ("generated", "generated+last") or not self.keys:
            raise ResultsError(
                f"expected query 'generated' or 'generated+last' and some keys, got {self.query!r} "
                f"and {self.keys!r}."
            )
        if self.max_new_tokens < 2 or self.references < 0:
            raise ResultsError(
                f"expected at least 2 new tokens and 0 references, got {self.max_new_tokens} and "
                f"{self.references}: a knockout of generated positions cannot reach the first."
            )
        if self.windows and (self.width, self.step) != (None, None):
            raise ResultsError("expected windows, or width and step, got both. Give one of them.")
        given = self.width, self.step, self.memory_budget
        width, step, budget = (1 if value is None else value for value in given)
        backwards = [window for window in self.windows if not 0 <= window[0] <= window[1]]
        if width < 1 or width % 2 == 0 or step < 1 or backwards or budget < 1:
            raise ResultsError(
                "expected an odd width, a step of 1 or more, windows as (first, last) layer, and a "
                f"memory budget above 0, got {self.width}, {self.step}, {self.windows} and "
                f"{self.memory_budget}."
            )


@dataclass(frozen=True)
class DistributionShiftConfig:
    """How long an answer may be, and which words name sounds.

    Attributes:
        max_new_tokens: Longest answer, in tokens; 50 in the paper's scripts.
        own: Words or phrases by sound event, besides the table of `events.py`.
    """

    max_new_tokens: int = 50
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ResultsError(f"expected at least 1 new token, got {self.max_new_tokens}.")


@dataclass(frozen=True)
class ModalityRelianceConfig:
    """Which variants to score, and how.

    Attributes:
        variants: Names in `VARIANTS`; each costs a pass over the prompt.
        swap_with: A clip with picture and sound; then "swap sound" and "swap picture" are scored.
        shift_seconds: By how much the sound is moved, its end to the front; None for half of it.
        blank: Frames are "black", or of the "mean" color of their clip.
        max_new_tokens: Longest answer, in tokens.
        tokens: Rows for each token of the answer, in place of their sum.
    """

    variants: tuple[str, ...] = ("mute", "blank")
    swap_with: str | None = None
    shift_seconds: float | None = None
    blank: Literal["black", "mean"] = "black"
    max_new_tokens: int = 50
    tokens: bool = False

    def __post_init__(self) -> None:
        swaps = ("swap sound", "swap picture")
        known = [v for v in VARIANTS if v != "intact" and v not in swaps]
        if set(self.variants) - set(known) or not (self.variants or self.swap_with):
            raise ResultsError(
                f"expected variants among {known}, got {self.variants!r}. For swaps, give the "
                "other clip as `swap_with`."
            )
        if self.blank not in ("black", "mean") or self.max_new_tokens < 1:
            raise ResultsError(
                f"expected blank 'black' or 'mean' and at least 1 new token, got {self.blank!r} "
                f"and {self.max_new_tokens}."
            )


CONFIGS: Mapping[str, type] = {
    "captions": CaptionsConfig,
    "attention_share": AttentionShareConfig,
    "attention_map": AttentionMapConfig,
    "logit_lens": LogitLensConfig,
    "knockout": KnockoutConfig,
    "distribution_shift": DistributionShiftConfig,
    "modality_reliance": ModalityRelianceConfig,
    "choice": ChoiceConfig,
    "mitigation": MitigationConfig,
    "heads": HeadsConfig,
}
