"""Can many captions, scores and readings start behind one pass over a prompt?

    prompt = prefill(model, prompt, residuals="audio")
    captions = model.generate_many(prompt, sweep)           # no pass over the prompt
    scores = model.score_many(prompt, captions[0].tokens, sweep)       # none here either
    read = read_lens(model, prompt, "audio")                # nor here

A prefilled prompt is a prompt that carries what one model's pass over it left: keys and values, and
residual streams that were asked for. It also remembers its plain captions. What acts on the prompt
itself still makes a pass of its own, and so does another model.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.decoder.decoder import HookedDecoder
from hooked_omni.decoder.key_value_cache import KeyValueCache
from hooked_omni.errors import PromptError
from hooked_omni.hooks.hook_point import LiveHook
from hooked_omni.hooks.interventions import Hook, reaches
from hooked_omni.inputs.prompt import EmbeddedPrompt

__all__ = ["PrefillState", "PrefilledPrompt", "prefill", "prefill_state", "prompt_pass"]

Final = Float[Tensor, "1 1 d_model"]


@dataclass(frozen=True, eq=False)
class PrefillState:
    """What one model's pass over a prompt left.

    Attributes:
        model: Whose pass it was.
        cache: Keys and values of every position.
        final: What is unembedded at the last position.
        norms: Of the residual stream before every block, float32.
        kept: SpanPositions of `residuals`.
        residuals: The residual stream behind every block at these positions.
        marks: Of the prompt's tensors as they were passed over: versions, or copies where PyTorch
            counts none (inference mode).
        said: Tokens of plain captions, by how many were asked for and which tokens end one.
    """

    model: Any
    cache: KeyValueCache
    final: Final
    norms: Float[Tensor, "layer pos"]
    kept: Int[Tensor, " kept"]
    residuals: Float[Tensor, "layer kept d_model"]
    marks: tuple[int | Tensor, ...]
    said: dict[tuple[int, frozenset[int]], tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PrefilledPrompt(EmbeddedPrompt):
    """A prompt with what one model's pass over it left; made by `prefill`.

    Copies by `to` and `dataclasses.replace` carry nothing of it: they may be other prompts. Nor is
    anything used of it behind an edit in place of the prompt. Weights that are changed in place
    afterwards are not noticed: prefill again.

    Attributes:
        passed: What the pass left; None if none was made.
    """

    passed: PrefillState | None = field(init=False, default=None, repr=False)


@torch.no_grad()
def prefill(
    model: HookedDecoder,
    prompt: EmbeddedPrompt | Int[Tensor, "1 pos"],
    like: PrefilledPrompt | None = None,
    residuals: str | None = None,
) -> PrefilledPrompt:
    """Make the pass over a prompt, and keep what it leaves with the prompt.

    While hooks stand on the model, or PyTorch's own on a module of it, no pass is made here, since
    what they edit must not outlive them: each caption behind this prompt makes its own, as behind
    any other.

    Args:
        model: The decoder.
        prompt: An embedded prompt, or tokens of plain text. One that is prefilled is returned,
            unless it was edited in place since.
        like: Another prompt, prefilled. Its keys and values are taken up to the first position at
            which the two differ: equal to rounding, since later positions change no earlier ones.
            Where that is less than a quarter of the prompt, the whole pass is no slower, and made.
        residuals: A span, such as "audio" or "audio+last", at which to keep the residual stream
            behind every block for `read_lens`. None are kept of a prompt that is partly `like`.

    Raises:
        PromptError: For a batch of prompts.
        SpanError: For a span that is not in the prompt.
    """
    prompt = model.as_prompt(prompt)
    if isinstance(prompt, PrefilledPrompt) and _of_model(model, prompt) is not None:
        return prompt
    if prompt.embeds.shape[0] != 1:
        raise PromptError(f"expected one prompt, got a batch of {prompt.embeds.shape[0]}.")
    own = {f.name: getattr(prompt, f.name) for f in fields(EmbeddedPrompt)}
    prefilled = PrefilledPrompt(**own)
    kept = torch.zeros(0, dtype=torch.long) if residuals is None else prompt.spans[residuals]
    if not _hooked(model):
        object.__setattr__(prefilled, "passed", _pass(model, prompt, like, kept))
    return prefilled


def _pass(
    model: HookedDecoder,
    prompt: EmbeddedPrompt,
    like: PrefilledPrompt | None,
    kept: Int[Tensor, " kept"],
) -> PrefillState:
    before = None if like is None else prefill_state(model, like)
    first = 0 if like is None or before is None else _first_difference(prompt, like)
    # The kernel's own causal mask, which skips half of the work, is for whole passes alone.
    first = 0 if first < prompt.n_pos // 4 else first
    cfg, window = model.cfg, range(first, prompt.n_pos)
    norms = torch.empty(cfg.n_layers, prompt.n_pos, device=cfg.device)
    if before is None or not first:
        cache = KeyValueCache(cfg, 1, prompt.n_pos)
    else:
        cache = _grown(model, before.cache, first, prompt.n_pos)
        norms[:, :first], kept = before.norms[:, :first], kept[:0]
    shape = (cfg.n_layers, len(kept), cfg.d_model)
    stream = torch.empty(shape, dtype=cfg.dtype, device=cfg.device)
    reader, layers = _Reader(norms[:, first:], kept.to(cfg.device), stream), range(cfg.n_layers)
    hooks: list[Hook] = [(names.resid_pre(layer), reader) for layer in layers]
    hooks += [(names.resid_post(layer), reader) for layer in layers if len(kept)]
    with model.hooks(hooks):
        context = model.context(prompt, window, cache)
        final = model.run_pass(prompt.embeds[:, first:], context, window)
    marks = tuple(t.clone() if t.is_inference() else t._version for t in _tensors(prompt))
    return PrefillState(model, cache, final[:, -1:].clone(), norms, kept, stream, marks)


class _Reader(LiveHook):
    """Writes norms of the stream that enters a block, and rows of what leaves it."""

    def __init__(
        self,
        norms: Float[Tensor, "layer pos"],
        kept: Int[Tensor, " kept"],
        stream: Float[Tensor, "layer kept d_model"],
    ) -> None:
        self.norms, self.kept, self.stream = norms, kept, stream

    def __call__(self, resid: Tensor, hook: Any) -> None:
        """Reduce `[1, pos, d_model]`."""
        layer = names.layer_of(hook.name) or 0
        if hook.name == names.resid_pre(layer):
            self.norms[layer] = resid[0].float().norm(dim=-1)
        else:
            self.stream[layer] = resid[0, self.kept]


def prefill_state(model: HookedDecoder, prompt: EmbeddedPrompt) -> PrefillState | None:
    """What this model's pass over the prompt left, if it holds.

    It does not while hooks stand on the model, or PyTorch's own on a module of it, nor behind an
    edit in place of the prompt's tensors.
    """
    passed = _of_model(model, prompt) if isinstance(prompt, PrefilledPrompt) else None
    return None if passed is None or _hooked(model) else passed


def _of_model(model: HookedDecoder, prompt: PrefilledPrompt) -> PrefillState | None:
    """What this model's pass over the prompt as it is now left."""
    passed = prompt.passed
    if passed is None or passed.model is not model:
        return None
    marks = zip(_tensors(prompt), passed.marks, strict=True)
    same = all(torch.equal(t, m) if isinstance(m, Tensor) else t._version == m for t, m in marks)
    return passed if same else None


