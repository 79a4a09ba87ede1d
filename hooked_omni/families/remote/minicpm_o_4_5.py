"""MiniCPM-o 4.5: as 2.6, read by a Qwen3, with ten tokens for a second of sound.

Its towers are code of the checkpoint (`modeling_minicpmo.py` of openbmb/MiniCPM-o-4_5, transformers
4.51). Differences from 2.6: `chat` takes `omni_mode` and keeps its processor; there is no `<unit>`;
a sound alone is not cut into seconds; answers do not think aloud, so that a prompt ends in an empty
`<think>` block, and with any sound in `<|tts_bos|>`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import CheckpointError
from hooked_omni.families import qwen
from hooked_omni.families.remote.minicpm_o import MINICPM_O, MiniCPMProcessor
from hooked_omni.families.remote.text_model import as_qwen, qwen_reference


class MiniCPM45Processor(MiniCPMProcessor):
    """Messages to inputs, as the model's own `chat` makes them."""

    unit = ()

    def __init__(self, hf_model: Any, processor: Any) -> None:
        super().__init__(hf_model, processor)
        hf_model.processor = processor

    def options(self, omni_input: bool) -> dict[str, Any]:
        """Arguments of `chat`, which makes the template of a spoken answer for any sound."""
        greedy = {"do_sample": False, "num_beams": 1}
        return {**greedy, "omni_mode": omni_input, "enable_thinking": False}


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    version = str(raw.get("version", "4.5"))
    if version != "4.5" or raw.get("attention_bias"):
        raise CheckpointError(
            f"expected MiniCPM-o version 4.5 without biases of attention, got {version} and "
            f"{raw.get('attention_bias')}. Load a checkpoint of openbmb/MiniCPM-o-4_5."
        )
    return qwen_reference(raw, "Qwen3")


def _decoder_config(hf_model: Any) -> DecoderConfig:
    return replace(qwen.decoder_config(hf_model), qkv_bias=False, qk_norm=True)


assert MINICPM_O.remote is not None
MINICPM_O_4_5 = replace(
    MINICPM_O,
    name="minicpm-o-4.5",
    checkpoints="MiniCPM-o 4.5",
    decoder="Qwen3: qk-norm, 1-D positions",
    proved="0 against Qwen3ForCausalLM on a stand-in; released code, tiny weights, 4.51.0: 0 at "
    "prefill, equal tokens",
    config_key="head_dim",  # of Qwen3's config
    decoder_config=_decoder_config,
    on_disk=replace(MINICPM_O.on_disk, reference=_reference),
    remote=replace(
        MINICPM_O.remote,
        processor=MiniCPM45Processor,
        text_model=partial(as_qwen, reference=_reference),
        needs=(
            "It was written for transformers 4.51.0 with torchaudio, librosa and minicpmo-utils."
        ),
    ),
)
