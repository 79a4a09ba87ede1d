"""Tiny Qwen3-Omni and Qwen3-VL, dense and mixed, of the real classes; see `random_weights.py`."""

from typing import Any

import transformers

from hooked_omni.organisms.random_weights import (
    AUDIO,
    VISION,
    built,
    byte_tokenizer,
    chat_template,
    image_and_video,
    mel_features,
    vision_ids,
)

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,  # not d_model / n_heads, as in the released model
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 4, 4]}
_VISION = {
    **VISION,
    "depth": 3,
    "patch_size": 16,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
_PARTS = {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}


def random_omni3(
    seed: int = 0, n_layers: int = 4, d_model: int = 64, n_experts: int = 8
) -> tuple[Any, Any]:
    """A Qwen3-Omni thinker, two of whose experts read each position, and its processor.

    The third block has a dense MLP.
    """
    tokenizer = byte_tokenizer(**_PARTS)
    config = transformers.Qwen3OmniMoeThinkerConfig(
        text_config={
            **TEXT,
            "num_hidden_layers": n_layers,
            "hidden_size": d_model,
            "intermediate_size": 2 * d_model,
            "vocab_size": len(tokenizer),
            "rope_parameters": {**_ROPE, "mrope_interleaved": True},
            "num_experts": n_experts,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": d_model // 2,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [2],
        },
        vision_config={**_VISION, "out_hidden_size": d_model},
        audio_config={
            **AUDIO,
            "downsample_hidden_size": 16,
            "output_dim": d_model,
            "n_window": 50,
            "n_window_infer": 100,
        },
        audio_token_id=tokenizer.audio_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        position_id_per_seconds=13,
        **vision_ids(tokenizer),
    )
    model = built(transformers.Qwen3OmniMoeThinkerForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.Qwen3OmniMoeProcessor(
        **image_and_video(16),
        feature_extractor=mel_features(),
        tokenizer=tokenizer,
        chat_template=chat_template("<|vision_start|>", "<|vision_end|>"),
    )


def random_vl3(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen3-VL and its processor."""
    return _random_vl3("Qwen3VL", seed, {}, tie_word_embeddings=True)


def random_vl3_moe(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen3-VL with a mixture of experts in all blocks but the second, and its processor."""
    experts = {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [1],
    }
    return _random_vl3("Qwen3VLMoe", seed, experts, tie_word_embeddings=False)


def _random_vl3(name: str, seed: int, more: dict[str, Any], **options: Any) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer(**_PARTS)
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {**_ROPE, "mrope_interleaved": True},
            **more,
        },
        vision_config=_VISION,
        **vision_ids(tokenizer),
        **options,
    )
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    return built(model_class, config, seed, tokenizer), transformers.Qwen3VLProcessor(
        **image_and_video(16, "Qwen3VLVideoProcessor"),
        tokenizer=tokenizer,
        # The processor writes the brackets of a video itself, around every step.
        chat_template=chat_template("", "").replace(
            "<|IMAGE|>", "<|vision_start|><|IMAGE|><|vision_end|>"
        ),
    )
