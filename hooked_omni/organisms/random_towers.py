"""Tiny models that have new towers before a Qwen2, Qwen3 or Llama; see `random_weights.py`."""

from typing import Any

import transformers

from hooked_omni.organisms.random_qwen3 import TEXT
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

_SIDE = {"height": 56, "width": 56}
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_TOWER |= {"num_attention_heads": 2, "patch_size": 14}


def random_qwen2_vl(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen2-VL and its processor."""
    tokenizer = byte_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = transformers.Qwen2VLConfig(
        text_config={**_text("qwen2_vl_text", tokenizer), "rope_parameters": rope},
        vision_config={**VISION, "depth": 2, "embed_dim": 32, "hidden_size": 64, "patch_size": 14},
        **vision_ids(tokenizer),
    )
    model = built(transformers.Qwen2VLForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.Qwen2VLProcessor(
        **image_and_video(14),
        tokenizer=tokenizer,
        chat_template=chat_template("<|vision_bos|>", "<|vision_eos|>"),
    )


def random_internvl(seed: int = 0, text: str = "qwen2") -> tuple[Any, Any]:
    """An InternVL with a text model of type `text`, and its processor."""
    tokenizer = byte_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = transformers.InternVLConfig(
        text_config=_text(text, tokenizer),
        vision_config={**_TOWER, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    model = built(transformers.InternVLForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=_SIDE),
        video_processor=transformers.InternVLVideoProcessor(size=_SIDE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chat_template("", "\n").replace("<|VIDEO|>", "<video>"),
    )


def random_video_llama3(seed: int = 0) -> tuple[Any, Any]:
    """A VideoLLaMA3 and its processor."""
    tokenizer = byte_tokenizer()
    ids = vision_ids(tokenizer)
    config = transformers.VideoLlama3Config(
        text_config=_text("qwen2", tokenizer),
        vision_config=_TOWER,
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
        tie_word_embeddings=True,
    )
    model = built(transformers.VideoLlama3ForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.VideoLlama3Processor(
        image_processor=transformers.VideoLlama3ImageProcessor(),
        video_processor=transformers.VideoLlama3VideoProcessor(),
        tokenizer=tokenizer,
        chat_template=chat_template("", "\n"),
    )


def random_llava_onevision(seed: int = 0) -> tuple[Any, Any]:
    """A LLaVA-OneVision and its processor."""
    tokenizer = byte_tokenizer()
    config = transformers.LlavaOnevisionConfig(
        text_config=_text("qwen2", tokenizer),
        vision_config={
            **_TOWER,
            "model_type": "siglip_vision_model",
            "image_size": 56,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=[[56, 56]],
    )
    model = built(transformers.LlavaOnevisionForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=_SIDE),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=_SIDE),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("", "\n"),
    )


def random_audio(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen2-Audio and its processor."""
    tokenizer = byte_tokenizer()
    config = transformers.Qwen2AudioConfig(
        text_config=_text("qwen2", tokenizer),
        audio_config=AUDIO,
        audio_token_index=tokenizer.audio_token_id,
    )
    model = built(transformers.Qwen2AudioForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.Qwen2AudioProcessor(
        feature_extractor=mel_features(),
        tokenizer=tokenizer,
        chat_template=chat_template("<|vision_bos|>", "<|vision_eos|>"),
    )


def random_audio_flamingo3(seed: int = 0) -> tuple[Any, Any]:
    """An Audio Flamingo 3 and its processor."""
    tokenizer = byte_tokenizer(audio_token="<sound>")
    config = transformers.AudioFlamingo3Config(
        text_config=_text("qwen2", tokenizer),
        audio_config=_whisper(),
        audio_token_id=tokenizer.audio_token_id,
    )
    model = built(transformers.AudioFlamingo3ForConditionalGeneration, config, seed, tokenizer)
    return model, transformers.AudioFlamingo3Processor(
        feature_extractor=mel_features(),
        tokenizer=tokenizer,
        chat_template=_bare_sound("<sound>"),
    )


def random_qwen3_asr(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen3-ASR and its processor; as in the released one, the user's turn has no words."""
    tokenizer = byte_tokenizer()
    config = transformers.Qwen3ASRConfig(
        text_config=_text("qwen3", tokenizer),
        audio_config={
            **AUDIO,
            "downsample_hidden_size": 16,
            "output_dim": 64,
            "n_window": 50,
            "n_window_infer": 100,
        },
        audio_token_id=tokenizer.audio_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    model = built(transformers.Qwen3ASRForConditionalGeneration, config, seed, tokenizer)
    words = "{{ part.text }}"
    kept = "{% if message.role == 'system' %}" + words + "{% endif %}"
    return model, transformers.Qwen3ASRProcessor(
        feature_extractor=transformers.Qwen3ASRFeatureExtractor(),
        tokenizer=tokenizer,
        chat_template=chat_template("", "").replace(words, kept),
    )


def random_voxtral(seed: int = 0) -> tuple[Any, Any]:
    """A Voxtral without a processor: its tokenizer is a package that is not installed here."""
    tokenizer = byte_tokenizer()
    config = transformers.VoxtralConfig(
        text_config={**_text("llama", tokenizer), "vocab_size": 296},
        audio_config={**_whisper(), "intermediate_size": 128},
        audio_token_id=24,  # which is written in `VoxtralProcessor`, too
    )
    model = built(transformers.VoxtralForConditionalGeneration, config, seed, tokenizer)
    model.generation_config.eos_token_id = 2
    return model, None


def _text(kind: str, tokenizer: Any) -> dict[str, Any]:
    text = {**TEXT, "model_type": kind, "vocab_size": len(tokenizer)}
    if kind.startswith("qwen2"):
        del text["head_dim"]  # these have none
    return text


def _whisper() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_mel_bins": 128,
    }


def _bare_sound(token: str) -> str:
    """The chat template, with one token for a sound and no brackets."""
    return chat_template("", "").replace("<|audio_bos|><|AUDIO|><|audio_eos|>", token)
