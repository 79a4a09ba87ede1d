"""What does the model answer under each of many conditions?

A condition is a list of hooks or interventions. All that act on generated positions alone share one
pass over the prompt (none, if it is prefilled) and decode as one batch, each row with its own
hooks; `conditions.py` says which share what. A condition alone in its group runs as `generate`
does, to the bit.
"""

from collections.abc import Iterable

import torch

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.conditions import batches
from hooked_omni.decoding.generate import Decoding, Generation, decode
from hooked_omni.decoding.prefill import one_prompt
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
    total = prompt.n_pos + decoding.max_new_tokens - 1
    captions: dict[int, Generation] = {}
    for batch in batches(model, prompt, conditions, total, 1, decoding.memory_budget):
        logits, cache = batch.start(model, prompt, total)
        rows = list(range(len(batch.members)))
        with model.hooks(batch.row_hooks(model, rows, cache)):
            made = decode(model, prompt, logits, cache, decoding, rows)
        captions |= dict(zip(batch.members, made, strict=True))
    return [captions[i] for i in range(len(conditions))]
