"""What can the analyses be set to that compare conditions, by a name each?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hooked_omni.errors import ResultsError

PLAIN = "plain"
"""The condition without any edit."""


@dataclass(frozen=True)
class ChoiceConfig:
    """How an answer is chosen, and under which conditions.

    Attributes:
        by: What is compared: log p of each option's "first" token, of the "whole" option, or of it
            "per token".
        conditions: By a name, rules such as "last+generated !-> V @ 12-20", beside the plain model.
        calibrate: "empty clip" takes from each option's log p what it has under a silent, black
            clip, "none" nothing.
        options: Answers to a question that comes without any, as `--ask` does.
        memory_budget: Bytes for the batch; None for no limit.
    """

    by: Literal["first", "whole", "per token"] = "per token"
    conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calibrate: Literal["none", "empty clip"] = "none"
    options: tuple[str, ...] = ()
    memory_budget: int | None = None

    def __post_init__(self) -> None:
        if self.by not in ("first", "whole", "per token"):
            raise ResultsError(
                f"expected options compared by 'first', 'whole' or 'per token', got {self.by!r}."
            )
        if self.calibrate not in ("none", "empty clip"):
            raise ResultsError(
                f"expected calibration by 'none' or 'empty clip', got {self.calibrate!r}."
            )
        wrong = [n for n, rules in self.conditions.items() if isinstance(rules, str) or not rules]
        if wrong or PLAIN in self.conditions:
            raise ResultsError(
                f"expected a list of rules for each condition, and none named {PLAIN!r}, got "
                f"{wrong or [PLAIN]}. Write {{'no video': ['last+generated !-> V']}}."
            )


_TRIED: Mapping[str, Sequence[str]] = {
    "no video": ("last+generated !-> V",),
    "more sound": tuple(f"contrast; 1; 8 last+generated x{x}-> A" for x in (2, 4)),
    "against no sound": tuple(f"contrastive audio a={a} plausible=0" for a in (1, 2, 4)),
    "avcd": ("avcd",),
}


@dataclass(frozen=True)
class MitigationConfig:
    """What is tried, and how long answers may be.

    Attributes:
        mitigations: By a name, settings of which one is chosen, as `mitigation/written.py` has
            them.
        vectors: File of steering vectors, as `python -m analyses vectors` writes it.
        random: Try beside each a random one of the same size, where there is one.
        max_new_tokens: Longest answer, in tokens.
        own: Words or phrases by sound event, besides the table of `events.py`.
    """

    mitigations: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict(_TRIED))
    vectors: str | None = None
    random: bool = True
    max_new_tokens: int = 50
    own: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, own in self.mitigations.items()
            if isinstance(own, str) or not own or len({*own}) < len(own)
        ]
        if not self.mitigations or wrong or PLAIN in self.mitigations or self.max_new_tokens < 2:
            raise ResultsError(
                f"expected a list of different settings for each mitigation, none named {PLAIN!r}, "
                f"and at least 2 new tokens, got {wrong or [*self.mitigations]} and "
                f"{self.max_new_tokens}. Write {{'no video': ['last+generated !-> V']}}."
            )
