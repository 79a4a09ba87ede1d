"""Tiny models that have other towers before a Qwen2, Qwen3 or Llama; see `random_weights.py`."""

from copy import deepcopy
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
_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_SEES = {**_TOWER, "intermediate_size": 64, "patch_size": 14}
_PARTS = "in message.content"  # of the chat template
_SOUND = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def random_qwen2_vl(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen2-VL and its processor."""
    tokenizer = byte_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = {
        "text_config": {**_text("qwen2_vl_text", tokenizer), "rope_parameters": rope},
        "vision_config": {**VISION, "depth": 2, "embed_dim": 32, "hidden_size": 64},
        **vision_ids(tokenizer),
    }
    template = chat_template("<|vision_bos|>", "<|vision_eos|>")
    return _made("Qwen2VL", seed, tokenizer, config, template, **image_and_video(14))


def random_internvl(seed: int = 0, text: str = "qwen2") -> tuple[Any, Any]:
    """An InternVL with a text model of type `text`, and its processor."""
    tokenizer = byte_tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = {
        "text_config": _text(text, tokenizer),
        "vision_config": {**_SEES, "image_size": [56, 56], "patch_size": [14, 14]},
        "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        "image_seq_length": 4,
        "tie_word_embeddings": False,
    }
    pictures = {
        "image_processor": transformers.GotOcr2ImageProcessor(size=_SIDE),
        "video_processor": transformers.InternVLVideoProcessor(size=_SIDE),
        "image_seq_length": 4,
    }
    template = chat_template("", "\n").replace("<|VIDEO|>", "<video>")
    return _made("InternVL", seed, tokenizer, config, template, **pictures)


def random_video_llama3(seed: int = 0) -> tuple[Any, Any]:
    """A VideoLLaMA3 and its processor."""
    tokenizer = byte_tokenizer()
    config = {
        "text_config": _text("qwen2", tokenizer),
        "vision_config": _SEES,
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "tie_word_embeddings": True,
    }
    pictures = {
        "image_processor": transformers.VideoLlama3ImageProcessor(),
        "video_processor": transformers.VideoLlama3VideoProcessor(),
    }
    return _made("VideoLlama3", seed, tokenizer, config, chat_template("", "\n"), **pictures)


def random_llava_onevision(seed: int = 0) -> tuple[Any, Any]:
    """A LLaVA-OneVision and its processor; as in the released one, a clip comes first."""
    tokenizer = byte_tokenizer()
    siglip = {"model_type": "siglip_vision_model", "image_size": 56, "vision_use_head": False}
    config = {
        "text_config": _text("qwen2", tokenizer),
        "vision_config": {**_SEES, **siglip},
        "image_token_index": tokenizer.image_token_id,
        "video_token_index": tokenizer.video_token_id,
        "image_grid_pinpoints": [[56, 56]],
    }
    pictures = {
        "image_processor": transformers.LlavaOnevisionImageProcessor(size=_SIDE),
        "video_processor": transformers.LlavaOnevisionVideoProcessor(size=_SIDE),
        "num_image_tokens": 16,
        "vision_feature_select_strategy": "full",
    }
    template = chat_template("", "\n").replace(
        _PARTS, f"{_PARTS} | sort(attribute='type') | reverse"
    )
    return _made("LlavaOnevision", seed, tokenizer, config, template, **pictures)


def random_audio(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen2-Audio and its processor."""
    tokenizer = byte_tokenizer()
    config = {
        "text_config": _text("qwen2", tokenizer),
        "audio_config": AUDIO,
        "audio_token_index": tokenizer.audio_token_id,
    }
    sound = {"feature_extractor": mel_features()}
    return _made("Qwen2Audio", seed, tokenizer, config, chat_template("", ""), **sound)


def random_audio_flamingo3(seed: int = 0) -> tuple[Any, Any]:
    """An Audio Flamingo 3 and its processor; as in the released one, a sound comes first."""
    tokenizer = byte_tokenizer(audio_token="<sound>")
    config = {
        "text_config": _text("qwen2", tokenizer),
        "audio_config": {**_TOWER, "intermediate_size": 64},
        "audio_token_id": tokenizer.audio_token_id,
    }
    template = chat_template("", "").replace(_SOUND, "<sound>")
    template = template.replace(_PARTS, f"{_PARTS} | sort(attribute='type')")
    sound = {"feature_extractor": mel_features()}
    return _made("AudioFlamingo3", seed, tokenizer, config, template, **sound)


def random_voxtral(seed: int = 0) -> tuple[Any, Any]:
    """A Voxtral without a processor: its tokenizer is a package that is not installed here."""
    tokenizer = byte_tokenizer()
    config = transformers.VoxtralConfig(
        text_config={**_text("llama", tokenizer), "vocab_size": 296},
        audio_config={**_TOWER, "intermediate_size": 128},
        audio_token_id=24,  # which is written in `VoxtralProcessor`, too
    )
    model = built(transformers.VoxtralForConditionalGeneration, config, seed, tokenizer)
    model.generation_config.eos_token_id = 2
    return model, None


def random_qwen3_asr(seed: int = 0) -> tuple[Any, Any]:
    """A Qwen3-ASR and its processor; as in the released one, the user's turn has no words."""
    tokenizer = byte_tokenizer()
    tower = {"downsample_hidden_size": 16, "output_dim": 64, "n_window_infer": 100}
    config = {
        "text_config": _text("qwen3", tokenizer),
        "audio_config": {**AUDIO, **tower},
        "audio_token_id": tokenizer.audio_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }
    words = "{{ part.text }}"
    system = "{% if message.role == 'system' %}" + words + "{% endif %}"
    template = chat_template("", "").replace(words, system)
    sound = {"feature_extractor": transformers.Qwen3ASRFeatureExtractor()}
    return _made("Qwen3ASR", seed, tokenizer, config, template, **sound)


def _made(
    name: str, seed: int, tokenizer: Any, config: dict[str, Any], template: str, **parts: Any
) -> tuple[Any, Any]:
    """The model of a family of transformers, and its processor with `parts`."""
    # A copy: older classes write into what they are given.
    made = getattr(transformers, f"{name}Config")(**deepcopy(config))
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    model = built(model_class, made, seed, tokenizer)
    processor_class = getattr(transformers, f"{name}Processor")
    return model, processor_class(tokenizer=tokenizer, chat_template=template, **parts)


def _text(kind: str, tokenizer: Any) -> dict[str, Any]:
    text = {**TEXT, "model_type": kind, "vocab_size": len(tokenizer)}
    if kind.startswith("qwen2"):
        del text["head_dim"]  # these have none
    return text
