"""The model families, one file each. `FAMILIES` is the list; adding one is a line here."""

from hooked_omni.families.family import Family
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.qwen2_5_vl import QWEN2_5_VL

__all__ = ["FAMILIES", "Family"]

FAMILIES: tuple[Family, ...] = (QWEN2_5_OMNI, QWEN2_5_VL)
