"""What does the model answer?

Decoding with cached keys and values, greedy or sampled. A position after the prompt gets the rotary
position that `generate` of transformers gives it, and hooks fire at every step.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.decoder.shared_prefix import SharedPrefix
from hooked_omni.decoding.prefill import one_prompt, prompt_pass
from hooked_omni.decoding.sampling import Sampling, with_sampling
from hooked_omni.errors import PromptError
from hooked_omni.hooks.interventions import Condition, as_hooks
from hooked_omni.hooks.turns import in_turn
from hooked_omni.inputs.prompt import EmbeddedPrompt


@dataclass(frozen=True)
class Decoding:
    """How captions are made.

    Attributes:
        max_new_tokens: At most this many in each caption.
        stop_at_eos: End a caption with the first of `model.cfg.eos_tokens`.
        return_logits: Keep the logits of each new token.
        memory_budget: Bytes for the keys, values and activations of a sweep's rows; splits the
            batch. None for no limit.
        sampling: How tokens are drawn; None for the most likely one.
    """

    max_new_tokens: int = 64
    stop_at_eos: bool = True
    return_logits: bool = False
    memory_budget: int | None = None
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if (n := self.max_new_tokens) < 1:
            raise PromptError(
                f"expected max_new_tokens=1 or more, got max_new_tokens={n}. Raise it."
            )


def with_settings(decoding: Decoding | None, settings: Mapping[str, Any]) -> Decoding:
    """`decoding`, or the default one, with single settings changed."""
    names = [f.name for f in fields(Decoding)]
    settings = with_sampling(settings)
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
            raise PromptError(
                f"expected settings among {names}, got {name!r}. Closest is {near!r}."
            )
    if not isinstance(decoding, Decoding | None):
        raise PromptError(
            f"expected a Decoding, got {decoding!r}. Name single settings: `max_new_tokens=32`."
        )
    return replace(decoding or Decoding(), **settings)


@dataclass(frozen=True, eq=False)
class Generation:
    """A caption.

    Attributes:
        tokens: New tokens, the end token included if it came.
        text: `tokens` without special ones; None for a model without a tokenizer.
        logits: What each new token was chosen from, with `return_logits`.
    """

    tokens: Int[Tensor, " n"]
    text: str | None
    logits: Float[Tensor, "n d_vocab"] | None = None


@in_turn
@torch.no_grad()
def generate(
    model: HookedDecoder, prompt: Input, decoding: Decoding = Decoding(), fwd_hooks: Condition = ()
) -> Generation:
    """Caption of one prompt; arguments and errors as `HookedTransformer.generate`."""
    prompt = one_prompt(model, prompt)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    total = prompt.n_pos + decoding.max_new_tokens - 1
    model.require_runnable([*model.active_hooks(), *hooks], range(total), prompt.spans)
    final, cache = prompt_pass(model, prompt, hooks, prompt.n_pos, total)
    with model.hooks(hooks):
        return decode(model, prompt, model.logits_of(final)[:, -1], cache, decoding, [0])[0]


def decode(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    logits: Float[Tensor, "row d_vocab"],
    cache: KeyValueCache | SharedPrefix,
    decoding: Decoding,
    rows: list[int],
) -> list[Generation]:
    """Captions of rows from their first `logits` and a `cache` with room for them.

    Rows (0, 1, ...) whose caption has ended are taken out of `rows`.
    """
    ends = set(model.cfg.eos_tokens) if decoding.stop_at_eos else set()
    tokens: list[list[int]] = [[] for _ in rows]
    kept: list[list[Tensor]] = [[] for _ in rows]
    sampling = decoding.sampling
    generator = None if sampling is None else sampling.generator(logits.device)
    for step in range(decoding.max_new_tokens):
        if sampling is None or generator is None:
            chosen = logits.argmax(-1)
        else:
            chosen = sampling.choose(logits, generator)
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            tokens[row].append(token)
            if decoding.return_logits:
                kept[row].append(logits[i].clone())
        going = [i for i, row in enumerate(rows) if tokens[row][-1] not in ends]
        if not going or step + 1 == decoding.max_new_tokens:
            break
        chosen, rows[:] = chosen[going], [rows[i] for i in going]
        if isinstance(cache, SharedPrefix):
            cache.advance(going, chosen.tolist())
        window = range(prompt.n_pos + step, prompt.n_pos + step + 1)
        context = model.context(prompt, window, cache)
        final = model.run_pass(model.embed(chosen[:, None]), context, window)
        logits = model.logits_of(final)[:, -1]
    return [
        Generation(
            tokens=torch.tensor(own, dtype=torch.long),
            text=_text(model, own),
            logits=torch.stack(from_logits) if decoding.return_logits else None,
        )
        for own, from_logits in zip(tokens, kept, strict=True)
    ]


def _text(model: HookedDecoder, tokens: Sequence[int]) -> str | None:
    """`tokens` without special ones; None for a model without a tokenizer."""
    if model.tokenizer is None:
        return None
    return model.tokenizer.decode(list(tokens), skip_special_tokens=True)
