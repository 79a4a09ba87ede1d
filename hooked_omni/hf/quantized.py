"""Which parts of a Hugging Face model are quantized, and how?"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hooked_omni.errors import CheckpointError
from hooked_omni.inputs.precision import has_scheme, is_quantized

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("accelerate", "gptqmodel"),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "fp8": (),
}
"""By the methods that `benchmarks/quantized.py` compares, what transformers needs to load them."""


def require_loadable(config: Mapping[str, Any], name: str | Path) -> None:
    """Refuse, by `config.json`, a method that nobody compared, or without its packages.

    `CheckpointError`, before a weight is read; transformers ignores methods it does not know.
    """
    own = config.get("quantization_config")
    method = own.get("quant_method") if isinstance(own, dict) else own
    needed = _PACKAGES.get(method) if isinstance(method, str) else None
    if needed is None:
        raise CheckpointError(
            f"expected weights quantized by one of {[*_PACKAGES]}, got {method!r} in the config of "
            f"{str(name)!r}. Load the original; or load this one yourself, adopt it with "
            "`HookedOmni.from_hf(hf, processor, allow_quantized=True)`, and `prove` it."
        )
    if lacking := [package for package in needed if importlib.util.find_spec(package) is None]:
        raise CheckpointError(
            f"expected the packages {[*needed]} for weights quantized by {method} in "
            f"{str(name)!r}, got no {lacking}. Install them with pip, or load the original."
        )


def decompress(hf: nn.Module) -> None:
    """Do now what compressed-tensors does in the first pass: after it, weights stay as they are."""
    if hook := getattr(hf, "ct_decompress_hook", None):
        hf._forward_pre_hooks[hook.id](hf, ())


def quantization(hf: nn.Module) -> str:
    """The method and the kinds of modules, such as "bitsandbytes (Linear4bit)"; empty for none."""
    config: Any = getattr(getattr(hf, "config", None), "quantization_config", None)
    method = config.get("quant_method") if isinstance(config, dict) else config
    method = getattr(method, "quant_method", method)
    kinds = sorted({type(module).__name__ for module in quantized_projections(hf).values()})
    if method is None and not kinds:
        return ""
    return f"{getattr(method, 'value', method) or 'hand'} ({', '.join(kinds) or 'dequantized'})"


def quantized_projections(module: nn.Module) -> dict[str, nn.Module]:
    """Modules that compute with quantized weights of their own, by what these would be called."""
    linear = {f"{n}.weight": part for n, part in module.named_modules() if _is_linear(part)}
    return {name: part for name, part in linear.items() if _is_quantized(part)}


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _is_quantized(module: nn.Module) -> bool:
    every: tuple[Tensor | None, ...] = *module._parameters.values(), *module._buffers.values()
    return has_scheme(module) or any(is_quantized(one) for one in every if one is not None)


def require_allowed(how: str, allowed: bool, adapters: Mapping[str, Any]) -> None:
    """Refuse quantized weights that nobody wanted, or with adapters (`CheckpointError`)."""
    if not allowed:
        raise CheckpointError(
            f"expected floating-point weights, got a model quantized by {how}. Load the "
            "original checkpoint; or pass allow_quantized=True, for numbers of this one."
        )
    if adapters:
        raise CheckpointError(
            f"expected adapters on floating-point weights, got them on some quantized by {how}. "
            "Merge them into the original checkpoint, with peft's merge_and_unload()."
        )


def require_projections(tensors: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> None:
    """Refuse tensors that are quantized, and of no projection in `modules` (`CheckpointError`)."""
    inside = tuple(f"{name.removesuffix('weight')}" for name in modules)
    packed = [n for n, p in tensors.items() if is_quantized(p) and not n.startswith(inside)]
    if packed:
        raise CheckpointError(
            f"expected quantized projections alone, got {packed[:3]} that are quantized too: "
            "embeddings, experts and the unembedding are read as numbers. Load the original."
        )
