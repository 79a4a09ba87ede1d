"""Where an edit writes, and what must stay as it was."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hooked_omni import EmbeddedPrompt, HookedOmni, HookedTransformer, Prompt, names
from tests.support.runs import bits_equal, opened

SPAN = "audio@1.0-2.0s+frame 1"  # interleaved, so not a slice
_ATTENTION = ("q", "k", "v", "rot_q", "rot_k", "z", "result", "pattern", "attn_scores")
POINTS = [
    *(f"hook_{name}" for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")),
    *(f"attn.hook_{name}" for name in _ATTENTION),
    *("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"),
    *("ln1.hook_normalized", "ln2.hook_scale"),
]
OUTSIDE = [names.EMBED, names.FINAL_NORM]
HEADED = [point for point in POINTS if point.startswith("attn.")]
# A score of zero is no absence, and a norm divides by its scale.
CAN_BE_ZERO = [p for p in POINTS if p not in ("attn.hook_attn_scores", "ln2.hook_scale")]
OF_ONE_POSITION = [p for p in POINTS if not p.endswith(names.PATTERN_LIKE)]


def clip(omni: HookedOmni, video: Any, audio: Any, words: str = "What now?") -> EmbeddedPrompt:
    names: Any = {"video": video and "clip", "audio": audio and "sound"}
    both = video is not None and audio is not None
    question = Prompt(words, **names, use_audio_in_video=both, system="Be brief.")
    read = tuple(one for one in (video, audio) if one is not None)
    inputs = omni.family.prepare(omni.processor, question, read)
    return omni.embed_inputs(**{k: v for k, v in inputs.items() if v is not None})


def cached(model: HookedTransformer, prompt: EmbeddedPrompt, *hooks: Any) -> Any:
    """Every activation, with every layer's attention opened in either case."""
    return model.run_with_cache(prompt, fwd_hooks=[*hooks, *opened(model)])[1]


def named(at: str, layer: int) -> str:
    return at if at in OUTSIDE else names.in_block(at, layer)


def cells(at: str, tensor: Tensor, positions: Tensor, heads: list[int] | None = None) -> Tensor:
    """Which entries of an activation belong to positions and heads, written axis by axis."""
    mask = torch.zeros_like(tensor, dtype=torch.bool)
    if at.endswith(("pattern", "attn_scores")):
        for head in range(4) if heads is None else heads:
            mask[:, head, positions] = True
    elif heads is None:
        mask[:, positions] = True
    else:
        for head in heads:
            mask[:, positions, head] = True
    return mask


def computed_before(at: str, layer: int) -> list[str]:
    """Hook points that fire before this one in every pass, of the layers before it."""
    if at == names.EMBED:
        return []
    last = 4 if at == names.FINAL_NORM else layer
    return [names.in_block(point, i) for i in range(last) for point in POINTS]


def require_written(
    model: HookedTransformer,
    prompt: EmbeddedPrompt,
    clean: Any,
    edit: Any,
    at: str,
    layer: int,
    expected: Callable[[Tensor], Tensor],
    heads: list[int] | None = None,
) -> None:
    """The cells of the span hold what is expected; the others, and what came before, are as was."""
    edited, name = cached(model, prompt, edit), named(at, layer)
    mask = cells(at, clean[name], prompt.spans[SPAN], heads)
    wanted = torch.where(mask, expected(clean[name]), clean[name])
    bits_equal(edited[name], wanted)
    assert mask.any() and not torch.equal(wanted, clean[name])
    for earlier in computed_before(at, layer):
        bits_equal(edited[earlier], clean[earlier])
