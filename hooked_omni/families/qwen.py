"""The decoder that the Qwen families share: its table, and where checkpoints hold it.

Source: `modeling_*.py` of qwen2, qwen2_5_omni, qwen2_5_vl, qwen3_omni_moe and qwen3_vl.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hooked_omni.decoder.config import DecoderConfig, Experts
from hooked_omni.errors import CheckpointError
from hooked_omni.families.family import Conversion, OnDisk, as_stored
from hooked_omni.inputs.media import MediaSettings

PATCHES_OF_16 = MediaSettings(
    size_factor=32,
    min_pixels=128 * 32 * 32,
    max_pixels=768 * 32 * 32,
    total_pixels=128_000 * 32 * 32 * 9 // 10,
)
"""Frames for a tower with patches of 16 pixels, merged in twos: as many tokens as with 14."""

EYES = {"vision": ("visual.blocks", "visual")}


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


def decoder_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table from a Hugging Face model with a Qwen2 text config.

    Without sections, positions have one dimension. `CheckpointError` for variants not computed.
    """
    config = hf_model.config.get_text_config()
    rope = config.rope_parameters
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    time, height, width = rope.get("mrope_section") or (d_head // 2, 0, 0)
    sliding = getattr(config, "sliding_window", None) is not None
    kinds = getattr(config, "layer_types", None) or [
        "sliding_attention" if sliding else "full_attention"
    ]
    unsupported = {
        "rope_type": rope.get("rope_type", "default") != "default",
        "hidden_act": config.hidden_act != "silu",
        "layer_types": set(kinds) != {"full_attention"},
        "mrope_section": 2 * (time + height + width) != d_head,
    }
    if any(unsupported.values()):
        wrong = [name for name, bad in unsupported.items() if bad]
        raise CheckpointError(
            f"expected a Qwen decoder with default rotary positions, SiLU and full attention, got "
            f"another {wrong}: {rope}, {config.hidden_act!r}, {sorted(set(kinds))}."
        )
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
        attn_implementation="eager" if implementation == "eager" else "sdpa",
        model_name=getattr(hf_model, "name_or_path", "") or type(hf_model).__name__,
        dtype=weight.dtype,
        device=weight.device,
    )


def qwen3_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table from a Hugging Face model with a Qwen3 text config, dense or mixed."""
    config, vision = hf_model.config.get_text_config(), hf_model.config.vision_config
    if config.attention_bias:
        raise CheckpointError(
            "expected attention without biases, got a config with attention_bias=True. This "
            "decoder would leave out the output projection's."
        )
    table = replace(
        decoder_config(hf_model),
        mrope_interleaved=True,
        qkv_bias=False,
        qk_norm=True,
        n_deepstack=len(vision.deepstack_visual_indexes),
    )
    if not getattr(config, "num_experts", 0):
        return table
    step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
    experts = Experts(
        n_experts=config.num_experts,
        n_active=config.num_experts_per_tok,
        d_mlp=config.moe_intermediate_size,
        normalized=config.norm_topk_prob,
        layers=tuple(i for i in range(table.n_layers) if i not in dense and (i + 1) % step == 0),
    )
    return replace(table, experts=experts)
