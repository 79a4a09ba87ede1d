"""What does the model answer?

Decoding with cached keys and values, greedy or sampled. A position after the prompt gets the rotary
position that `generate` of transformers gives it, and hooks fire at every step.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoder.key_value_cache import KeyValueCache
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
        draft: In a sweep, the tokens of a caption that is known, such as the plain one: rows that
            agree with it take them from a few passes, the others go on from where they part.
        score_draft: Return `draft_logprobs`.
    """

    max_new_tokens: int = 64
    stop_at_eos: bool = True
    return_logits: bool = False
    memory_budget: int | None = None
    sampling: Sampling | None = None
    draft: tuple[int, ...] = ()
    score_draft: bool = False

    def __post_init__(self) -> None:
        if (n := self.max_new_tokens) < 1:
            raise PromptError(
                f"expected max_new_tokens=1 or more, got max_new_tokens={n}. Raise it."
            )
        if len(self.draft) > n or (self.score_draft and not self.draft):
            raise PromptError(
                f"expected a draft of at most {n} tokens, and of one if it is scored, got "
                f"{len(self.draft)}. Cut it off, or raise max_new_tokens."
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
    if isinstance(draft := settings.get("draft"), torch.Tensor):  # as captions have it
        settings = {**settings, "draft": tuple(draft.tolist())}
    return replace(decoding or Decoding(), **settings)


@dataclass(frozen=True, eq=False)
class Generation:
    """A caption.

    Attributes:
        tokens: New tokens, the end token included if it came.
        text: `tokens` without special ones; None for a model without a tokenizer.
        logits: What each new token was chosen from, with `return_logits`.
        draft_logprobs: Of each token of the draft, as `score` gives them, with `score_draft`.
        ended: Whether an end token came, rather than the limit.
    """

    tokens: Int[Tensor, " n"]
    text: str | None
    logits: Float[Tensor, "n d_vocab"] | None = None
    draft_logprobs: Float[Tensor, " draft"] | None = None
    ended: bool = True

    def __repr__(self) -> str:
        cut = "" if self.ended else ", cut off by the limit"
        return f"Generation({self.text!r}, {len(self.tokens)} tokens{cut})"


@in_turn
@torch.no_grad()
def generate(
    model: HookedDecoder, prompt: Input, decoding: Decoding = Decoding(), fwd_hooks: Condition = ()
) -> Generation:
    """Caption of one prompt; arguments and errors as `HookedTransformer.generate`."""
    if decoding.draft:
        raise PromptError("expected a draft in a sweep alone, got one. Use `generate_many`.")
    prompt = one_prompt(model, prompt)
    hooks = as_hooks(fwd_hooks, prompt.spans)
    total = prompt.n_pos + decoding.max_new_tokens - 1
    model.require_runnable([*model.active_hooks(), *hooks], range(total), prompt.spans)
    final, cache = prompt_pass(model, prompt, hooks, prompt.n_pos, total)
    with model.hooks(hooks):
        return decode(model, prompt, model.logits_of(final)[:, -1], cache, decoding)


def decode(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    logits: Float[Tensor, "1 d_vocab"],
    cache: KeyValueCache,
    decoding: Decoding,
) -> Generation:
    """A caption from its first `logits` and a `cache` with room for it."""
    ends = end_tokens(model, decoding)
    tokens: list[int] = []
    kept: list[Tensor] = []
    sampling = decoding.sampling
    generator = None if sampling is None else sampling.generator(logits.device)
    for step in range(decoding.max_new_tokens):
        if sampling is None or generator is None:
            chosen = logits.argmax(-1)
        else:
            chosen = sampling.choose(logits, generator)
        tokens.append(int(chosen))
        kept += [logits[0].clone()] if decoding.return_logits else []
        if tokens[-1] in ends or step + 1 == decoding.max_new_tokens:
            break
        window = range(prompt.n_pos + step, prompt.n_pos + step + 1)
        context = model.context(prompt, window, cache)
        final = model.run_pass(model.embed(chosen[:, None]), context, window)
        logits = model.logits_of(final)[:, -1]
    return generation(model, tokens, kept)


def end_tokens(model: HookedDecoder, decoding: Decoding) -> set[int]:
    """The tokens that end a caption."""
    return set(model.cfg.eos_tokens) if decoding.stop_at_eos else set()


def generation(
    model: HookedDecoder, tokens: list[int], logits: list[Tensor], scores: Tensor | None = None
) -> Generation:
    """A caption with its text; no `logits` if none were kept."""
    text = None
    if model.tokenizer is not None:
        text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    kept = torch.stack(logits) if logits else None
    ended = tokens[-1] in model.cfg.eos_tokens
    return Generation(torch.tensor(tokens, dtype=torch.long), text, kept, scores, ended)
