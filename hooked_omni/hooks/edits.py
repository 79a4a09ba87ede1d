"""What is written over activations: nothing, a mean, another prompt's, or a push in a direction.

Each edit names a hook point (`at`) inside a block (`"hook_resid_post"`, `"attn.hook_z"`, ...) with
its layers (None for all), or one outside the blocks (`"hook_embed"`), and a span. With `heads`, the
hook point must have a head axis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import names
from hooked_omni.errors import HookError
from hooked_omni.hooks.activation_cache import ActivationCache
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import (
    Hook,
    Intervention,
    SpanHook,
    SpanPositions,
    at_layers,
    numbers,
)
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.inputs.spans import Spans

Value = Callable[[str, Tensor, Tensor], Tensor]
"""From a hook's name, what stands at the edited positions and which these are, to what shall."""


Source = tuple[ActivationCache | Mapping[str, Tensor], EmbeddedPrompt]
"""What `run_with_cache` returned, and the prompt it is of."""


def ablate(
    at: str,
    *,
    span: str = "prompt+generated",
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    to: Literal["zero", "mean", "resample"] = "zero",
    reference: Sequence[Source] = (),
) -> Intervention:
    """Take away what a span's activations hold.

    ```python
    ablate("attn.hook_z", layers=[4], heads=[2])             # a whole head, to zero
    ablate("hook_resid_post", span="audio", layers=[4])      # a part of the prompt
    ablate("hook_resid_post", span="audio", to="mean", reference=[(cache, other_prompt)])
    ```

    `to` is "zero"; "mean" over the same span's positions in all references; or "resample", the one
    reference's own activations, token by token. A reference is a cache that holds `at`, with the
    prompt it is of.

    Raises:
        HookError: For a reference that is missing, or does not fit.
    """
    n = len(reference)
    expected = {"zero": n == 0, "mean": n > 0, "resample": n == 1}
    if not expected.get(to, False):
        raise HookError(
            f"expected no reference for to='zero', some for 'mean' and one for 'resample', got "
            f"to={to!r} with {len(reference)}."
        )
    if to == "resample":
        cache, prompt = reference[0]
        return patch(at, span=span, cache=cache, prompt=prompt, layers=layers, heads=heads)

    def value(spans: Spans) -> Value:
        if reference and SpanPositions(spans, span).after:
            raise HookError(
                f"expected a span of the prompt, got {span!r}: a reference has no generated "
                "positions to take a mean of. Name another, such as 'prompt', or ablate to zero."
            )
        theirs = [prompt.spans[span] for _, prompt in reference]

        def zero(name: str, own: Tensor, absolute: Tensor) -> Tensor:
            return torch.zeros_like(own)

        def mean(name: str, own: Tensor, absolute: Tensor) -> Tensor:
            found = [_taken(source, name)[at] for source, at in zip(reference, theirs, strict=True)]
            return torch.cat(found).mean(0).to(own)

        return zero if to == "zero" else mean

    return _edit(at, span, layers, heads, value, reference)


def patch(
    at: str,
    *,
    span: str,
    cache: ActivationCache | Mapping[str, Tensor],
    prompt: EmbeddedPrompt,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    align: Literal["position", "time"] = "position",
) -> Intervention:
    """Put another run's activations in place of this one's.

    ```python
    _, cache = model.run_with_cache(factual, names_filter="blocks.3.hook_resid_pre")
    patch("hook_resid_pre", span="audio", cache=cache, prompt=factual, layers=[3])
    ```

    `cache` holds `at` of a run on `prompt`. `align` "position" pairs the first token of the span
    with the first, and so on, and needs as many. "time" pairs an audio token, or a video step, with
    the one that is under way in `prompt` at the same second.

    Raises:
        HookError: With a prompt's spans, for spans that cannot be paired.
    """

    def value(spans: Spans) -> Value:
        if SpanPositions(spans, span).after:
            raise HookError(
                f"expected a span of the prompt, got {span!r}: generated positions have no "
                "counterpart in another run. Steer or ablate them instead."
            )
        partner = torch.full((spans.n_prompt,), -1)
        partner[spans[span]] = _partners(span, spans, prompt.spans, align)

        def theirs(name: str, own: Tensor, absolute: Tensor) -> Tensor:
            taken = _taken((cache, prompt), name)
            return taken[partner[absolute.cpu()].to(taken.device)].to(own)

        return theirs

    return _edit(at, span, layers, heads, value, [(cache, prompt)])


def steer(
    vector: Float[Tensor, "*head d"],
    *,
    span: str,
    at: str = "hook_resid_post",
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    scale: float | int = 1.0,
) -> Intervention:
    """Add `scale` times a vector, `[d]` or `[head, d_head]`, to a span's activations.

    Raises:
        HookError: In the run, for a vector of another width.
    """

    def value(spans: Spans) -> Value:
        def push(name: str, own: Tensor, absolute: Tensor) -> Tensor:
            fits = (own.shape[-1:], own.shape[2:])  # [batch, pos, (head), width]
            if vector.shape not in fits:
                raise HookError(
                    f"expected a vector of shape {tuple(own.shape[2:])} or ({own.shape[-1]},) at "
                    f"{name!r}, got {tuple(vector.shape)}."
                )
            return own + scale * vector.to(own)

        return push

    return _edit(at, span, layers, heads, value)


