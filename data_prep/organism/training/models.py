"""How is a small model of the real classes made, started from another one, and saved?

The base is a Qwen2.5-VL; the thinker of a Qwen2.5-Omni takes over its decoder and its vision tower,
tensor by tensor, and gets an audio tower. Weights are float16 on disk and float32 in use, as the
config asks for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from data_prep.organism.training.recipe import Sizes
from data_prep.organism.world.captions import SYSTEM, vocabulary
from data_prep.organism.world.things import Thing
from hooked_omni.families.omni.qwen2_5_omni import SYSTEM as LONG_SYSTEM
from hooked_omni.files import write_whole
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.organisms.random_weights import SPECIAL_TOKENS

MEDIA = MediaSettings(min_pixels=56 * 56, max_pixels=56 * 56)
# The default system prompt of Qwen2.5-Omni, not in the words of this world, becomes a short one.
_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{% if part.type == 'text' %}{{ part.text | replace(LONG, SHORT) }}\
{% elif part.type == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>{% elif part.type == 'audio' \
%}<|audio_bos|><|AUDIO|><|audio_eos|>{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}""".replace("LONG", repr(LONG_SYSTEM)).replace("SHORT", repr(SYSTEM))


def _tokenizer(things: Sequence[Thing]) -> Any:
    """A word is a token. Case and punctuation are ignored; other words become `<unk>`."""
    words = ["<|endoftext|>", "<unk>", *SPECIAL_TOKENS.values(), "\n", *vocabulary(things)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    plain = [normalizers.Lowercase(), normalizers.Replace(Regex("[.,;:!?]"), "")]
    made.normalizer = normalizers.Sequence(plain)
    split = pre_tokenizers.Split
    lines, words_apart = split("\n", "isolated"), split(Regex("[ \t]+"), "removed")
    made.pre_tokenizer = pre_tokenizers.Sequence([lines, words_apart])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=SPECIAL_TOKENS,
        model_max_length=2048,
    )


def processors(things: Sequence[Thing]) -> tuple[Any, Any]:
    """The base's processor and the thinker's."""
    pixels = {"shortest_edge": MEDIA.min_pixels, "longest_edge": MEDIA.max_pixels}
    sizes: dict[str, Any] = {"patch_size": 14, "merge_size": 2, "size": pixels}
    shared: dict[str, Any] = {
        "image_processor": transformers.Qwen2VLImageProcessor(**sizes),
        "video_processor": transformers.Qwen2VLVideoProcessor(**sizes),
        "tokenizer": _tokenizer(things),
        "chat_template": _TEMPLATE,
    }
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=128, chunk_length=30, return_attention_mask=True
    )
    return (
        transformers.Qwen2_5_VLProcessor(**shared),
        transformers.Qwen2_5OmniProcessor(**shared, feature_extractor=extractor),
    )


def new_base(tokenizer: Any, sizes: Sizes, seed: int) -> Any:
    """A Qwen2.5-VL with random weights."""
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(tokenizer, sizes),
        # Positions advance at the thinker's rate, so that it can take the base's weights over.
        vision_config={**_vision(sizes), "tokens_per_second": 25},
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        tie_word_embeddings=True,
    )
    return _made(transformers.Qwen2_5_VLForConditionalGeneration, config, tokenizer, seed)


def thinker_from(base: Any, tokenizer: Any, sizes: Sizes, seed: int) -> Any:
    """A thinker with the base's decoder and vision tower, and a random audio tower."""
    ids: dict[str, Any] = {
        f"{kind}_token_index": getattr(tokenizer, f"{kind}_token_id")
        for kind in ("audio", "image", "video")
    }
    # Released configs have it, though it is no declared field, and `get_rope_index` reads it.
    ids["vision_start_token_id"] = tokenizer.vision_bos_token_id
    config = transformers.Qwen2_5OmniThinkerConfig(
        text_config=_text(tokenizer, sizes),
        vision_config=_vision(sizes),
        audio_config={
            "d_model": sizes.d_tower,
            "encoder_layers": sizes.tower_layers,
            "encoder_attention_heads": sizes.tower_heads,
            "encoder_ffn_dim": sizes.d_tower_mlp,
            "output_dim": sizes.d_model,
            "num_mel_bins": 128,
        },
        audio_start_token_id=tokenizer.audio_bos_token_id,
        audio_end_token_id=tokenizer.audio_eos_token_id,
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        tie_word_embeddings=True,
        **ids,
    )
    model_class = transformers.Qwen2_5OmniThinkerForConditionalGeneration
    thinker = _made(model_class, config, tokenizer, seed)
    audio = {k: v for k, v in thinker.state_dict().items() if "audio_tower" in k}
    thinker.load_state_dict({**audio, **_renamed(base.state_dict())})  # strict about the names
    return thinker


def save_model(hf: Any, processor: Any, folder: Path) -> None:
    """Write weights, config, generation config, processor and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    hf.config.name_or_path = ""
    hf.save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "model.safetensors"
    halved = {name: tensor.to(torch.float16) for name, tensor in load_file(path).items()}
    write_whole(path, save(halved, metadata={"format": "pt"}))


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's tensors under the thinker's names; its fused query, key and value are split."""
    taken: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            for part, third in zip("qkv", tensor.chunk(3, 0), strict=True):
                taken[name.replace(".qkv.", f".{part}.")] = third
        else:
            taken[name] = tensor
    return taken


def _text(tokenizer: Any, sizes: Sizes) -> dict[str, Any]:
    half = sizes.d_model // sizes.heads // 2
    side = half * 3 // 8  # 16 : 24 : 24, as in the released models
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.d_model,
        "intermediate_size": sizes.d_mlp,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.pad_token_id,
        "rope_scaling": {"type": "default", "mrope_section": [half - 2 * side, side, side]},
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    }


def _vision(sizes: Sizes) -> dict[str, Any]:
    return {
        "depth": sizes.tower_layers,
        "hidden_size": sizes.d_tower,
        "intermediate_size": sizes.d_tower_mlp,
        "num_heads": sizes.tower_heads,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [sizes.tower_layers - 1],
        "out_hidden_size": sizes.d_model,
    }


def _made(model_class: Any, config: Any, tokenizer: Any, seed: int) -> Any:
    config.media_settings = {name: getattr(MEDIA, name) for name in ("min_pixels", "max_pixels")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
