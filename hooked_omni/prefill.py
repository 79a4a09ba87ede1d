"""Can many captions and scores start behind one pass over a prompt?

    prompt = prefill(model, prompt)
    captions = model.generate_many(prompt, sweep)           # no pass over the prompt
    scores = model.score_many(prompt, captions[0].tokens, sweep)       # none here either

A prefilled prompt is a prompt that carries its keys and values. What acts on the prompt itself
still makes a pass of its own, and so does another model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.cache import KeyValueCache
from hooked_omni.errors import PromptError
from hooked_omni.interventions import Hook, reaches
from hooked_omni.prompt import EmbeddedPrompt

if TYPE_CHECKING:
    from hooked_omni.transformer import HookedTransformer

__all__ = ["PrefilledPrompt", "prefill", "prompt_pass"]

Final = Float[Tensor, "1 pos d_model"]


@dataclass(frozen=True, eq=False)
class PrefilledPrompt(EmbeddedPrompt):
    """A prompt with the keys and values that one model has for it; made by `prefill`.

    Copies by `to` and `dataclasses.replace` carry none: they may be other prompts. Weights that
    are changed in place afterwards are not noticed: prefill again.

    Attributes:
        passed: The model whose pass this was, its cache, and what it unembeds at the last position.
    """

    passed: tuple[Any, KeyValueCache, Final] | None = field(init=False, default=None, repr=False)


@torch.no_grad()
def prefill(
    model: "HookedTransformer",
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    like: PrefilledPrompt | None = None,
) -> PrefilledPrompt:
    """Make the pass over a prompt, and keep its keys and values with it.

    Args:
        model: The decoder. Hooks that stand on it may read, as in `with model.hooks([...])`.
        prompt: An embedded prompt, or tokens of plain text. One that is prefilled is returned.
        like: Another prompt, prefilled. Its keys and values are taken up to the first position at
            which the two differ: equal to rounding, since later positions change no earlier ones.

    Raises:
        PromptError: For a batch of prompts.
        HookError: If a standing hook's edit made a NaN.
    """
    prompt = model.as_prompt(prompt)
    if isinstance(prompt, PrefilledPrompt) and prompt.passed and prompt.passed[0] is model:
        return prompt
    if prompt.embeds.shape[0] != 1:
        raise PromptError(f"expected one prompt, got a batch of {prompt.embeds.shape[0]}.")
    own = {f.name: getattr(prompt, f.name) for f in fields(EmbeddedPrompt)}
    prefilled = PrefilledPrompt(**own)
    first = 0 if like is None else _first_difference(model, prompt, like)
    if like is None or like.passed is None or not first:
        cache = KeyValueCache(model.cfg, 1, prompt.n_pos)
    else:
        cache = _grown(model, like.passed[1], first, prompt.n_pos)
    window = range(first, prompt.n_pos)
    embeds = prompt.embeds[:, first:]
    final = model.run_pass(embeds, model.context(prompt, window, cache), window)
    object.__setattr__(prefilled, "passed", (model, cache, final[:, -1:].clone()))
    return prefilled


def prompt_pass(
    model: "HookedTransformer",
    prompt: EmbeddedPrompt,
    hooks: Iterable[Hook],
    n_pos: int,
    capacity: int,
) -> tuple[Final, KeyValueCache]:
    """What is unembedded at the last position that was passed over, and a cache behind `n_pos`.

    Args:
        model: The decoder.
        prompt: One prompt. If it is prefilled, nothing is computed that is known.
        hooks: Those that act on other positions alone are left out.
        n_pos: How much of the prompt to pass over, at least.
        capacity: Positions that the cache must have room for, the prompt's included.
    """
    window = range(n_pos)
    # A hook for generated positions alone would open the prompt's attention for nothing.
    acting = [hook for hook in hooks if reaches(hook, window)]
    passed = prompt.passed if isinstance(prompt, PrefilledPrompt) else None
    if passed is not None and passed[0] is model and not acting and not model.active_hooks():
        _, cache, final = passed
        return final, cache if capacity <= prompt.n_pos else _grown(model, cache, n_pos, capacity)
    cache = KeyValueCache(model.cfg, 1, capacity)
    with model.hooks(acting):
        context = model.context(prompt, window, cache)
        final = model.run_pass(prompt.embeds[:, :n_pos], context, window)
    return final[:, -1:], cache


def _first_difference(
    model: "HookedTransformer", prompt: EmbeddedPrompt, like: PrefilledPrompt
) -> int:
    """How many positions of two prompts are the same, at the door; never all of them."""
    if like.passed is None or like.passed[0] is not model or model.active_hooks():
        return 0
    n = min(prompt.n_pos, like.n_pos) - 1
    sides = [
        [p.embeds[0, :n], p.positions[:, 0, :n].T, _mask(p)[:n, None], *_added(p, n)]
        for p in (prompt, like)
    ]
    if len(sides[0]) != len(sides[1]):
        return 0
    differs = torch.zeros(n, dtype=torch.bool, device=prompt.embeds.device)
    for ours, theirs in zip(*sides, strict=True):
        differs |= (ours != theirs).any(-1)
    found = differs.nonzero()
    return int(found[0]) if len(found) else n


def _mask(prompt: EmbeddedPrompt) -> Int[Tensor, " pos"]:
    return torch.ones_like(prompt.tokens[0]) if prompt.mask is None else prompt.mask[0]


def _added(prompt: EmbeddedPrompt, n: int) -> list[Float[Tensor, "pos width"]]:
    """What is added to these positions inside the decoder."""
    if prompt.deepstack is None:
        return []
    return [prompt.deepstack[:, 0, :n].transpose(0, 1).flatten(1)]


def _grown(
    model: "HookedTransformer", cache: KeyValueCache, n_pos: int, capacity: int
) -> KeyValueCache:
    grown = KeyValueCache(model.cfg, 1, capacity)
    for ours, theirs in ((grown.keys, cache.keys), (grown.values, cache.values)):
        for wide, kept in zip(ours, theirs, strict=True):
            wide[:, :, :n_pos] = kept[:, :, :n_pos]
    return grown
