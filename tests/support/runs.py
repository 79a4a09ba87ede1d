"""What tests of runs compare: bits, captions without an end, hooks that are left."""

from typing import Any

import torch
from torch import Tensor

from hooked_omni import HookedTransformer, names
from hooked_omni.decoding.generate import Decoding
from tests.support.models import look


def bits_equal(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def close(ours: Any, theirs: Any, atol: float = 1e-5, why: str = "") -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol, msg=lambda m: f"{why} {m}")


def unstopped(n: int) -> Decoding:
    """A caption of exactly `n` tokens, with its logits."""
    return Decoding(n, stop_at_eos=False, return_logits=True)


def noise(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def opened(model: HookedTransformer) -> list[Any]:
    """Hooks that write out the attention of every layer, and change nothing."""
    return [(names.pattern(layer), look) for layer in range(model.cfg.n_layers)]


def hooks_left(model: HookedTransformer) -> list[str]:
    return [n for n, p in model.hook_dict.items() if p.has_hooks("fwd") or p.has_hooks("bwd")]


def kind_of(name: str) -> str:
    layer = names.layer_of(name)
    return name if layer is None else name.removeprefix(f"blocks.{layer}.")


def hook_name(kind: str, layer: int) -> str:
    return kind if kind.startswith(("hook_embed", "ln_final")) else f"blocks.{layer}.{kind}"


def layers_of(kind: str, model: HookedTransformer) -> list[int]:
    return [0] if kind.startswith(("hook_embed", "ln_final")) else [0, model.cfg.n_layers - 1]


def one_of_each(model: HookedTransformer) -> list[str]:
    """Hook points of one inner block, and those outside the blocks: each kind once."""
    return [name for name in model.hook_dict if names.layer_of(name) in (None, 1)]
