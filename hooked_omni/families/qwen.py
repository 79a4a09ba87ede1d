"""The decoder that the Qwen families share, and how their processors are asked.

Source: transformers, `modeling_qwen2_5_omni.py`, `modeling_qwen2_5_vl.py`,
`modeling_qwen3_omni_moe.py`, `modeling_qwen3_vl.py` and `modeling_qwen2.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor

from hooked_omni.decoder.config import DecoderConfig, Experts
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families.family import OnDisk, Recipe
from hooked_omni.inputs.media import MediaSettings, Video
from hooked_omni.inputs.prompt import Prompt

__all__ = [
    "ON_DISK",
    "PATCHES_OF_16",
    "chat",
    "check_types",
    "check_video",
    "decoder_config",
    "prepare_seen",
    "qwen3_config",
    "seen_tokens",
    "tensor_name",
    "video_arguments",
    "video_times",
]

PATCHES_OF_16 = MediaSettings(
    size_factor=32,
    min_pixels=128 * 32 * 32,
    max_pixels=768 * 32 * 32,
    total_pixels=128_000 * 32 * 32 * 9 // 10,
)
"""Frames for a tower with patches of 16 pixels, merged in twos: as many tokens as with 14."""


def _fused_experts(name: str, config: Any) -> Recipe | None:
    """A checkpoint holds each expert by itself; transformers holds them in two tensors."""
    layer, _, kind = name.partition(".experts.")
    n_experts = getattr(config, "num_experts", 0)
    parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(kind)
    if parts is None:
        return None
    keys = tuple(f"{layer}.experts.{i}.{part}.weight" for i in range(n_experts) for part in parts)

    def stack(weights: list[Tensor]) -> Tensor:
        step = len(parts)
        rows = [torch.cat(weights[i : i + step]) for i in range(0, len(weights), step)]
        return torch.stack(rows)

    return Recipe(keys, stack)


ON_DISK = OnDisk(
    homes=(
        ("thinker.model.", "thinker.lm_head.weight"),
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("model.", "lm_head.weight"),
    ),
    recipe=_fused_experts,
)
"""Where the Qwen families' checkpoints hold their decoder: with and without the talker."""

_NAMES = {
    "embed": "embed_tokens",
    "ln_final": "norm",
    "blocks": "layers",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "attn": "self_attn",
    "unembed": "lm_head",
}


def tensor_name(name: str) -> str:
    """`blocks.3.attn.q_proj.weight` -> `layers.3.self_attn.q_proj.weight`."""
    return ".".join(_NAMES.get(part, part) for part in name.split("."))


def decoder_config(hf_model: Any) -> DecoderConfig:
    """The decoder's table from a Hugging Face model with a Qwen2 text config.

    Without sections, positions have one dimension.

    Raises:
        CheckpointError: For a variant that this decoder does not compute.
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
    """The decoder's table from a Hugging Face model with a Qwen3 text config, dense or mixed.

    Raises:
        CheckpointError: For a variant that this decoder does not compute.
    """
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


def chat(processor: Any, prompt: Prompt, items: list[dict[str, str]], system: str) -> str:
    """The prompt in the model's own chat template: words first, then the clip, as in the paper.

    Args:
        processor: The model's own.
        prompt: What is asked.
        items: The clip's parts, as the template knows them.
        system: The family's system prompt; empty for none.

    Raises:
        PromptError: For special tokens in the words, words that the tokenizer does not know, or a
            processor without a template.
    """
    words = {"text": prompt.text, "system": prompt.system or ""}
    special = set(processor.tokenizer.added_tokens_encoder) | set(
        processor.tokenizer.all_special_tokens
    )
    for where, text in words.items():
        found = sorted(token for token in special if token in text)
        if found:
            raise PromptError(
                f"expected plain words in {where!r}, got the special token {found[0]!r} in "
                f"{text!r}: it would be read as a clip or a turn. Rephrase it."
            )
        _require_known(processor.tokenizer, where, text)
    if not getattr(processor, "chat_template", None):
        raise PromptError(
            "expected a processor with a chat template, got none. Load the processor of the chat "
            "model, or set `processor.chat_template`."
        )
    content = [{"type": "text", "text": prompt.text}, *items]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if prompt.system or system:
        asked = [{"type": "text", "text": prompt.system or system}]
        messages.insert(0, {"role": "system", "content": asked})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _require_known(tokenizer: Any, where: str, text: str) -> None:
    """Small models know few words: any other would be read as the same nothing."""
    nothing = tokenizer.unk_token_id
    if nothing is None or nothing not in tokenizer(text).input_ids:
        return
    unknown = [word for word in text.split() if nothing in tokenizer(word).input_ids]
    raise PromptError(
        f"expected words that this model knows in {where!r}, got {unknown} in {text!r}. Ask what "
        "it was trained to answer, such as 'Describe what you hear.'"
    )


def video_arguments(processor: Any, video: Video, fps: float) -> dict[str, Any]:
    """The processor's arguments for frames that are sampled and sized already."""
    kwargs: dict[str, Any] = {"fps": fps, "do_sample_frames": False, "do_resize": False}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        kwargs["cap_pixels_per_frame"] = False  # nothing is resized; unset, it warns
    return {"videos": [video.frames], "videos_kwargs": kwargs}