def _hooked(model: HookedDecoder) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def _tensors(prompt: EmbeddedPrompt) -> list[Tensor]:
    """All that a pass reads of a prompt."""
    read = (prompt.embeds, prompt.position_ids, prompt.mask, prompt.deepstack)
    return [tensor for tensor in read if tensor is not None]


def prompt_pass(
    model: HookedDecoder,
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
        capacity: SpanPositions that the cache must have room for, the prompt's included.
    """
    window = range(n_pos)
    # A hook for generated positions alone would open the prompt's attention for nothing.
    acting = [hook for hook in hooks if reaches(hook, window)]
    passed = prefill_state(model, prompt)
    if passed is not None and not acting:
        cache = passed.cache
        enough = capacity <= prompt.n_pos
        return passed.final, cache if enough else _grown(model, cache, n_pos, capacity)
    cache = KeyValueCache(model.cfg, 1, capacity)
    with model.hooks(acting):
        context = model.context(prompt, window, cache)
        final = model.run_pass(prompt.embeds[:, :n_pos], context, window)
    return final[:, -1:], cache


def _first_difference(prompt: EmbeddedPrompt, like: EmbeddedPrompt) -> int:
    """How many positions of two prompts are the same, at the door; never all of them."""
    n = min(prompt.n_pos, like.n_pos) - 1
    sides = [
        [p.embeds[0, :n], p.position_ids[:, 0, :n].T, _mask(p)[:n, None], *_added(p, n)]
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


def _grown(model: HookedDecoder, cache: KeyValueCache, n_pos: int, capacity: int) -> KeyValueCache:
    grown = KeyValueCache(model.cfg, 1, capacity)
    for ours, theirs in ((grown.keys, cache.keys), (grown.values, cache.values)):
        for wide, kept in zip(ours, theirs, strict=True):
            wide[:, :, :n_pos] = kept[:, :, :n_pos]
    return grown
