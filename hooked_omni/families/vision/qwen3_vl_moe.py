"""Qwen3-VL with a mixture of experts; sees, and does not hear.

Released weights hold the experts' matrices transposed.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from hooked_omni.families import qwen
from hooked_omni.families.family import Conversion, as_stored
from hooked_omni.families.vision.qwen3_vl import QWEN3_VL


def _turned(name: str, config: Any) -> Conversion:
    """Experts as transformers holds them: turned, unless they have that shape already."""
    narrow, wide = config.moe_intermediate_size, config.hidden_size
    shapes = {"gate_up_proj": (2 * narrow, wide), "down_proj": (wide, narrow)}
    shape = shapes.get(name.partition(".experts.")[2])
    if shape is None:
        return as_stored(name)

    def turn(tensors: list[Tensor]) -> Tensor:
        weight = tensors[0]
        return weight if weight.shape[1:] == shape else weight.transpose(1, 2).contiguous()

    return Conversion((name,), turn)


QWEN3_VL_MOE = replace(
    QWEN3_VL,
    name="qwen3-vl-moe",
    checkpoints="Qwen3-VL (30B-A3B, 235B-A22B)",
    decoder="mixture of experts, qk-norm, interleaved M-RoPE, DeepStack",
    model_types=("qwen3_vl_moe",),
    hf_class="Qwen3VLMoeForConditionalGeneration",
    on_disk=replace(qwen.ON_DISK, stored=_turned),
    proved="0, tiny random weights of its class, eager experts",
)
