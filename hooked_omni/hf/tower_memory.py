"""How much memory do towers take? Their own code is run, on tensors without content.

Media and activations are on the meta device, which knows sizes alone; whole numbers, such as the
grid of a video, are computed, since code branches by them.
"""

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hooked_omni.hf.capture import captured_inputs
from hooked_omni.hf.towers import Towers

_FEW = 64  # fractions that are settings, such as the seconds of a step of the grid
_INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)


def tower_bytes(towers: Towers, inputs: Mapping[str, Any]) -> int | None:
    """Peak of model inputs and activations until the decoder is called, beside weights.

    `towers` are `unloaded`, and end on the meta device. None where it is not known: their code
    reads numbers.
    """
    towers.hf.to("meta")  # models that come with the package have weights
    media = {k: v for k, v in inputs.items() if _has_fractions(v) and v.numel() > _FEW}
    placed = {**inputs, **{name: _on_meta(value) for name, value in media.items()}}
    with _Sizes() as sizes, _FusedAttention():
        sizes.hold(placed)
        try:
            captured_inputs(towers.hf, towers.family, placed)
        except Exception:  # code that was not written for tensors without content
            return None
    return sizes.peak


class _FusedAttention(TorchFunctionMode):
    """As kernels of CPU and GPU compute it, without all scores at once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            return args[0].new_empty(*args[0].shape[:-1], args[2].shape[-1])
        return func(*args, **(kwargs or {}))


class _Sizes(TorchDispatchMode):
    """Counts the bytes of tensors that stand at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self.now = 0
        self.held = dict[int, int]()

    def hold(self, made: Any) -> None:
        """Count tensors that are new, until they are gone."""
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if (key := storage._cdata) not in self.held:
                    self.held[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._drop, key)
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int) -> None:
        self.now -= self.held.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if any(one.is_meta for one in given):
            if func in _INDEXED:  # how many are chosen decides the size
                args = args[0], [n for one in args[1] for n in _numbers(one)], *args[2:]
            args, kwargs = tree_map(_on_meta, (args, kwargs))
        elif str(kwargs.get("device")) == "meta" and not any(map(_has_fractions, given)):
            kwargs["device"] = torch.device("cpu")
        made = func(*args, **kwargs)
        self.hold(made)
        return made


def _has_fractions(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


def _numbers(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the numbers of what it chooses, along each of its axes."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [*index.nonzero().unbind(1)]
