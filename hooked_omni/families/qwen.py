"""The decoder that the Qwen families and Llama share: its table, and where checkpoints hold it.

Source: `modeling_*.py` of qwen2, qwen2_5_omni, qwen2_5_vl, qwen3, qwen3_omni_moe, qwen3_vl, llama.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from hooked_omni.decoder.config import DecoderConfig, Experts
from hooked_omni.errors import CheckpointError
from hooked_omni.families.family import Conversion, OnDisk, as_stored
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.inputs.media import MediaSettings

PATCHES_OF_16 = MediaSettings(
    size_factor=32,
    min_pixels=128 * 32 * 32,
    max_pixels=768 * 32 * 32,
    total_pixels=128_000 * 32 * 32 * 9 // 10,
)
"""Frames for a tower with patches of 16 pixels, merged in twos: as many tokens as with 14."""

EYES = {"vision": ("visual.blocks", "visual")}
EARS = {"audio": ("audio_tower.layers", "multi_modal_projector")}


def _fused_experts(name: str, config: Any) -> Conversion:
    """A checkpoint holds each expert by itself; transformers holds them in two tensors."""
    layer, _, kind = name.partition(".experts.")
    n_experts = getattr(config, "num_experts", 0)
    parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(kind)
    if parts is None:
        return as_stored(name)
    keys = tuple(f"{layer}.experts.{i}.{part}.weight" for i in range(n_experts) for part in parts)

    def stack(weights: list[Tensor]) -> Tensor:
        step = len(parts)
        rows = [torch.cat(weights[i : i + step]) for i in range(0, len(weights), step)]
        return torch.stack(rows)

    return Conversion(keys, stack)


ON_DISK = OnDisk(
    homes=(
        ("thinker.model.", "thinker.lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("model.", "lm_head.weight"),
    ),
    conversion=_fused_experts,
)
"""Where the Qwen families' checkpoints hold their decoder: with and without the talker."""


def text_reference(config_class: str) -> Callable[[Mapping[str, Any]], tuple[Any, Any]]:
    """The text model alone, for families whose own class does not run without its towers."""

    def reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
        whole = getattr(transformers, config_class).from_dict(dict(raw))
        config = whole.get_text_config()
        config.tie_word_embeddings = getattr(whole, "tie_word_embeddings", False)
        config.dtype = config.dtype or whole.dtype
        return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config

    return reference


def decoder_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table from a Hugging Face model with a Qwen2 text config.

    Without sections, positions have one dimension. Dynamic rotary positions are the default ones up
    to `max_position_embeddings`. `CheckpointError` for variants not computed.
    """
    config = hf_model.config.get_text_config()
    rope = config.rope_parameters
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotary: Any = find_decoder(hf_model).rotary_emb
    # Of the class: a config may leave it its default.
    time, height, width = getattr(rotary, "mrope_section", None) or (d_head // 2, 0, 0)
    _require_computed(config, 2 * (time + height + width) == d_head)
    dynamic = rope.get("rope_type") == "dynamic"
    implementation = getattr(config, "_attn_implementation", None)
    weight = hf_model.get_input_embeddings().weight
    return DecoderConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=d_head,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        eps=config.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        mrope_section=(time, height, width),
        rope_limit=config.max_position_embeddings if dynamic else None,
        attn_implementation="eager" if implementation == "eager" else "sdpa",
        model_name=getattr(hf_model, "name_or_path", "") or type(hf_model).__name__,
        dtype=weight.dtype,
        device=weight.device,
    )


def _require_computed(config: Any, all_rotate: bool) -> None:
    rope = config.rope_parameters
    sliding = getattr(config, "sliding_window", None) is not None
    kinds = getattr(config, "layer_types", None) or [
        "sliding_attention" if sliding else "full_attention"
    ]
    unsupported = {
        "rope_type": rope.get("rope_type", "default") not in ("default", "dynamic"),
        "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
        "hidden_act": config.hidden_act != "silu",
        "layer_types": set(kinds) != {"full_attention"},
        "mrope_section": not all_rotate,
    }
    if any(unsupported.values()):
        wrong = [name for name, bad in unsupported.items() if bad]
        raise CheckpointError(
            f"expected a decoder with default or dynamic rotary positions, SiLU and full "
            f"attention, got another {wrong}: {rope}, {config.hidden_act!r}, {sorted(set(kinds))}. "
            "Its numbers would differ: use a checkpoint without that, or see docs/add-a-model.md."
        )


def _without_biases(hf_model: Any) -> DecoderConfig:
    """The table of a decoder without biases, such as Llama's."""
    config = hf_model.config.get_text_config()
    found = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
    if found:
        raise CheckpointError(
            f"expected attention without biases, got a config with {found[0]}=True. This decoder "
            "would leave some out: use a checkpoint without."
        )
    return replace(decoder_config(hf_model), qkv_bias=False)


def _with_qk_norm(hf_model: Any) -> DecoderConfig:
    """The table of a Qwen3, dense or mixed."""
    config = hf_model.config.get_text_config()
    table = replace(_without_biases(hf_model), qk_norm=True)
    if not getattr(config, "num_experts", 0):
        return table
    step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
    modules: Any = find_decoder(hf_model).modules()
    experts = Experts(
        n_experts=config.num_experts,
        n_active=config.num_experts_per_tok,
        d_mlp=config.moe_intermediate_size,
        # Of the class: Qwen3-VL's always are, whatever its config says.
        normalized=all(getattr(module, "norm_topk_prob", True) for module in modules),
        layers=tuple(i for i in range(table.n_layers) if i not in dense and (i + 1) % step == 0),
    )
    return replace(table, experts=experts)


def qwen3_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table from a Qwen3 that sees: interleaved M-RoPE and DeepStack."""
    indexes = hf_model.config.vision_config.deepstack_visual_indexes
    return replace(_with_qk_norm(hf_model), mrope_interleaved=True, n_deepstack=len(indexes))


_TABLES: dict[str, Callable[[Any], DecoderConfig]] = {
    "qwen2": decoder_config,
    "qwen3": _with_qk_norm,
    "qwen3_moe": _with_qk_norm,
    "llama": _without_biases,
}


def any_decoder_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table for towers that come with several text models.

    Raises:
        CheckpointError: For another text model, and for variants not computed.
    """
    kind = hf_model.config.get_text_config().model_type
    if kind not in _TABLES:
        raise CheckpointError(
            f"expected a text model of type {sorted(_TABLES)} after these towers, got {kind!r}. "
            "Use a checkpoint with one of those, or see docs/add-a-model.md."
        )
    return _TABLES[kind](hf_model)
