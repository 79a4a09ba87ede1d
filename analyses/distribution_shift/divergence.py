"""How far apart are two models' next-token distributions?

Both are renormalized over the tokens that both models have, in float64, a few steps at a time.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.text.vocabulary import SharedVocabulary

N_TOP = 5
"""The base's likeliest tokens that are kept at each step."""

_ROWS_AT_ONCE = 8  # of 152 000 logits in float64: 10 MB, a few times


def places(known: Int[Tensor, " token"], tokens: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Index of each token among the known ones, which are sorted; -1 for others."""
    place = torch.searchsorted(known, tokens).clamp(max=len(known) - 1)
    return torch.where(known[place] == tokens, place, -1)


def compare(
    logits: Float[Tensor, "n d_vocab"],
    base_logits: Float[Tensor, "n d_base_vocab"],
    shared: SharedVocabulary,
    chosen: Int[Tensor, " n"],
) -> dict[str, Tensor]:
    """Two distributions over the shared tokens at each step, in float64.

    `chosen` is the index among the `shared` tokens of each token of the answer.

    Returns:
        `[n]` each: the measures of `run`, by column: `logprob`, `base_logprob`, `base_rank`,
        `kl_base_model`, `kl_model_base`, `left_out` and `base_left_out`. Of the base's likeliest
        tokens `[n, top]`: `base_top`, their index among the shared, and `base_top_logprob`.
    """
    kept: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(chosen)).split(_ROWS_AT_ONCE):
        own, own_out = _among(logits[rows.to(logits.device)], shared.first)
        base, base_out = _among(base_logits[rows.to(base_logits.device)], shared.second)
        token = chosen[rows, None]
        of_base, likeliest = base.gather(1, token), base.topk(min(N_TOP, base.shape[1]), dim=1)
        found = dict(
            logprob=own.gather(1, token)[:, 0],
            base_logprob=of_base[:, 0],
            base_rank=1 + (base > of_base).sum(1),
            kl_base_model=(base.exp() * (base - own)).sum(1).clamp(min=0),
            kl_model_base=(own.exp() * (own - base)).sum(1).clamp(min=0),
            left_out=own_out,
            base_left_out=base_out,
            base_top=likeliest.indices,
            base_top_logprob=likeliest.values,
        )
        for name, value in found.items():
            kept.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in kept.items()}


def _among(
    logits: Float[Tensor, "n d_vocab"], known: Int[Tensor, " token"]
) -> tuple[Float[Tensor, "n token"], Float[Tensor, " n"]]:
    """Log-probabilities among the known tokens, and the probability of all others."""
    wide = logits.cpu().double()
    chosen = wide[:, known]
    inside, total = chosen.logsumexp(1), wide.logsumexp(1)
    return chosen - inside[:, None], (1 - (inside - total).exp()).clamp(min=0)
