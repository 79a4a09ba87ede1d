"""How likely is every token of a given text?

All of the text runs in one pass after the prompt's (teacher forcing), as generated positions.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.conditions import batches
from hooked_omni.decoding.prefill import (
    PrefilledPrompt,
    begun,
    hooked,
    one_prompt,
    prompt_pass,
)
from hooked_omni.decoding.rows import forced, logprob
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition, as_hooks, reaches
from hooked_omni.hooks.turns import in_turn


@in_turn
@torch.no_grad()
def forced_logits(
    model: HookedDecoder, prompt: Input, tokens: Int[Tensor, " n"], fwd_hooks: Condition = ()
) -> Float[Tensor, "n d_vocab"]:
    """Logits from which each token of a text is chosen: in row `t`, after its first `t` tokens.

    ```python
    logits = forced_logits(base, prompt, caption.tokens)
    ranks = 1 + (logits > logits.gather(1, caption.tokens[:, None])).sum(1)
    ```

    Hooks see the prompt (unless it is prefilled and none acts on it), then all of the text at once,
    as `generated` positions.

    Raises:
        HookError: For a hook that cannot act on this run, or whose edit made a NaN.
        PromptError: For a batch of prompts, no tokens, or unknown ones.
    """
    prompt, text = one_prompt(model, prompt), _text(model, tokens)
    window = range(prompt.n_pos, prompt.n_pos + text.shape[1] - 1)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    model.require_runnable([*model.active_hooks(), *hooks], range(window.stop), prompt.spans)
    final, cache = prompt_pass(model, prompt, hooks, prompt.n_pos, window.stop)
    if window:
        with model.hooks([hook for hook in hooks if reaches(hook, window)]):
            context = model.context(prompt, window, cache)
            final = torch.cat([final, model.run_pass(text[:, :-1], context, window)], dim=1)
    return model.logits_of(final)[0]


@in_turn
@torch.no_grad()
def logits_at_once(
    model: HookedDecoder,
    prompt: Input,
    tokens: Int[Tensor, " n"],
    like: PrefilledPrompt | None = None,
) -> Float[Tensor, "n d_vocab"]:
    """`forced_logits` of a prompt that is used once, to rounding: one pass over it and the text.

    `like` is as in `prefill`. Errors as `forced_logits`.
    """
    prompt, text = one_prompt(model, prompt), _text(model, tokens)
    if hooked(model):  # they see the prompt, then the text
        return forced_logits(model, prompt, tokens)
    n_pos, total = prompt.n_pos, prompt.n_pos + text.shape[1] - 1
    first, cache = begun(model, prompt, like, total)
    window = range(first, total)
    embeds = torch.cat([prompt.embeds[:, first:], text[:, :-1]], dim=1)
    final = model.run_pass(embeds, model.context(prompt, window, cache), window)
    return model.logits_of(final[:, n_pos - 1 - first :])[0]


@in_turn
@torch.no_grad()
def score(
    model: HookedDecoder,
    prompt: Input,
    tokens: Int[Tensor, " n"],
    conditions: Iterable[Condition],
    memory_budget: int | None = None,
) -> list[Float[Tensor, " n"]]:
    """Log-probability of each token of a given text, under each condition; `[]` is the baseline.

    Returns:
        Log-probabilities in nats, float32, in the order of the conditions.

    Raises:
        HookError, PromptError: As `forced_logits`; and for no conditions, or too small a budget.
    """
    prompt, conditions = one_prompt(model, prompt), list(conditions)
    _text(model, tokens)
    known = torch.as_tensor(tokens).tolist()
    total = prompt.n_pos + len(known) - 1
    scores: dict[int, Tensor] = {}
    for batch in batches(model, prompt, conditions, total, len(known), memory_budget):
        logits, cache = batch.start(model, prompt, total)
        logprobs = [logprob(logits, known[0])]
        with model.hooks(batch.row_hooks(model, cache) if len(known) > 1 else []):
            for _, start, final in forced(model, prompt, cache, known):
                for at, token in enumerate(known[start + 1 : start + 1 + final.shape[1]]):
                    logprobs.append(logprob(model.logits_of(final[:, at]), token))
        scores |= dict(zip(batch.members, torch.cat(logprobs, 1).unbind(), strict=True))
    return [scores[i] for i in range(len(conditions))]


@in_turn
@torch.no_grad()
def next_logprobs(
    model: HookedDecoder,
    prompt: Input,
    conditions: Iterable[Condition],
    memory_budget: int | None = None,
) -> list[Float[Tensor, " d_vocab"]]:
    """Log-probability of every token as the first of an answer, under each condition.

    In nats, float32, in the order of the conditions; raises as `score`. What edits generated
    positions alone acts on none, and is refused.
    """
    prompt, conditions = one_prompt(model, prompt), list(conditions)
    found: dict[int, Tensor] = {}
    for batch in batches(model, prompt, conditions, prompt.n_pos, 1, memory_budget):
        logits, _ = batch.start(model, prompt, prompt.n_pos)
        found |= dict(zip(batch.members, logits.float().log_softmax(-1).unbind(), strict=True))
    return [found[i] for i in range(len(conditions))]


def _text(model: HookedDecoder, tokens: Int[Tensor, " n"]) -> Float[Tensor, "1 n d_model"]:
    """Embeddings of one text."""
    tokens = torch.as_tensor(tokens)
    if tokens.ndim != 1 or not len(tokens):
        raise PromptError(
            f"expected one text [n] of at least one token, got shape {tuple(tokens.shape)}. Give "
            "one text at a time."
        )
    return model.embedded_tokens(tokens[None]).embeds
