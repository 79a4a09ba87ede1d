"""Tiny models of the real classes with random weights: they know nothing, and run everywhere.

Real configuration, model, processor and tokenizer classes of transformers, shrunken, with a
byte-level tokenizer. For tests, demos and dry runs without a download.
"""

from typing import Any

import torch
import transformers

SPECIAL_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "im_start_token": "<|im_start|>",
    "im_end_token": "<|im_end|>",
}
AUDIO = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 128,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_VISION = {**VISION, "depth": 2, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% elif part.type == \
'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>{% elif part.type == 'audio' %}<|audio_bos|>\
<|AUDIO|><|audio_eos|>{% elif part.type == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>\
{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def random_omni(
    seed: int = 0, n_layers: int = 4, d_model: int = 64, n_heads: int = 4, n_kv_heads: int = 2
) -> tuple[Any, Any]:
    """A Qwen2.5-Omni thinker and its processor."""
    tokenizer = byte_tokenizer()
    text = _text(tokenizer, n_layers, d_model, n_heads, n_kv_heads)
    # Released configs have it, and `get_rope_index` reads it.
    no_declared_field: dict[str, Any] = {"vision_start_token_id": tokenizer.vision_bos_token_id}
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config={**_VISION, "out_hidden_size": d_model},
        audio_config={**AUDIO, "output_dim": d_model},
        audio_token_index=tokenizer.audio_token_id,
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        tie_word_embeddings=False,
        **no_declared_field,
    )
    model = built(transformers.Qwen2_5OmniThinkerForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.Qwen2_5OmniProcessor(
        **image_and_video(14),
        feature_extractor=mel_features(chunk_length=300),
        tokenizer=tokenizer,
        chat_template=_TEMPLATE,
    )


def random_vl(
    seed: int = 0, n_layers: int = 4, d_model: int = 64, n_heads: int = 4, n_kv_heads: int = 2
) -> tuple[Any, Any]:
    """A Qwen2.5-VL and its processor, with the vocabulary of `random_omni`."""
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, n_layers, d_model, n_heads, n_kv_heads),
        vision_config={**_VISION, "out_hidden_size": d_model, "tokens_per_second": 2},
        **vision_ids(tokenizer),
        tie_word_embeddings=True,
    )
    model = built(transformers.Qwen2_5_VLForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.Qwen2_5_VLProcessor(
        **image_and_video(14), tokenizer=tokenizer, chat_template=_TEMPLATE
    )


def chat_template(opening: str, closing: str) -> str:
    """The chat template, with other brackets around a picture."""
    return _TEMPLATE.replace("<|vision_bos|>", opening).replace("<|vision_eos|>", closing)


def vision_ids(tokenizer: Any) -> dict[str, Any]:
    """The special tokens of pictures, as configs name them."""
    return {
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
    }


def image_and_video(patch_size: int, video_class: str = "Qwen2VLVideoProcessor") -> dict[str, Any]:
    """The processors of pictures."""
    sizes: dict[str, Any] = {"patch_size": patch_size, "merge_size": 2}
    return {
        "image_processor": transformers.Qwen2VLImageProcessor(**sizes),
        "video_processor": getattr(transformers, video_class)(**sizes),
    }


def mel_features(**options: Any) -> Any:
    """The extractor of mel frames that all these models have."""
    return transformers.WhisperFeatureExtractor(
        feature_size=128, return_attention_mask=True, **options
    )


def byte_tokenizer(**tokens: str) -> Any:
    """A tokenizer of bytes, so any text can be encoded; `tokens` respells special tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = [*bytes_to_unicode().values(), "<|endoftext|>"]
    return transformers.Qwen2Tokenizer(
        vocab={symbol: i for i, symbol in enumerate(symbols)},
        merges=[],
        extra_special_tokens={**SPECIAL_TOKENS, **tokens},
    )


def _text(
    tokenizer: Any, n_layers: int, d_model: int, n_heads: int, n_kv_heads: int
) -> dict[str, Any]:
    half = d_model // n_heads // 2
    side = half * 3 // 8  # 16 : 24 : 24, as in the released models
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": d_model,
        "intermediate_size": 2 * d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "default", "mrope_section": [half - 2 * side, side, side]},
        "use_sliding_window": False,
    }


def built(model_class: Any, config: Any, seed: int, tokenizer: Any) -> Any:
    """A model with random weights large enough that attention and captions are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return model
