"""What is a projection with adapters beside its weight?

A layer of peft's, shared with the Hugging Face model: the numbers are peft's, in its order, and
`set_adapter`, `disable_adapter` and `merge_adapter` act on both.
"""

import copy
from typing import Any

from torch import nn


def adapted(module: nn.Module) -> dict[str, Any]:
    """The layers of peft inside a module by name, without those inside one another."""
    found: dict[str, Any] = {}
    for name, one in module.named_modules():
        inside = name.startswith(tuple(f"{outer}." for outer in found if outer))
        if type(one).__module__.startswith("peft.") and not inside:
            found[name] = one
    return found


def merged(linear: nn.Module) -> nn.Linear:
    """A projection with what its adapters add, as peft merges it, a copy; itself without any."""
    layer: Any = linear
    if not hasattr(layer, "base_layer"):
        return layer
    layer = copy.deepcopy(layer)
    if layer.merged == layer.disable_adapters:  # as its `forward` would have it
        (layer.unmerge if layer.merged else layer.merge)()
    return layer.get_base_layer()


def settings(module: nn.Module) -> list[str]:
    """What makes the numbers of adapters inside a module beside their tensors."""
    names = ("scaling", "active_adapters", "merged_adapters", "disable_adapters")
    layers = adapted(module).items()
    return [repr((path, [getattr(one, name, None) for name in names])) for path, one in layers]
