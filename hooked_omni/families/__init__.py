"""The model families, one file each. `FAMILIES` is the list; adding one is a line here."""

from collections.abc import Mapping
from typing import Any

from hooked_omni.errors import UnknownModelError
from hooked_omni.families.family import Family
from hooked_omni.families.not_computed import NOT_COMPUTED, OTHER_LAYOUTS
from hooked_omni.families.omni.phi4_multimodal import PHI4_MULTIMODAL
from hooked_omni.families.omni.qwen2_5_omni import QWEN2_5_OMNI
from hooked_omni.families.omni.qwen3_omni import QWEN3_OMNI
from hooked_omni.families.remote.internvl import INTERN_OMNI, INTERNVL2
from hooked_omni.families.remote.minicpm_o import MINICPM_O
from hooked_omni.families.remote.minicpm_o_4_5 import MINICPM_O_4_5
from hooked_omni.families.remote.videollama2 import VIDEOLLAMA2
from hooked_omni.families.sound.audio_flamingo3 import AUDIO_FLAMINGO3
from hooked_omni.families.sound.qwen2_audio import QWEN2_AUDIO
from hooked_omni.families.sound.qwen3_asr import QWEN3_ASR
from hooked_omni.families.sound.voxtral import VOXTRAL
from hooked_omni.families.vision.internvl import INTERNVL
from hooked_omni.families.vision.llava_onevision import LLAVA_ONEVISION
from hooked_omni.families.vision.qwen2_5_vl import QWEN2_5_VL
from hooked_omni.families.vision.qwen2_vl import QWEN2_VL
from hooked_omni.families.vision.qwen3_vl import QWEN3_VL
from hooked_omni.families.vision.qwen3_vl_moe import QWEN3_VL_MOE
from hooked_omni.families.vision.video_llama3 import VIDEO_LLAMA3

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (
    QWEN2_5_OMNI,
    QWEN2_5_VL,
    QWEN3_OMNI,
    QWEN3_VL,
    QWEN3_VL_MOE,
    QWEN2_VL,
    INTERNVL,
    VIDEO_LLAMA3,
    LLAVA_ONEVISION,
    QWEN2_AUDIO,
    AUDIO_FLAMINGO3,
    VOXTRAL,
    QWEN3_ASR,
    MINICPM_O_4_5,  # before 2.6, which has the same model_type
    PHI4_MULTIMODAL,
    MINICPM_O,
    VIDEOLLAMA2,
    INTERN_OMNI,  # before its base, which has the same model_type
    INTERNVL2,
)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a `config.json`.

    Raises:
        UnknownModelError: If none here covers it, and for a decoder that cannot be hooked exactly.
    """
    kind, text = config.get("model_type"), config.get("text_config")
    for part in (kind, text.get("model_type") if isinstance(text, Mapping) else None):
        if reason := NOT_COMPUTED.get(str(part).removesuffix("_text")):
            raise UnknownModelError(
                f"expected a decoder that can be hooked exactly, got model_type {part!r}: it has "
                f"{reason}. Use one of those that `python -m hooked_omni models` lists."
            )
    for family in FAMILIES:
        has_key = family.config_key is None or family.config_key in config
        if kind in family.model_types and has_key:
            return family
    if advice := OTHER_LAYOUTS.get(str(kind)):
        raise UnknownModelError(f"expected a layout of transformers' own, got {kind!r}: {advice}.")
    known = sorted({t for family in FAMILIES for t in family.model_types})
    raise UnknownModelError(
        f"expected a model of type {known}, got {kind!r}. See docs/add-a-model.md."
    )
