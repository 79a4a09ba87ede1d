"""The model families, one file each. `FAMILIES` is the list; adding one is a line here."""

from hooked_omni.families.family import Family
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.qwen2_5_vl import QWEN2_5_VL
from hooked_omni.families.qwen2_audio import QWEN2_AUDIO
from hooked_omni.families.qwen3_omni import QWEN3_OMNI
from hooked_omni.families.qwen3_vl import QWEN3_VL

__all__ = ["FAMILIES", "Family"]

FAMILIES: tuple[Family, ...] = (QWEN2_5_OMNI, QWEN2_5_VL, QWEN3_OMNI, QWEN3_VL, QWEN2_AUDIO)
