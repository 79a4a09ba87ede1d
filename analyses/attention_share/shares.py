"""What do the positions of a given answer attend to?

The answer is read in one pass after the prompt's (teacher forcing). Each position's attention to
each segment is summed inside the hook, one layer at a time: no more than `[head, n, key]` of all
patterns exists at once, and none of the prompt's own positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedTransformer, names
from hooked_omni.decoding.score import forced_logits
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions


def forced_shares(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    tokens: Int[Tensor, " n"],
    segments: Sequence[str],
    hooks: Sequence[Hook] = (),
) -> dict[str, Float[Tensor, "query layer head"]]:
    """Attention of each position of an answer to each segment.

    Args:
        model: The decoder.
        prompt: An embedded prompt; prefilled, so that the answer's is the only pass.
        tokens: The answer, two tokens or more. No pass reads the last, so it is no query.
        segments: Spans of the prompt, or "generated", the answer itself; others are a `SpanError`.
        hooks: Further hooks, such as those of `SinkWatch`.
    """
    n_pos, cfg = prompt.n_pos, model.cfg
    masks = [prompt.spans.mask(segment, range(n_pos + 1)) for segment in segments]
    inside = torch.stack(masks, 1).float().to(cfg.device)  # the last row is for the answer
    shares = torch.empty(len(tokens) - 1, cfg.n_layers, cfg.n_heads, len(segments))

    def reduce(pattern: Tensor, _index: Tensor, hook: HookPoint) -> None:
        paid = pattern[0].float()
        members = inside.to(paid.device)
        sums = paid[..., :n_pos] @ members[:-1]
        sums += paid[..., n_pos:].sum(-1, keepdim=True) * members[-1]
        rows = slice(hook.window.start - n_pos, hook.window.stop - n_pos)
        shares[rows, names.layer_of(str(hook.name))] = sums.transpose(0, 1).cpu()

    look = SpanHook(SpanPositions(prompt.spans, "generated"), reduce, by_query=True)
    own: list[Hook] = [(names.pattern(layer), look) for layer in range(cfg.n_layers)]
    forced_logits(model, prompt, tokens, [*own, *hooks])
    return dict(zip(segments, shares.double().unbind(-1), strict=True))
