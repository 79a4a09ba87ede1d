"""What does the model answer under each of many conditions?

A condition is a list of hooks or interventions. All that act on generated positions alone share one
pass over the prompt (none, if it is prefilled) and decode as one batch, each row with its own
hooks; `conditions.py` says which share what. A condition alone in its group runs as `generate`
does, to the bit.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.conditions import batches
from hooked_omni.decoding.generate import Decoding, Generation, decode
from hooked_omni.decoding.prefill import one_prompt
from hooked_omni.decoding.rows import row_captions
from hooked_omni.decoding.score import score
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition
from hooked_omni.hooks.turns import in_turn


@in_turn
@torch.no_grad()
def generate_many(
    model: HookedDecoder,
    prompt: Input,
    conditions: Iterable[Condition],
    decoding: Decoding = Decoding(),
) -> list[Generation]:
    """Captions of one prompt, one under each condition; `[]` is the baseline.

    ```python
    sweep = [[], *[[knockout(query="generated", key="video", layers=w)] for w in windows(36)]]
    captions = model.generate_many(prompt, sweep)
    ```

    With a `draft`, such as the plain answer, all its tokens are tried under every condition in a
    few passes, and only what parts from it is decoded; see `rows.py`. It changes no token.

    Returns:
        Captions in the order of the conditions, each as `generate` gives it: tokens are equal,
        logits within rounding of another order of sums.

    Raises:
        HookError, PromptError: As `generate`; for no conditions, a small budget, or sampling.
    """
    if decoding.sampling is not None:
        raise PromptError(
            f"expected greedy captions in a sweep, got {decoding.sampling}: conditions would "
            "differ by their draws. Call `generate` for each condition, with its seed."
        )
    prompt, conditions = one_prompt(model, prompt), list(conditions)
    total, budget = prompt.n_pos + decoding.max_new_tokens - 1, decoding.memory_budget
    if decoding.draft:
        model.embedded_tokens(torch.tensor([decoding.draft]))  # refuses unknown tokens
    captions: dict[int, Generation] = {}
    for batch in batches(model, prompt, conditions, total, len(decoding.draft) or 1, budget):
        logits, cache = batch.start(model, prompt, total)
        if isinstance(cache, SharedPrefix):
            made = row_captions(model, prompt, batch, logits, cache, decoding)
        else:
            with model.hooks(batch.row_hooks(model, cache)):
                made = [decode(model, prompt, logits, cache, decoding)]
        captions |= dict(zip(batch.members, made, strict=True))
    apart = [i for i, made in captions.items() if made.draft_logprobs is None]
    if decoding.score_draft and apart:
        known = torch.tensor(decoding.draft)
        scores = score(model, prompt, known, [conditions[i] for i in apart], budget)
        for i, logprobs in zip(apart, scores, strict=True):
            captions[i] = replace(captions[i], draft_logprobs=logprobs)
    return [captions[i] for i in range(len(conditions))]
