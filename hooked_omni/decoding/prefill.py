"""Can many captions, scores and readings start from one pass over a prompt?

    prompt = prefill(model, prompt)
    captions = model.generate_many(prompt, sweep)                # no pass over the prompt
    scores = model.score(prompt, captions[0].tokens, sweep)      # none here either

A prefilled prompt carries what one model's pass over it left: keys and values, and the activations
that were named. What acts on the prompt itself still makes a pass of its own, as does another
model.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.adapters import settings
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.hooked_runs import Input
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.errors import HookError, PromptError
from hooked_omni.fingerprint import model_hash, tensor_hash
from hooked_omni.hooks.activation_cache import ActivationCache, Keep
from hooked_omni.hooks.interventions import Hook, NamesFilter, reaches
from hooked_omni.hooks.turns import in_turn
from hooked_omni.inputs.prompt import EmbeddedPrompt

Final = Float[Tensor, "1 1 d_model"]


@dataclass(frozen=True, eq=False)
class PrefillState:
    """What one model's pass over a prompt left."""

    model: HookedDecoder
    keys_values: KeyValueCache  # of every position
    final: Final  # what is unembedded at the last position
    activations: ActivationCache  # of the named hook points, at the positions in `kept`
    kept: Mapping[str, Int[Tensor, " kept"]]  # positions by hook name
    made_of: str  # hash of the model, and of the prompt's tensors

    def holds(self, wanted: Mapping[str, Int[Tensor, " n"]]) -> bool:
        """Whether `activations` has all these names at these positions."""
        return all(
            name in self.kept and bool(torch.isin(positions, self.kept[name]).all())
            for name, positions in wanted.items()
        )

    def rows(self, name: str, positions: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Where `activations[name]` has these positions, which it holds."""
        return torch.searchsorted(self.kept[name], positions)


@dataclass(frozen=True, eq=False, repr=False)
class PrefilledPrompt(EmbeddedPrompt):
    """A prompt with what one model's pass over it left (`state`, None for none); see `prefill`.

    Copies by `to` and `dataclasses.replace` carry nothing of it. It is not used after an edit in
    place of the prompt, nor once any number of the model is another: each use hashes both, which
    takes about as long as reading the weights once, as a new token does; see `unedited`.
    """

    state: PrefillState | None = field(init=False, default=None, repr=False)


@in_turn
@torch.no_grad()
def prefill(
    model: HookedDecoder,
    prompt: Input,
    names_filter: NamesFilter | Mapping[str, str | None] = None,
    span: str | None = None,
    like: PrefilledPrompt | None = None,
) -> PrefilledPrompt:
    """Make the pass over a prompt, and keep what it leaves with the prompt.

    While hooks stand on the model, or PyTorch's own on a module of it, no pass is made here, since
    what they edit must not outlive them: each caption of this prompt makes its own.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text. One that is prefilled is returned if it
            holds what is wanted, and was not edited in place since.
        names_filter: Hook points whose activations to keep, as in `run_with_cache`, but None for
            none; or from each name to a span of its own (None for all positions).
        span: At which positions to keep them, such as "audio" or "audio+last"; None for all.
        like: Another prompt, prefilled. Its keys and values are taken up to the first position at
            which the two differ: equal to rounding. With padding or windows, a pass that would
            share less than a quarter of the prompt is no faster, and made as a whole.

    Raises:
        HookError: For a name that no live hook point has; or for names together with `like`, whose
            earlier positions this pass does not see.
        PromptError: For a batch of prompts.
        SpanError: For a span that is not in the prompt.
    """
    prompt = one_prompt(model, prompt)
    kept = _kept(model, prompt, names_filter, span)
    if kept and like is not None:
        raise HookError(
            f"expected no activations to keep of a prompt that is `like` another, got {len(kept)}: "
            "the pass does not see the positions they share. Leave out one of the two."
        )
    before = _of_model(model, prompt)
    if isinstance(prompt, PrefilledPrompt) and before is not None and before.holds(kept):
        return prompt
    prefilled = PrefilledPrompt(**{f.name: getattr(prompt, f.name) for f in fields(EmbeddedPrompt)})
    if not hooked(model):
        object.__setattr__(prefilled, "state", _pass(model, prompt, kept, like))
    return prefilled


def _kept(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    names_filter: NamesFilter | Mapping[str, str | None],
    span: str | None,
) -> dict[str, Int[Tensor, " kept"]]:
    """By hook name, the positions to keep."""
    if names_filter is None:
        return {}
    if isinstance(names_filter, Mapping):
        spans = dict(names_filter)
        model.filtered(list(spans))
    else:
        spans = dict.fromkeys(model.filtered(names_filter), span)
    every = torch.arange(prompt.n_pos)
    return {name: every if at is None else prompt.spans[at] for name, at in spans.items()}


def _pass(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    kept: Mapping[str, Int[Tensor, " kept"]],
    like: PrefilledPrompt | None,
) -> PrefillState:
    first, cache = begun(model, prompt, like, prompt.n_pos)
    window, activations = range(first, prompt.n_pos), {}
    hooks: list[Hook] = [
        (name, Keep(activations, None, at if len(at) < prompt.n_pos else None))
        for name, at in kept.items()
    ]
    made_of = _made_of(model, prompt)
    with model.hooks(hooks):
        context = model.context(prompt, window, cache)
        final = model.run_pass(prompt.embeds[:, first:], context, window)
    kept_cache = ActivationCache(activations, model)
    return PrefillState(model, cache, final[:, -1:].clone(), kept_cache, dict(kept), made_of)


def begun(
    model: HookedDecoder, prompt: EmbeddedPrompt, like: PrefilledPrompt | None, capacity: int
) -> tuple[int, KeyValueCache]:
    """How many first positions are those of `like`, and a cache that has them."""
    before = None if like is None else prefill_state(model, like)
    first = 0 if like is None or before is None else _first_difference(model, prompt, like)
    # A mask, other than the kernel's own, skips no work: of few positions less nothing is saved.
    masked = model.cfg.windows or not bool(_mask(prompt).all())
    first = 0 if masked and first < prompt.n_pos // 4 else first
    if before is None or not first:
        return 0, KeyValueCache(model.cfg, 1, capacity)
    return first, _grown(model, before.keys_values, first, capacity)


def one_prompt(model: HookedDecoder, prompt: Input) -> EmbeddedPrompt:
    """`prompt` as this decoder's input, if it is one and no hook needs gradients."""
    if model.has_backward_hooks():
        raise HookError(
            "expected a model without backward hooks, got some: captions and scores have no "
            "gradients. Use `model(prompt)`, or `model.reset_hooks()`."
        )
    prompt = model.as_prompt(prompt)
    if prompt.embeds.shape[0] != 1:
        raise PromptError(
            f"expected one prompt, got a batch of {prompt.embeds.shape[0]}. Embed and caption "
            "prompts one at a time; `generate_many` batches conditions, not prompts."
        )
    return prompt


def prefill_state(model: HookedDecoder, prompt: EmbeddedPrompt) -> PrefillState | None:
    """What this model's pass over the prompt left; None once hooks stand, or after an edit."""
    return None if hooked(model) else _of_model(model, prompt)


def _of_model(model: HookedDecoder, prompt: EmbeddedPrompt) -> PrefillState | None:
    """What this model's pass over the prompt as it is now left."""
    state = prompt.state if isinstance(prompt, PrefilledPrompt) else None
    if state is None or state.model is not model:
        return None
    return state if state.made_of == _made_of(model, prompt) else None


def hooked(model: HookedDecoder) -> bool:
    """Whether any hook stands on it, PyTorch's own included."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def _made_of(model: HookedDecoder, prompt: EmbeddedPrompt) -> str:
    """Hash of all that a pass reads."""
    read = (prompt.embeds, prompt.position_ids, prompt.mask, prompt.deepstack)
    tensors = [t if t is None else tensor_hash(t) for t in (*read, *model.rotary.inv_freqs)]
    # Which adapters act, and how much, is in no tensor.
    return model_hash({"decoder": model}, repr((model.cfg, tensors, settings(model))))


def prompt_pass(
    model: HookedDecoder, prompt: EmbeddedPrompt, hooks: Iterable[Hook], n_pos: int, capacity: int
) -> tuple[Final, KeyValueCache]:
    """What is unembedded at position `n_pos - 1`, and keys and values up to there.

    Nothing that a prefilled prompt holds is computed, and its cache may hold the whole prompt; a
    new one has room for `capacity` positions. Hooks that act elsewhere are left out.
    """
    window = range(n_pos)
    # A hook for generated positions alone would open the prompt's attention for nothing.
    acting = [hook for hook in hooks if reaches(hook, window)]
    state = None if acting else prefill_state(model, prompt)
    if state is not None:
        cache = state.keys_values
        enough = capacity <= prompt.n_pos
        return state.final, cache if enough else _grown(model, cache, n_pos, capacity)
    cache = KeyValueCache(model.cfg, 1, capacity)
    with model.hooks(acting):
        context = model.context(prompt, window, cache)
        final = model.run_pass(prompt.embeds[:, :n_pos], context, window)
    return final[:, -1:], cache


def _first_difference(model: HookedDecoder, prompt: EmbeddedPrompt, like: EmbeddedPrompt) -> int:
    """How many first positions of two prompts are embedded the same; never all of them."""
    n = min(prompt.n_pos, like.n_pos) - 1
    sides = [
        [p.embeds[0, :n], p.position_ids[:, 0, :n].T, _mask(p)[:n, None], *_added(p, n)]
        for p in (prompt, like)
    ]
    limit = math.inf if model.cfg.rope_limit is None else model.cfg.rope_limit
    beyond = {bool(p.position_ids.max() >= limit) for p in (prompt, like)}
    if len(sides[0]) != len(sides[1]) or len(beyond) > 1:  # they turn by other frequencies
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


def _grown(model: HookedDecoder, cache: KeyValueCache, n_pos: int, capacity: int) -> KeyValueCache:
    grown = KeyValueCache(model.cfg, 1, capacity)
    for ours, theirs in ((grown.keys, cache.keys), (grown.values, cache.values)):
        for wide, kept in zip(ours, theirs, strict=True):
            wide[:, :, :n_pos] = kept[:, :, :n_pos]
    return grown
