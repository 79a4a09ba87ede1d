"""How likely is each option as the answer?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from analyses.cases import Skip
from hooked_omni import EmbeddedPrompt, HookedTransformer
from hooked_omni.decoding.score import next_logprobs
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition
from hooked_omni.metrics import known_tokens

Scores = Float[np.ndarray, "condition option"]


@dataclass(frozen=True)
class OptionScores:
    """Log-probabilities of options under each condition, in nats.

    `first` is that of the first token, NaN for options that share it; `whole` of all `n_tokens`.
    """

    first: Scores
    whole: Scores
    n_tokens: tuple[int, ...]

    def values(self, by: str) -> Scores:
        """What is compared; `Skip` for first tokens that options share."""
        if by == "whole":
            return self.whole
        if by == "per token":
            return self.whole / np.array(self.n_tokens)
        if np.isnan(self.first).any():
            raise Skip(
                "expected options that begin differently, to compare by their first tokens, got "
                "some that share one. Compare the whole ones, or per token."
            )
        return self.first


def option_scores(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    options: Sequence[str],
    conditions: Sequence[Condition],
    memory_budget: int | None = None,
) -> OptionScores:
    """Score options as answers; on a prefilled prompt, in no pass over it.

    Raises:
        HookError, SpanError: For a condition that cannot act on this prompt.
        Skip: For options that the vocabulary lacks, or cannot tell apart.
    """
    try:
        tokens = [known_tokens(model.tokenizer, option) for option in options]
    except PromptError as error:
        raise Skip(str(error)) from error
    if len({tuple(own) for own in tokens}) < len(tokens):
        raise Skip(f"expected options of different tokens, got {list(options)} as {tokens}.")
    started = [own[0] for own in tokens]
    if max(map(len, tokens)) == 1:
        after = next_logprobs(model, prompt, conditions, memory_budget)
        first = np.array([row[started].double().tolist() for row in after])
        return OptionScores(first, first, (1,) * len(tokens))
    scored = [model.score(prompt, torch.tensor(own), conditions, memory_budget) for own in tokens]
    first = np.array([[float(row[0]) for row in own] for own in scored]).T
    whole = np.array([[float(row.double().sum()) for row in own] for own in scored]).T
    first[:, [started.count(token) > 1 for token in started]] = np.nan
    return OptionScores(first, whole, tuple(map(len, tokens)))
