"""How is the next token drawn? By transformers' own logits processors, from a seeded generator."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hooked_omni.errors import PromptError

__all__ = ["Sampling"]


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
                    f"expected {expected}, got {getattr(self, name)}. Leave out `do_sample` for "
                    "the most likely token."
                )

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator that starts at the seed."""
        return torch.Generator(device).manual_seed(self.seed)

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], generator: torch.Generator
    ) -> Int[Tensor, " row"]:
        """A token for every row."""
        scores, unread = logits.float(), torch.empty(0, dtype=torch.long)
        if self.temperature != 1:
            scores = TemperatureLogitsWarper(float(self.temperature))(unread, scores)
        if self.top_k is not None:
            scores = TopKLogitsWarper(self.top_k)(unread, scores)
        if self.top_p is not None and self.top_p < 1:
            scores = TopPLogitsWarper(float(self.top_p))(unread, scores)
        return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
