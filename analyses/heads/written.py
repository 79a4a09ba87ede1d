"""What would a head write, if it read this second of sound?"""

from typing import Any

import pandas as pd
import torch

from analyses.text.pieces import pieces
from hooked_omni import HookedTransformer
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoding.lens import lens_logits
from hooked_omni.decoding.prefill import prefill, prefill_state
from hooked_omni.errors import HookError, ResultsError


@torch.no_grad()
def ov_lens(
    model: HookedTransformer, prompt: Input, layer: int, head: int, span: str, top_k: int = 5
) -> pd.DataFrame:
    """The likeliest words of what a head would write, were it to read one position alone.

    ```python
    ov_lens(model, prompt, layer=4, head=3, span="audio@3.0-4.0s")
    ```

    A position's value goes through the head's output weights, the final norm and the unembedding.

    Returns:
        A row per position of `span` and rank from 1: `position`, `rank`, `token_text`, and
        `logprob`, in nats.

    Raises:
        HookError: For a layer or head that the model lacks, or while hooks stand on it.
        ResultsError: For fewer than one word.
        SpanError: For a span that is not in the prompt.
    """
    cfg = model.cfg
    if not (0 <= layer < cfg.n_layers and 0 <= head < cfg.n_heads):
        raise HookError(
            f"expected a head of {cfg.n_layers} layers of {cfg.n_heads}, got {layer}.{head}. Both "
            "count from 0."
        )
    if not 1 <= top_k <= cfg.d_vocab:
        raise ResultsError(f"expected 1 to {cfg.d_vocab} words, got {top_k}.")
    prefilled = prefill(model, prompt)
    if (state := prefill_state(model, prefilled)) is None:
        raise HookError(
            "expected a model without hooks, whose values are its own, got some. Call "
            "`model.reset_hooks()` first."
        )
    where = prefilled.spans[span]
    values = state.keys_values.values[layer][0, head // (cfg.n_heads // cfg.n_key_value_heads)]
    attn: Any = model.blocks[layer].attn
    written = values[where.to(values.device)] @ attn.W_O[head]
    best = lens_logits(model, written).float().log_softmax(-1).topk(top_k)
    rows = [
        dict(position=position, rank=rank, token_text=text, logprob=logprob)
        for position, tokens, logprobs in zip(
            where.tolist(), best.indices.tolist(), best.values.tolist(), strict=True
        )
        for rank, (text, logprob) in enumerate(
            zip(pieces(model.tokenizer, tokens), logprobs, strict=True), start=1
        )
    ]
    return pd.DataFrame(rows)
