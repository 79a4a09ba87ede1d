"""How is the next token drawn? By transformers' own logits processors, from a seeded generator."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hooked_omni.errors import PromptError


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn as `generate(do_sample=True)` of transformers draws them.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Draw from this many best tokens; None from all.
        top_p: Draw from the best tokens that together have this probability; None from all.
        seed: The same seed draws the same tokens.

    Raises:
        PromptError: For a value without meaning.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {
            "temperature above 0": not 0 < self.temperature < float("inf"),
            "top_k of at least 1": self.top_k is not None and self.top_k < 1,
            "top_p above 0 and at most 1": self.top_p is not None and not 0 < self.top_p <= 1,
        }
        for expected, is_wrong in wrong.items():
            if is_wrong:
                name = expected.partition(" ")[0]
                raise PromptError(
                    f"expected {expected}, got {getattr(self, name)}. Or leave out `do_sample`."
                )

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator that starts at the seed."""
        return torch.Generator(device).manual_seed(self.seed)

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], generator: torch.Generator
    ) -> Int[Tensor, " row"]:
        """A token for every row."""
        scores: Any = logits.float()
        unread: Any = None  # the tokens so far, which these three do not look at
        if self.temperature != 1:
            scores = TemperatureLogitsWarper(float(self.temperature))(unread, scores)
        if self.top_k is not None:
            scores = TopKLogitsWarper(self.top_k)(unread, scores)
        if self.top_p is not None and self.top_p < 1:
            scores = TopPLogitsWarper(float(self.top_p))(unread, scores)
        return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]


def with_sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with transformers' own in `sampling`; `PromptError` if not `do_sample`."""
    own = [f.name for f in fields(Sampling)]
    given = {name: settings[name] for name in own if name in settings}
    rest = {n: value for n, value in settings.items() if n not in (*own, "do_sample")}
    if settings.get("do_sample"):
        return {**rest, "sampling": Sampling(**given)}
    if given:
        raise PromptError(
            f"expected do_sample=True with {sorted(given)}, got a greedy caption, which has no use "
            "for them. Set do_sample, or leave them out."
        )
    return {**rest, "sampling": None} if "do_sample" in settings else rest
