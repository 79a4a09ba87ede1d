"""InternVL2 and InternOmni: tiles of 256 tokens, then the sound, read by an InternLM2.

InternLM2 is Llama under other names, with queries, keys and values of each key-value head in one
tensor; here it runs as Llama, without its own code, which transformers 5 breaks. Past
`max_position_embeddings` its rotary base would change with the length (dynamic NTK): such prompts
are refused. The towers are code of the checkpoint (OpenGVLab), for transformers 4.37; their own
`chat` makes the inputs, as the model cards do for a video: one tile a frame, `Frame1: <image>`,
question last. InternOmni's sound stands before the question, as `<audio>...</audio>`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import checks, processing, qwen
from hooked_omni.families.family import Conversion, Family, OnDisk, Remote, as_stored
from hooked_omni.families.processing import require_plain_words
from hooked_omni.families.remote.chat import (
    file_options,
    pictures,
    question_after_clip,
    stopped,
)
from hooked_omni.families.remote.text_model import as_text_model, set_dtype
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_TOKENS_PER_SECOND = 25
_MOST_SAMPLES = 30 * 16_000
_NAMES = {
    "embed_tokens": "tok_embeddings",
    "o_proj": "wo",
    "gate_proj": "w1",
    "up_proj": "w3",
    "down_proj": "w2",
    "self_attn": "attention",
    "mlp": "feed_forward",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _conversion(name: str, config: Any) -> Conversion:
    """Llama's tensor from InternLM2's: rows are [queries, key, value] of each key-value head."""
    parts = [_NAMES.get(part, part) for part in name.split(".")]
    if len(parts) < 2 or parts[-2] not in ("q_proj", "k_proj", "v_proj"):
        return as_stored(".".join(parts))
    kind, n_kv = parts[-2], config.num_key_value_heads
    groups = config.num_attention_heads // n_kv
    rows = {"q_proj": slice(groups), "k_proj": slice(groups, groups + 1)}
    own = rows.get(kind, slice(groups + 1, groups + 2))

    def split(tensors: list[Tensor]) -> Tensor:
        fused = tensors[0].unflatten(0, (n_kv, groups + 2, config.head_dim))
        return fused[:, own].flatten(0, 2).contiguous()

    return Conversion((".".join([*parts[:-2], "wqkv", parts[-1]]),), split)


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    llm = raw["llm_config"]
    kind, scaling = (llm.get("architectures") or ["?"])[0], llm.get("rope_scaling") or {}
    wrong = {
        "architectures": kind != "InternLM2ForCausalLM",
        "bias": bool(llm.get("bias", False)),
        "rope_scaling": scaling.get("type", "dynamic") != "dynamic",
    }
    if any(wrong.values()):
        raise CheckpointError(
            f"expected an InternLM2 without biases, with default or dynamic rotary positions, got "
            f"another {[name for name, bad in wrong.items() if bad]}: {kind}, {scaling}. Other "
            "sizes of this family have other decoders."
        )
    config = transformers.LlamaConfig(
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        intermediate_size=llm["intermediate_size"],
        num_hidden_layers=llm["num_hidden_layers"],
        num_attention_heads=llm["num_attention_heads"],
        num_key_value_heads=llm.get("num_key_value_heads") or llm["num_attention_heads"],
        hidden_act=llm.get("hidden_act", "silu"),
        max_position_embeddings=llm["max_position_embeddings"],
        rms_norm_eps=llm["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": llm.get("rope_theta", 10000.0)},
        tie_word_embeddings=llm.get("tie_word_embeddings", False),
        attention_bias=False,
        mlp_bias=False,
    )
    config.rope_changes_after = llm["max_position_embeddings"] if scaling else None
    stored = llm.get("torch_dtype") or raw.get("torch_dtype")
    set_dtype(config, {"dtype": llm.get("dtype"), "torch_dtype": stored})
    return transformers.LlamaForCausalLM, config


def _decoder_config(hf_model: Any) -> DecoderConfig:
    table = replace(qwen.decoder_config(hf_model), qkv_bias=False)
    return replace(table, rope_limit=hf_model.config.rope_changes_after)


def _as_llama(hf_model: Any) -> Any:
    """Transformers' Llama on InternLM2's tensors; queries, keys and values are copied out."""
    head = hf_model.language_model.get_output_embeddings()
    return as_text_model(hf_model, _reference, head, _conversion)


class InternVLProcessor:
    """Words and tiles to inputs, as the model's own `chat` makes them."""

    def __init__(self, hf_model: Any, processor: Any) -> None:
        self.hf = hf_model
        self.tokenizer, self.sound = (
            processor if isinstance(processor, tuple) else (processor, None)
        )
        ids = self.tokenizer.convert_tokens_to_ids(["<IMG_CONTEXT>", "<AUDIO_CONTEXT>"])
        hf_model.img_context_token_id, hf_model.audio_context_token_id = ids

    def __call__(self, words: str, tiles: Tensor | None, system: str | None) -> dict[str, Any]:
        before = self.hf.system_message
        self.hf.system_message = before if system is None else system
        counts = [] if tiles is None else [1] * len(tiles)
        try:
            return stopped(
                self.hf,
                lambda: self.hf.chat(self.tokenizer, tiles, words, {}, num_patches_list=counts),
            )
        finally:
            self.hf.system_message = before


