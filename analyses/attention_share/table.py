"""Which share of its attention does each generated position pay to each segment?"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attention_share.shares import forced_shares
from analyses.attention_share.sinks import SinkWatch
from analyses.cases import Case, Cases, Skip, embedded, plain_answer, tabulate
from analyses.configs import MODALITIES
from analyses.configs import AttentionShareConfig as Config
from analyses.text.pieces import pieces, words
from hooked_omni import EmbeddedPrompt, HookedOmni
from hooked_omni.decoding.prefill import prefill

COLUMNS = (
    *("layer", "head", "step", "token_text", "next_word", "segment"),
    *("share", "percent", "per_key", "n_keys", "n_queries", "answer", "ended"),
)

Shares = dict[str, Float[Tensor, "query layer head"]]


def run(omni: HookedOmni, cases: Cases, config: Config = Config()) -> pd.DataFrame:
    """Share of attention per sample, layer and segment; per head and per token on request.

    The queries are the generated positions: all new tokens but the last, which no pass reads. The
    last prompt position, at which the first new token is chosen, is not one of them.

    Returns:
        One row per case, layer, segment of the prompt, and head and step on request, with

        * `sample`, `kind`, `question`: the case.
        * `layer`; `head` (missing for the mean over heads).
        * `step`: index of the generated position that attends, 0 for the first new token (missing
          for the mean); `token_text`: the text of the token there; `next_word`: the word whose next
          token is predicted there, so that "what does 'siren' attend to" is
          `table[table["next_word"] == "siren"]`.
        * `segment`: one of `config.segments`, or "sink".
        * `share`: of all attention, 0 to 1.
        * `percent`: of the attention on audio, video, images and text, of which a clip has the
          paper's 100 %; only of segments in the prompt, missing for "generated" and "sink".
        * `per_key`: share divided by the segment's part of all keys that may be read at that step;
          uniform attention is 1. Missing where there is no key.
        * `n_keys`: tokens of the segment in the prompt; 0 for "generated".
        * `n_queries`: generated positions in the mean, or 1.
        * `answer`: its text; `ended`: whether the model ended it, rather than the limit.

        A clip without sound has no rows for audio. An answer of one token is skipped.
    """
    table = tabulate(omni, lambda case: _rows(omni, case, config), cases, COLUMNS)
    return table.astype({"head": "Int64", "step": "Int64"})


def _rows(omni: HookedOmni, case: Case, config: Config) -> Iterator[dict[str, Any]]:
    prompt = prefill(omni.model, embedded(omni, case), SinkWatch.at(omni.model))
    segments = [s for s in config.segments if s == "generated" or s in prompt.spans]
    measured = tuple(dict.fromkeys([*segments, *(s for s in MODALITIES if s in prompt.spans)]))
    answer = plain_answer(omni, case, prompt, config.max_new_tokens)
    if len(answer.tokens) < 2:
        raise Skip(
            f"expected an answer of two tokens or more, got {answer.text!r}: no generated position "
            "attends to anything."
        )
    watch = SinkWatch(omni.model, prompt) if config.sinks == "apart" else None
    hooks = [] if watch is None else watch.hooks()
    shares = forced_shares(omni.model, prompt, answer.tokens, measured, hooks)
    n_keys = {s: len(prompt.spans[s]) if s in prompt.spans else 0 for s in measured}
    if watch is not None:
        _take_out_sinks(watch, prompt, shares, n_keys)
        segments.append("sink")
    n_prompt = prompt.n_pos if prompt.mask is None else int((prompt.mask != 0).sum())
    read, tokenizer = pieces(omni.model.tokenizer, answer.tokens.tolist()), omni.model.tokenizer
    following = [""] * len(read) if tokenizer is None else words(read)
    texts = list(zip(read[:-1], following[1:], strict=True))  # at each query, and what follows
    for row in _measures(shares, n_keys, segments, n_prompt, config):
        text, word = (None, None) if row["step"] is None else texts[row["step"]]
        yield row | dict(token_text=text, next_word=word, answer=answer.text, ended=answer.ended)


def _take_out_sinks(
    watch: SinkWatch, prompt: EmbeddedPrompt, shares: Shares, n_keys: dict[str, int]
) -> None:
    sinks, paid = watch.sinks(), watch.paid().double()
    for segment in [s for s in shares if s in prompt.spans]:
        inside = torch.isin(sinks, prompt.spans[segment])
        shares[segment] = shares[segment] - paid[..., inside].sum(-1)
        n_keys[segment] -= int(inside.sum())
    shares["sink"], n_keys["sink"] = paid.sum(-1), len(sinks)


def _measures(
    shares: Shares, n_keys: dict[str, int], segments: list[str], n_prompt: int, config: Config
) -> Iterator[dict[str, Any]]:
    whole = torch.stack([shares[s] for s in MODALITIES if s in shares]).sum(0)
    n_queries, n_layers, n_heads = whole.shape
    own = torch.arange(1, n_queries + 1).double()  # a query reads itself too
    steps: list[int | None] = list(range(n_queries)) if config.tokens else [None]
    heads: list[int | None] = list(range(n_heads)) if config.heads else [None]
    reduced = [0] * (not config.tokens) + [2] * (not config.heads)
    for segment in segments:
        keys = own if segment == "generated" else torch.full_like(own, n_keys[segment])
        per_key = shares[segment] * ((n_prompt + own) / keys)[:, None, None]
        share, per_key, of = (
            t.mean(reduced, keepdim=True) if reduced else t
            for t in (shares[segment], per_key, whole)
        )
        in_prompt = segment not in ("generated", "sink")
        percent = 100 * share / of if in_prompt else torch.full_like(share, torch.nan)
        columns = dict(share=share.tolist(), percent=percent.tolist(), per_key=per_key.tolist())
        for q, step in enumerate(steps):
            for layer in range(n_layers):
                for h, head in enumerate(heads):
                    yield dict(
                        layer=layer,
                        head=head,
                        step=step,
                        segment=segment,
                        **{name: column[q][layer][h] for name, column in columns.items()},
                        n_keys=n_keys.get(segment, 0),
                        n_queries=n_queries if step is None else 1,
                    )