def _edit(
    at: str,
    span: str,
    layers: Iterable[int] | None,
    heads: Iterable[int] | None,
    value: Callable[[Spans], Value],
    sources: Sequence[Source] = (),
) -> Intervention:
    chosen_layers, chosen_heads = numbers("layers", layers), numbers("heads", heads)
    if whole := names.with_module(at):
        raise HookError(
            f"expected a hook point with its module, got {at!r}. Write {whole!r}, in `layers`."
        )
    if chosen_heads is not None and not (names.on_heads(at) or at.endswith(names.PATTERN_LIKE)):
        raise HookError(
            f"expected a hook point with heads, got heads={chosen_heads} at {at!r}. Leave them out."
        )

    if chosen_layers is not None and not at.startswith(names.IN_BLOCK):
        raise HookError(
            f"expected no layers for {at!r}, which is not named by layer, got {chosen_layers}. "
            "Leave them out, or name a hook point inside a block."
        )
    if at.endswith("hook_attn_scores") and not sources:
        raise HookError(
            "expected a hook point whose zero is an absence, got 'attn.hook_attn_scores': a score "
            "is a logarithm, and future keys would be read. Use knockout or scale_attention."
        )

    def hooks(spans: Spans) -> list[Hook]:
        for _, prompt in sources:
            if at.endswith(names.PATTERN_LIKE) and prompt.n_pos != spans.n_prompt:
                raise HookError(
                    f"expected prompts of one length for {at!r}, whose rows read all positions, "
                    f"got {spans.n_prompt} here, {prompt.n_pos} in the cache. Edit 'attn.hook_z'."
                )
        write = _Write(at, chosen_heads, value(spans))
        hook = SpanHook(SpanPositions(spans, span), write, chosen_heads, each_alone=True)
        found = at_layers(at, chosen_layers)
        for name in found:
            for source in sources:
                # A cache that lacks it is refused before the run; all layers have a last one that
                # only the model knows, so there it is the first.
                _taken(source, name if isinstance(name, str) else names.in_block(at, 0))
        return [(name, hook) for name in found]

    return hooks


@dataclass(frozen=True, eq=False)
class _Write:
    """Writes a value over positions and heads of an activation, whatever the order of its axes."""

    at: str
    heads: tuple[int, ...] | None
    value: Value

    def __call__(self, tensor: Tensor, index: Int[Tensor, " n"], hook: HookPoint) -> Tensor:
        axis = names.position_axis(self.at)
        # [batch, pos, rest], where heads, if any, come next: for patterns, [batch, query, head].
        moved = tensor.transpose(1, axis)
        own = moved[:, index]
        new = self.value(str(hook.name), own, index + hook.window.start).expand_as(own)
        if self.heads is not None:
            chosen = torch.tensor(self.heads, device=tensor.device)
            new = own.index_copy(2, chosen, new.index_select(2, chosen))
        return moved.index_copy(1, index, new).transpose(1, axis).contiguous()


def _taken(source: Source, name: str) -> Float[Tensor, "pos ..."]:
    """One run's activation, positions first."""
    cache, prompt = source
    try:
        tensor = cache[name]
    except KeyError as error:
        raise HookError(
            f"expected a cache that holds {name!r}, got one without. Cache it: "
            f"run_with_cache(prompt, names_filter={name!r})."
        ) from error
    axis = names.position_axis(name)
    if tensor.shape[0] != 1 or tensor.shape[axis] != prompt.n_pos:
        raise HookError(
            f"expected {name!r} of one prompt with {prompt.n_pos} positions, got shape "
            f"{tuple(tensor.shape)}. Cache it whole, with its batch axis."
        )
    return tensor[0].movedim(axis - 1, 0)


def _partners(span: str, own: Spans, other: Spans, align: str) -> Int[Tensor, " n"]:
    """The position in `other` whose activation each position of `span` gets."""
    mine, theirs = own[span], other[span]
    if align == "position":
        if len(mine) != len(theirs):
            raise HookError(
                f"expected as many {span!r} tokens in both prompts, got {len(mine)} here and "
                f"{len(theirs)} in the other. Align by time, or cut the clips to one length."
            )
        return theirs
    if align != "time":
        raise HookError(f"expected align 'position' or 'time', got {align!r}.")
    if span not in own.seconds or span not in other.seconds:
        raise HookError(
            f"expected 'audio' or 'video' with known times to align by, got {span!r}. Align by "
            "position, or embed both prompts with `embed`."
        )
    starts, step = other.seconds[span].unique(return_inverse=True)
    n_steps, times = len(starts), own.seconds[span]
    length = float(starts[1] - starts[0]) if n_steps > 1 else 0.0
    late = times > float(starts[-1]) + length - 1e-3
    if bool(late.any()):
        raise HookError(
            f"expected a prompt as long as this one to take from, got {span!r} up to "
            f"{float(starts[-1]) + length:.2f} s for tokens at {float(times.max()):.2f} s. Patch a "
            f"part, such as '{span}@0-{float(starts[-1]) + length:.2f}s'."
        )
    under_way = torch.searchsorted(starts, times + 1e-3, right=True) - 1
    if bool((under_way < 0).any()):
        raise HookError(
            f"expected a prompt that begins with this one's {span!r}, got one from "
            f"{float(starts[0]):.2f} s for tokens at {float(times.min()):.2f} s."
        )
    my_step = own.seconds[span].unique(return_inverse=True)[1]
    mine_each, theirs_each = torch.bincount(my_step), torch.bincount(step)
    if len(mine_each.unique()) > 1 or not torch.equal(mine_each.unique(), theirs_each.unique()):
        raise HookError(
            f"expected steps of as many {span!r} tokens in both prompts, got "
            f"{mine_each.unique().tolist()} and {theirs_each.unique().tolist()}. Embed both clips "
            "at one size."
        )
    each = int(mine_each[0])
    return theirs[under_way * each + torch.arange(len(mine)) % each]
