"""What does each part of the decoder add to one token's log-odds, and what did it read for that?

The last residual stream is a sum: embedding, heads, MLPs. Divided by the final norm's scale, as it
was in this pass, each part has its share of the log-odds, and all of them add up to it. A head's
output is a sum over keys, so its share is split by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_omni import HookedTransformer, names
from hooked_omni.decoding.prefill import PrefilledPrompt, begun
from hooked_omni.errors import ResultsError
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions
from hooked_omni.inputs.prompt import EmbeddedPrompt
from hooked_omni.metrics import Fork

OTHER = "other"
"""Keys of no span that is named."""


@dataclass(frozen=True, eq=False)
class Direct:
    """Shares of heard minus seen, in nats, float64."""

    spans: tuple[str, ...]  # `OTHER` last
    heads: Float[Tensor, "layer head span"]
    mlps: Float[Tensor, " layer"]
    embedding: float  # with what blocks are given of the picture (`hook_deepstack`)
    odds: float  # heard minus seen: what all of them add up to, but for rounding


@torch.no_grad()
def direct(
    model: HookedTransformer, at: Fork, spans: Sequence[str], before: PrefilledPrompt | None = None
) -> Direct:
    """Direct attribution at the last position, split by spans of keys.

    Args:
        model: The decoder.
        at: The word at which the two answers part.
        spans: Of `at.prompt`, none in two of them; the rest of the keys is `OTHER`.
        before: What `at.prompt` begins with, prefilled: no pass over it is made.

    Raises:
        ResultsError: For spans that overlap.
        SpanError: For one that is not in the prompt.
    """
    prompt, window = at.prompt, range(at.prompt.n_pos)
    inside = torch.stack([prompt.spans.mask(name, window) for name in spans], 1)
    if twice := int((inside.sum(1) > 1).sum()):
        raise ResultsError(
            f"expected spans without a position in two of them, got {twice} in {list(spans)}: "
            "shares would count twice. Name parts that do not overlap."
        )
    members = torch.cat([inside, ~inside.any(1, keepdim=True)], 1).double()
    look = _Look(model, _direction(model, at), members)
    first, cache = begun(model, prompt, before, prompt.n_pos)
    look.values = cache.values
    part = range(first, prompt.n_pos)
    with model.hooks(look.hooks(prompt)):
        context = model.context(prompt, part, cache)
        final = model.run_pass(prompt.embeds[:, first:], context, part)
    logits = model.logits_of(final[:, -1:])
    scale = look.scale[0]
    return Direct(
        (*spans, OTHER),
        look.heads / scale,
        look.mlps / scale,
        float(look.embedding / scale),
        float(at.metric(logits.double())),
    )


def _direction(model: HookedTransformer, at: Fork) -> Float[Tensor, " d_model"]:
    """What the residual stream is multiplied with, before the final norm's scale."""
    towards = model.unembed.weight[[at.heard, at.seen]].double().cpu()
    return (towards[0] - towards[1]) * model.ln_final.w.double().cpu()


class _Look:
    """Hooks that reduce a pass to shares, one layer at a time."""

    def __init__(
        self,
        model: HookedTransformer,
        direction: Float[Tensor, " d_model"],
        members: Float[Tensor, "key span"],
    ) -> None:
        cfg = self.cfg = model.cfg
        self.model, self.direction, self.members = model, direction, members
        self.heads = torch.zeros(cfg.n_layers, cfg.n_heads, members.shape[1], dtype=torch.float64)
        self.mlps = torch.zeros(cfg.n_layers, dtype=torch.float64)
        self.embedding = torch.zeros((), dtype=torch.float64)
        self.scale: list[float] = []
        self.values: list[Float[Tensor, "1 kv_head key d_head"]] = []

    def hooks(self, prompt: EmbeddedPrompt) -> list[Hook]:
        last, cfg = SpanPositions(prompt.spans, "last"), self.cfg

        def hook(name: str, act: Any, by_query: bool = False) -> Hook:
            return name, SpanHook(last, act, by_query=by_query)

        layers = range(cfg.n_layers)
        added = [names.EMBED, *(names.deepstack(layer) for layer in range(cfg.n_deepstack))]
        return [
            *(hook(names.pattern(layer), self._read, True) for layer in layers),
            *(hook(names.mlp_out(layer), self._mlp) for layer in layers),
            *(hook(name, self._embedding) for name in added),
            hook("ln_final.hook_scale", self._scale),
        ]

    def _read(self, pattern: Tensor, index: Tensor, hook: HookPoint) -> None:
        layer = names.layer_of(str(hook.name)) or 0
        attn: Any = self.model.blocks[layer].attn
        written = attn.W_O.double().cpu() @ self.direction
        values = self.values[layer][0].double().cpu()
        groups = written.view(len(values), -1, written.shape[-1])  # heads of each key-value head
        each = torch.einsum("gkd,ghd->ghk", values, groups).flatten(0, 1)
        self.heads[layer] = (pattern[0, :, index[-1]].double().cpu() * each) @ self.members

    def _mlp(self, out: Tensor, index: Tensor, hook: HookPoint) -> None:
        self.mlps[names.layer_of(str(hook.name)) or 0] = self._share(out, index)

    def _embedding(self, added: Tensor, index: Tensor, hook: HookPoint) -> None:
        self.embedding += self._share(added, index)

    def _share(self, tensor: Tensor, index: Tensor) -> Tensor:
        return tensor[0, index[-1]].double().cpu() @ self.direction

    def _scale(self, scale: Tensor, index: Tensor, hook: HookPoint) -> None:
        self.scale.append(float(scale[0, index[-1], 0]))
