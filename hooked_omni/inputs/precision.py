"""Are numbers computed as the weights have them?"""

from typing import Any

import torch

from hooked_omni.errors import CheckpointError


def require_no_autocast(device: torch.device) -> None:
    """Refuse, as a `CheckpointError`, numbers that are rounded otherwise than the weights are."""
    one = torch.ones(1, 1, dtype=torch.float32, device=device)  # older torch has no name for it
    if one.is_meta or (one @ one).dtype != one.dtype:
        raise CheckpointError(
            "expected weights with numbers, and no torch.autocast, got one of the two. Leave "
            "autocast, and load the model with the dtype that you want."
        )


def has_scheme(module: Any) -> bool:
    """Whether compressed-tensors computes it, which may round inputs, too, of plain weights."""
    return getattr(module, "quantization_scheme", None) is not None


def is_quantized(tensor: Any) -> bool:
    """Whether it is no tensor of plain numbers: of small types, packed in a class, or not there."""
    if tensor is None or hasattr(tensor, "__tensor_flatten__"):
        return True
    return not tensor.is_floating_point() or tensor.itemsize < 2