def check_types(inputs: Mapping[str, Any]) -> None:
    """Refuse a clip without the kinds of its tokens; transformers 4 finds them by itself.

    Raises:
        PromptError: For such inputs.
    """
    sees = any(inputs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
    finds = transformers.__version__.startswith("4.")
    if sees and not finds and inputs.get("mm_token_type_ids") is None:
        raise PromptError(
            "expected mm_token_type_ids among the inputs, got none: the model would silently count "
            "positions in one dimension. Pass the processor's whole output."
        )


def check_video(hf_model: Any, inputs: Mapping[str, Any]) -> None:
    """Refuse video tokens without their pixels, and pixels without their tokens.

    Raises:
        PromptError: For such inputs.
    """
    config, grid = hf_model.config, inputs.get("video_grid_thw")
    pixels = inputs.get("pixel_values_videos")
    patches = 0 if grid is None else int(grid.prod(-1).sum())
    expected = patches // config.vision_config.spatial_merge_size**2
    came = int((inputs["input_ids"] == config.video_token_id).sum())
    if came != expected or (0 if pixels is None else len(pixels)) != patches:
        raise PromptError(
            f"expected {expected} video tokens and {patches} patches for the grid of these inputs, "
            f"got {came} tokens and {0 if pixels is None else len(pixels)} patches. Pass the "
            "processor's whole output, of one call."
        )


def seen_tokens(hf_model: Any) -> dict[str, int]:
    """Placeholder tokens of a model that sees and does not hear."""
    return {"video": hf_model.config.video_token_id, "image": hf_model.config.image_token_id}


def prepare_seen(
    processor: Any,
    prompt: Prompt,
    video: Video | None,
    system: str,
    metadata: Callable[[Video], dict[str, Any]],
) -> dict[str, Any]:
    """From a prompt and its frames to inputs of a model that sees and does not hear.

    Args:
        processor: The model's own.
        prompt: What is asked.
        video: Its frames.
        system: The family's system prompt; empty for none.
        metadata: When the frames are shown, as the processor reads it: without, it takes them for
            24 a second.

    Raises:
        PromptError: For positions that only sound inside a video could have.
    """
    if prompt.rope != "model":
        raise PromptError(
            f"expected rope='model' for a model without sound, got {prompt.rope!r}: there is no "
            "sound inside video whose positions could differ. Leave it out."
        )
    items = [{"type": "video", "video": "clip"}] if video is not None else []
    arguments: dict[str, Any] = {"text": chat(processor, prompt, items, system)}
    if video is not None:
        arguments |= video_arguments(processor, video, video.fps)
        arguments["videos_kwargs"]["video_metadata"] = [metadata(video)]
    return dict(processor(**arguments, return_tensors="pt"))


def video_times(
    grid_thw: Int[Tensor, "1 3"], merge: int, seconds_per_grid: float
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Start second and grid step of each video token: a step is two sampled frames."""
    steps, height, width = (int(n) for n in grid_thw[0])
    frames = torch.arange(steps).repeat_interleave(height * width // merge**2)
    return frames * float(seconds_per_grid), frames
