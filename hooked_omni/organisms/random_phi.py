"""A tiny Phi-4-multimodal of the real classes; see `random_weights.py`."""

from typing import Any

import transformers

from hooked_omni.organisms.random_weights import built, byte_tokenizer

_TOKENS = {
    "image_token": "<|endoftext10|>",
    "audio_token": "<|endoftext11|>",
    **{f"{name}_token": f"<|{name}|>" for name in ("system", "user", "assistant", "end")},
}


def random_phi4(
    seed: int = 0, window: int | None = 48, longest_short: int = 4096
) -> tuple[Any, Any]:
    """A Phi-4-multimodal and its processor.

    Every layer reads `window` positions; prompts of over `longest_short` turn by other frequencies.
    Pictures have the released model's size: its processor counts no other tokens.
    """
    tokenizer = byte_tokenizer(**_TOKENS)
    sides: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    convolutions = ("ext_pw_out_channel", "depthwise_separable_out_channel", "nemo_conv_channels")
    config = transformers.Phi4MultimodalConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=131_072,
        original_max_position_embeddings=longest_short,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0 + i / 8 for i in range(6)],
            "long_factor": [2.0 + i for i in range(6)],
        },
        sliding_window=window,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        vision_config={**sides, "num_hidden_layers": 3, "image_token_id": tokenizer.image_token_id},
        audio_config={
            **sides,
            **dict.fromkeys(convolutions, 32),
            "num_blocks": 2,
            "audio_token_id": tokenizer.audio_token_id,
        },
    )
    model = built(transformers.Phi4MultimodalForCausalLM, config, seed, tokenizer)
    # One that is generated would be filled with the prompt's clip again, which fails.
    model.lm_head.weight[[tokenizer.image_token_id, tokenizer.audio_token_id]] = 0.0
    return model, transformers.Phi4MultimodalProcessor(
        image_processor=transformers.Phi4MultimodalImageProcessor(),
        audio_processor=transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer=tokenizer,
    )
