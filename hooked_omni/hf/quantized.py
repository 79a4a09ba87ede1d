"""Which parts of a Hugging Face model are quantized, and how?"""

from typing import Any

from torch import Tensor, nn

from hooked_omni.inputs.precision import is_quantized


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
    return {name: part for name, part in linear.items() if any(map(is_quantized, _held(part)))}


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")


def _held(module: nn.Module) -> list[Tensor]:
    every = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in every if tensor is not None]
