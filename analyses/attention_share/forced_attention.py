"""What does a given text attend to, while it is said?

The text is forced upon the model in one pass behind the prompt's. What each of its positions pays
to each segment is summed inside the hook, one layer at a time: of all patterns that there are, no
more than `[head, n, key]` ever exists, and none of the prompt's own positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedTransformer, names
from hooked_omni.decoding.score import forced_logits
from hooked_omni.hooks.hook_point import HookPoint
from hooked_omni.hooks.interventions import Hook, SpanHook, SpanPositions

__all__ = ["forced_shares"]


def forced_shares(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    text: Int[Tensor, " n"],
    segments: Sequence[str],
    more: Sequence[Hook] = (),
) -> dict[str, Float[Tensor, "query layer head"]]:
    """Attention of each position of a text to each segment.

    Args:
        model: The decoder.
        prompt: An embedded prompt; prefilled, so that the text's is the only pass.
        text: Tokens, two or more. The last is read by no pass, so it is no query.
        segments: Spans of the prompt, or "generated", the text itself.
        more: Hooks that look on.

    Raises:
        SpanError: For a segment that is not there.
    """
    n_pos, cfg = prompt.n_pos, model.cfg
    members = [prompt.spans.mask(segment, range(n_pos + 1)) for segment in segments]
    inside = torch.stack(members, 1).float().to(cfg.device)  # the last row is for the text
    shares = torch.empty(len(text) - 1, cfg.n_layers, cfg.n_heads, len(segments))

    def reduce(pattern: Tensor, _index: Tensor, hook: HookPoint) -> None:
        paid = pattern[0].float()
        own = paid[..., :n_pos] @ inside[:-1]
        own += paid[..., n_pos:].sum(-1, keepdim=True) * inside[-1]
        shares[:, names.layer_of(str(hook.name))] = own.transpose(0, 1).cpu()

    look = SpanHook(SpanPositions(prompt.spans, "generated"), reduce)
    hooks: list[Hook] = [(names.pattern(layer), look) for layer in range(cfg.n_layers)]
    forced_logits(model, prompt, text, [*hooks, *more])
    return dict(zip(segments, shares.double().unbind(-1), strict=True))
