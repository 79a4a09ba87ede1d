"""Qwen2-VL: sees and answers, and does not hear. A step counts as one, however long it lasts."""

from dataclasses import replace

from hooked_omni.families import checks
from hooked_omni.families.vision.qwen2_5_vl import QWEN2_5_VL

QWEN2_VL = replace(
    QWEN2_5_VL,
    name="qwen2-vl",
    checkpoints="Qwen2-VL (2B, 7B, 72B)",
    model_types=("qwen2_vl",),
    hf_class="Qwen2VLForConditionalGeneration",
    check_inputs=checks.check_vl,
)