def _load_vl(name: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    attention = options.pop("attn_implementation")  # its own code knows no sdpa
    hf = transformers.AutoModel.from_pretrained(name, trust_remote_code=True, **options)
    hf.config._attn_implementation = attention
    return hf, transformers.AutoTokenizer.from_pretrained(
        name, trust_remote_code=True, use_fast=False, **file_options(options)
    )


def _load_omni(name: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    sound = transformers.WhisperFeatureExtractor.from_pretrained(name, **file_options(options))
    hf, tokenizer = _load_vl(name, options)
    return hf, (tokenizer, sound)


def _media_tokens(hf_model: Any) -> dict[str, int]:
    ids = {"video": hf_model.img_context_token_id}
    audio = getattr(hf_model, "audio_context_token_id", None)
    return ids if audio is None else {**ids, "audio": audio}


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    tokens, pixels = inputs["input_ids"], inputs.get("pixel_values")
    expected = {
        "video": 0 if pixels is None else len(pixels) * hf_model.num_image_token,
        "audio": int(torch.as_tensor(inputs.get("audio_token_num", 0)).sum()),
    }
    for name, token in _media_tokens(hf_model).items():
        came = int((tokens == token).sum())
        if came != expected[name]:
            raise PromptError(
                f"expected {expected[name]} {name} tokens for these inputs, got {came}. Pass one "
                "call's output."
            )


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    tiles, features = inputs.get("pixel_values"), inputs.get("audio_values")
    halved = 0  # of 100 mel frames a second
    if features is not None:
        halved = min(int(inputs["audio_len_after_cnn"].sum()), features.shape[-1] // 2)
    return halved / 50, () if tiles is None else (len(tiles),)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    seconds, frames = {}, None
    if n_tokens.get("audio"):
        seconds["audio"] = torch.arange(n_tokens["audio"]) / _TOKENS_PER_SECOND
    if n_tokens["video"]:
        frames = checks.square_cells(n_tokens["video"], hf_model.num_image_token)
    return seconds, frames


def _prepare(
    processor: InternVLProcessor, prompt: Prompt, video: Video | None, audio: Audio | None
) -> dict[str, Any]:
    placeholders = ("<image>", "<audio>", "<IMG_CONTEXT>", "<AUDIO_CONTEXT>")
    require_plain_words(processor.tokenizer, prompt, placeholders)
    words, tiles, heard = prompt.text, None, {}
    weight = processor.hf.get_input_embeddings().weight
    if audio is not None:
        if processor.sound is None:
            raise PromptError("expected a processor for sound, got a tokenizer alone. Pass both.")
        made = processor.sound(
            audio.samples, sampling_rate=audio.sampling_rate, return_tensors="pt"
        )
        halved = (min(len(audio.samples), _MOST_SAMPLES) // 160 - 1) // 2 + 1
        number = (halved - 2) // 2 + 1
        words = f"<audio>{'<AUDIO_CONTEXT>' * number}</audio>\n{words}"
        heard = {
            "audio_values": made["input_features"].to(weight),
            "audio_len_after_cnn": torch.tensor([halved]),
            "audio_token_num": torch.tensor([number]),
        }
    if video is not None:
        tiles = _tiles(video.frames, processor.hf.config).to(weight)
        frames = "".join(f"Frame{i + 1}: <image>\n" for i in range(len(tiles)))
        words = frames + words
    inputs = processor(words, tiles, prompt.system)
    kept = {k: inputs.get(k) for k in ("input_ids", "attention_mask", "pixel_values")}
    return {k: v for k, v in kept.items() if v is not None} | heard


def _tiles(frames: Tensor, config: Any) -> Tensor:
    """Frames resized as pictures, by PIL: tensors come out up to a gray level off."""
    from torchvision.transforms.functional import normalize, to_tensor  # takes seconds

    side = getattr(config, "force_image_size", None) or config.vision_config.image_size
    sized = [one.resize((side, side), Image.Resampling.BICUBIC) for one in pictures(frames)]
    return normalize(torch.stack([to_tensor(one) for one in sized]), _MEAN, _STD)


def _call(model: Any, inputs: Mapping[str, Any]) -> Any:
    """As far as the decoder's call: the rest of its `generate` does not run in transformers 5."""
    llm = model.language_model
    made = stopped(llm, lambda: model.generate(**{"pixel_values": None, **inputs}))
    return llm.model(**{key: made[key] for key in ("inputs_embeds", "attention_mask")})


_NEEDS = (
    "It was written for transformers 4.37, with timm and einops; 4.44.2 runs. In transformers 5 "
    "its list of tied weights stops `from_pretrained`."
)
_TOWERS = ("vision_model.", "mlp1.")

INTERNVL2 = Family(
    name="internvl2",
    checkpoints="InternVL2-8B",
    decoder="InternLM2, up to `max_position_embeddings`",
    model_types=("internvl_chat",),
    decoder_config=_decoder_config,
    on_disk=OnDisk(
        homes=(("language_model.model.", "language_model.output.weight"),),
        conversion=_conversion,
        reference=_reference,
    ),
    media_tokens=_media_tokens,
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=processing.of_one_clip(_prepare),
    hears=False,
    media=MediaSettings(fps=1.0, min_frames=1, max_frames=32, frame_factor=1, resize=False),
    correct_words=question_after_clip,
    call=_call,
    frames_per_step=1,
    proved="0 against LlamaForCausalLM on a stand-in; released code, tiny weights, 4.44.2: 0 at "
    "prefill in eager, equal tokens",
    own_reading="every frame is resized to one square tile",
    one_clip="first",
    remote=Remote(
        load=_load_vl,
        processor=InternVLProcessor,
        text_model=_as_llama,
        needs=_NEEDS,
        towers=_TOWERS,
    ),
)

INTERN_OMNI = replace(
    INTERNVL2,
    name="internomni",
    checkpoints="InternOmni",
    proved="untested: 0 against LlamaForCausalLM on a stand-in; its own code was never run",
    model_types=("internvl_chat", "internvl_chat_audio"),
    hears=True,
    base="internvl2",
    config_key="audio_config",
    remote=Remote(
        load=_load_omni,
        processor=InternVLProcessor,
        text_model=_as_llama,
        needs=f"We have not run it. {_NEEDS}",
        towers=(*_TOWERS, "audio_model.", "mlp2."),
    ),
)
