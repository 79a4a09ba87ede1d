"""The model families, one file each. `FAMILIES` is the list; adding one is a line here."""

from collections.abc import Mapping
from typing import Any

from hooked_omni.errors import UnknownModelError
from hooked_omni.families.family import Family
from hooked_omni.families.phi4_multimodal import PHI4_MULTIMODAL
from hooked_omni.families.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.qwen2_5_vl import QWEN2_5_VL
from hooked_omni.families.qwen2_audio import QWEN2_AUDIO
from hooked_omni.families.qwen3_omni import QWEN3_OMNI
from hooked_omni.families.qwen3_vl import QWEN3_VL
from hooked_omni.families.remote.internvl import INTERN_OMNI, INTERNVL2
from hooked_omni.families.remote.minicpm_o import MINICPM_O
from hooked_omni.families.remote.videollama2 import VIDEOLLAMA2

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (
    QWEN2_5_OMNI,
    QWEN2_5_VL,
    QWEN3_OMNI,
    QWEN3_VL,
    QWEN2_AUDIO,
    PHI4_MULTIMODAL,
    MINICPM_O,
    VIDEOLLAMA2,
    INTERN_OMNI,  # before its base, which has the same model_type
    INTERNVL2,
)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a `config.json`; `UnknownModelError` if none here covers it."""
    kind = config.get("model_type")
    for family in FAMILIES:
        has_key = family.config_key is None or family.config_key in config
        if kind in family.model_types and has_key:
            return family
    known = sorted({t for family in FAMILIES for t in family.model_types})
    raise UnknownModelError(
        f"expected a model of type {known}, got {kind!r}. See docs/add-a-model.md."
    )
