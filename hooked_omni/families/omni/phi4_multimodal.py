"""Phi-4-multimodal: sees a clip's frames as pictures, hears, and answers in text.

Its towers are parts of its decoder's module, which merges what they make by itself; a picture
beside the sound changes how that is projected. The released adapters (LoRA) of speech and vision
are no part of the class of transformers: merged into the weights they are computed, else refused.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from jaxtyping import Int
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hooked_omni.decoder.adapters import adapted
from hooked_omni.decoder.config import DecoderConfig
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import checks, one_by_one, processing
from hooked_omni.families.family import Family, Masks, OnDisk, Read
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import Prompt
from hooked_omni.inputs.video import Video

_SECONDS_PER_TOKEN = 0.08  # eight mel frames of 10 ms
_STEP, _FRAME, _RATE = 160, 400, 16_000  # samples from one mel frame to the next, and in one
_ROLES = {"<|user|>": "question", "<|system|>": "system", "<|assistant|>": "markup"}


def _reference(raw: Mapping[str, Any]) -> tuple[Any, Any]:
    """Phi-3, whose decoder it is, without towers; `CheckpointError` for what is not computed."""
    try:
        whole = transformers.Phi4MultimodalConfig.from_dict(dict(raw))
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"expected a config that Phi4MultimodalConfig takes, got ({error}). Load the config "
            "that came with these weights."
        ) from error
    _require_computed(whole)
    known = {k: v for k, v in whole.to_dict().items() if not k.endswith(("_config", "_type"))}
    return transformers.Phi3ForCausalLM, transformers.Phi3Config.from_dict(known)


def _require_computed(config: Any) -> None:
    window = config.sliding_window
    if config.hidden_act != "silu" or (window is not None and window < 2):
        raise CheckpointError(
            f"expected hidden_act 'silu' and a sliding_window of 2 or more, or none, got "
            f"{config.hidden_act!r} and {window!r}: another activation is not computed here, and "
            "the cache of transformers keeps every key for a window of 1. Load another checkpoint."
        )


def _decoder_config(hf_model: Any) -> DecoderConfig:
    kept = tuple(f"{path}." for path in adapted(hf_model))  # those of peft, which are computed
    names = [name for name, _ in hf_model.named_parameters() if not name.startswith(kept)]
    if adapters := [name for name in names if ".lora_" in name]:
        raise CheckpointError(
            f"expected adapters merged into the weights, got {len(adapters)} tensors beside them, "
            f"such as {adapters[0]!r}: hooks would read projections without them. Call peft's "
            "merge_and_unload() first."
        )
    rotary: Any = find_decoder(hf_model).rotary_emb
    _require_computed(config := hf_model.config)
    rope, weight = config.rope_parameters, hf_model.get_input_embeddings().weight
    default = rotary.compute_default_rope_parameters
    make: Any = ROPE_INIT_FUNCTIONS.get(rope["rope_type"], default)
    (short, scaling), limit = make(config, "cpu"), rope.get("original_max_position_embeddings")
    inv_freqs = [short]
    if rope["rope_type"] == "longrope":  # Hugging Face makes the second ones where the model is
        device = "cpu" if weight.is_meta else weight.device
        inv_freqs.append(make(config, device, seq_len=limit + 1)[0])
    n_heads, window = config.num_attention_heads, config.sliding_window
    return DecoderConfig(
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_heads=n_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_head=config.hidden_size // n_heads,
        d_mlp=config.intermediate_size,
        d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings,
        eps=config.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        mrope_section=(len(short), 0, 0),
        rope_limit=limit if len(inv_freqs) > 1 else None,
        inv_freqs=tuple(tuple(one.tolist()) for one in inv_freqs),
        rope_scaling=scaling,
        windows=(window,) * config.num_hidden_layers if window else (),
        fused=True,
        qkv_bias=False,
        attn_implementation="eager" if config._attn_implementation == "eager" else "sdpa",
        model_name=getattr(hf_model, "name_or_path", "") or type(hf_model).__name__,
        dtype=weight.dtype,
        device=weight.device,
    )


def _media_tokens(hf_model: Any) -> dict[str, int]:
    config = hf_model.config
    image, audio = config.vision_config.image_token_id, config.audio_config.audio_token_id
    return {"audio": audio, "video": image}


def _check_inputs(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    sizes, pictures = inputs.get("audio_embed_sizes"), inputs.get("image_pixel_values")
    heard = 0 if sizes is None or inputs.get("audio_input_features") is None else int(sizes.sum())
    ids = _media_tokens(hf_model)
    came = {name: int((inputs["input_ids"] == token).sum()) for name, token in ids.items()}
    if came["audio"] != heard or (came["video"] > 0) != (pictures is not None):
        raise PromptError(
            f"expected {heard} audio tokens for this sound, and picture tokens with their pixels, "
            f"got {came} (video: those of pictures) and "
            f"{'no' if pictures is None else len(pictures)} pictures. Pass the processor's whole "
            "output, of one call."
        )


def _received(hf_model: Any, inputs: Mapping[str, Any]) -> checks.HeardAndSeen:
    mel, pictures = inputs.get("audio_input_features"), inputs.get("image_pixel_values")
    heard = 0.0 if mel is None else ((mel.shape[1] - 1) * _STEP + _FRAME) / _RATE
    return heard, () if pictures is None else (len(pictures),)


def _times(
    hf_model: Any, inputs: Mapping[str, Any], n_tokens: dict[str, int]
) -> checks.SecondsAndSteps:
    pictures, frames = inputs.get("image_pixel_values"), None
    if pictures is not None:  # all of one size
        frames = torch.arange(len(pictures)).repeat_interleave(n_tokens["video"] // len(pictures))
    return {"audio": torch.arange(n_tokens["audio"]) * _SECONDS_PER_TOKEN}, frames


def _correct_words(tokenizer: Any, tokens: Int[Tensor, " pos"], masks: Masks) -> Masks:
    """A turn is `<|role|>`, its words, `<|end|>`, without a line break."""
    roles = {tokenizer.convert_tokens_to_ids(mark): name for mark, name in _ROLES.items()}
    nothing, role = torch.zeros_like(masks["question"]), "question"
    spans = {"question": nothing, "system": nothing.clone(), "markup": masks["markup"].clone()}
    for i, token in enumerate(tokens.tolist()):
        role = roles.get(token, role)
        spans[role][i] |= masks["question"][i]
    return spans


def _prepare(processor: Any, prompt: Prompt, read: Read) -> dict[str, Any]:
    processing.require_plain_words(processor.tokenizer, prompt)
    media = one_by_one.media_of(prompt, read)
    frames, sounds, clip = list[Tensor](), list[Audio](), dict[str, str]()
    for medium in media:
        placeholders = ""
        for one in (medium.read, medium.inside):
            if isinstance(one, Video):
                frames += one.frames.round().clamp(0, 255).byte()
                placeholders += processor.image_token * len(one.frames)
            elif isinstance(one, Audio):
                sounds.append(one)
                placeholders += processor.audio_token
        clip[medium.kind] = placeholders
    content = "".join(clip.get(item.kind) or str(item.source) for item in prompt.content)
    # As on its model card: the processor of transformers loads no template.
    system = f"<|system|>{prompt.system}<|end|>" if prompt.system else ""
    arguments: dict[str, Any] = {"text": f"{system}<|user|>{content}<|end|><|assistant|>"}
    if frames:
        arguments["images"] = frames
    if sounds:
        arguments["audio"] = [one.samples for one in sounds]
        arguments["sampling_rate"] = sounds[0].sampling_rate
    return dict(processor(**arguments, return_tensors="pt"))


PHI4_MULTIMODAL = Family(
    name="phi-4-multimodal",
    checkpoints="Phi-4-multimodal (adapters merged)",
    decoder="Phi-3: LongRoPE, partial rotary, fused projections, windows",
    proved="0, tiny random weights of its class; also windows of 2 to 4 096 and prompts beyond the "
    "first frequencies",
    model_types=("phi4_multimodal",),
    hf_class="Phi4MultimodalForCausalLM",
    decoder_config=_decoder_config,
    on_disk=OnDisk(homes=(("model.", "lm_head.weight"),), reference=_reference),
    times=checks.of_one_clip(_times),
    check_inputs=_check_inputs,
    received=checks.received_of_one_clip(_received),
    prepare=_prepare,
    media_tokens=_media_tokens,
    media=MediaSettings(fps=1.0, min_frames=1, frame_factor=1, max_pixels=448 * 252),
    correct_words=_correct_words,
    frames_per_step=1,
    one_clip="anywhere",
    inner_towers=("embed_tokens_extend.",),
    towers={
        "audio": (
            "audio_embed.encoder.encoders",
            "audio_embed.down_proj_for_speech",
            "audio_embed.down_proj_for_vision_speech",  # beside a picture
        ),
        "vision": ("img_processor.encoder.layers", "image_embed.img_projection_down"),
    },
    no_grid="a frame is read twice, whole and in squares, each with a border",
    own_reading="every frame, read at 448 x 252 pixels at most, is resized and cut into squares of "
    "448 pixels by the processor",
)
