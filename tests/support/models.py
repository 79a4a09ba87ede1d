"""Prompts that went through the real processors of tiny models, and ways to look at these models.

Frames and waveforms are arrays here: reading media files has its own tests.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hooked_omni import HookedOmni, Prompt
from hooked_omni.inputs.audio import Audio
from hooked_omni.inputs.video import Video
from hooked_omni.organisms import SHIPPED
from hooked_omni.organisms.random_weights import random_vl

_FPS, _SECONDS, _RATE = 2.0, 3.0, 16_000
_OMNI = ("text", "audio", "video", "audio in video", "video then audio")
_SEES, _HEARS = ("text", "video"), ("text", "audio")
KINDS_OF = {
    "omni": _OMNI,
    "vl": _SEES,
    "omni3": _OMNI,
    "vl3": _SEES,
    "audio": _HEARS,
    "vl3-moe": _SEES,
    "qwen2-vl": _SEES,
    "internvl": _SEES,
    "video-llama3": _SEES,
    "llava-onevision": _SEES,
    "audio-flamingo3": _HEARS,
    "qwen3-asr": _HEARS,
    "phi4": _HEARS,  # a picture has 290 tokens at least
}
KINDS = [(name, kind) for name, kinds in KINDS_OF.items() for kind in kinds]
# The kind of prompt with the most in it, of each family.
CLIP_OF = {n: "audio in video" if kinds is _OMNI else kinds[-1] for n, kinds in KINDS_OF.items()}
# One of each kind of decoder.
DECODERS = ("omni", "vl", "omni3", "vl3", "audio", "qwen3-asr")
MIXED = ("omni3", "vl3-moe")  # with experts
COUNTING = (  # whose positions have one dimension: the model's `forward` counts padding, too
    *("internvl", "video-llama3", "llava-onevision"),
    *("audio", "audio-flamingo3", "qwen3-asr", "phi4"),
)


def one_expert_after_the_other(hf: Any) -> None:
    """Hugging Face's eager experts; its grouped ones round otherwise."""
    hf.set_experts_implementation("eager")


def uneven_gains(hf: Any) -> Any:
    """Norms whose gains are not all one, which would hide a gain that is left out or rounded."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in hf.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 2.0, generator=generator)
    return hf


def frames(n_frames: int = int(_FPS * _SECONDS), seed: int = 1, side: int = 28) -> Video:
    """A few seconds of noise, 4 x 6 patches large; two patches are `side` pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n_frames, 3, 2 * side, 3 * side))
    times = tuple(i / _FPS for i in range(n_frames))
    return Video(torch.tensor(pixels).float(), _FPS, n_frames / _FPS, times, ())


def sound(seconds: float = _SECONDS, seed: int = 2) -> Audio:
    """Noise at the rate the models hear."""
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * _RATE)).astype(np.float32)
    return Audio(samples, _RATE, seconds, ())


def processed(omni: HookedOmni, kind: str, words: str = "What now?") -> dict[str, Any]:
    """What the family's own call of the processor makes of arrays."""
    video = frames(side=omni.media.size_factor) if "video" in kind else None
    audio = sound() if "audio" in kind else None
    prompt = Prompt(
        words,
        video=None if video is None else "clip",
        audio=None if audio is None else "sound",
        use_audio_in_video=kind == "audio in video",
        system=None if omni.family.name == "qwen3-asr" else "Be brief.",  # it takes none
    )
    read = tuple(one for one in (video, audio) if one is not None)
    inputs = omni.family.prepare(omni.processor, prompt, read)
    return {name: value for name, value in inputs.items() if value is not None}


def in_dtype(omni: HookedOmni, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs whose mel frames are in the model's precision, as some audio towers want them."""
    key = "input_features"
    return inputs | ({key: inputs[key].to(omni.hf.dtype)} if key in inputs else {})


def left_padded(omni: HookedOmni, inputs: dict[str, Any], width: int) -> dict[str, Any]:
    """The same prompt after `width` padding tokens."""
    values = {
        "input_ids": omni.processor.tokenizer.pad_token_id,
        "attention_mask": 0,
        "mm_token_type_ids": 0,
    }
    padded = dict(inputs)
    for name, value in values.items():
        if name in inputs:
            row = inputs[name]
            padded[name] = torch.cat([row.new_full((len(row), width), value), row], dim=1)
    return padded


def config_alone(name: str, folder: Path) -> Path:
    """A checkpoint of which nothing but the config is there: whoever reads weights fails."""
    hf, _ = SHIPPED[name]()
    hf.config.save_pretrained(folder)
    return folder


def twice(inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch of the same prompt twice."""
    return {
        name: torch.cat([value, value]) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }


@contextmanager
def eager(omni: HookedOmni) -> Iterator[Any]:
    """The Hugging Face model with its attention written out."""
    omni.hf.set_attn_implementation("eager")
    try:
        yield omni.hf
    finally:
        omni.hf.set_attn_implementation("sdpa")


@contextmanager
def watched(module: Any, see: Callable[[tuple[Any, ...]], object]) -> Iterator[None]:
    """Pass on what a module is called with. A hook would keep prefilled states from being used."""
    forward = module.forward

    def called(*args: Any, **more: Any) -> Any:
        see(args)
        return forward(*args, **more)

    module.forward = called
    try:
        yield
    finally:
        del module.forward


def look(activation: Any, hook: Any) -> None:
    """A hook that only reads: it opens a layer's attention, and must change nothing else."""


def save_checkpoint(hf: Any, processor: Any, folder: Path, **options: Any) -> Path:
    hf.save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def save_writing_model(folder: Path, tokens: list[str], cycle: bool = False) -> Path:
    """Sees, and writes these tokens, whatever it is; in a `cycle` it never ends."""
    model, processor = random_vl()
    tokenizer: Any = processor.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_tokens([token for token in tokens if len(token) > 1])
    model.resize_token_embeddings(len(tokenizer))
    chain = [tokenizer(token)["input_ids"][0] for token in ("\n", *tokens)]
    chain.append(chain[1] if cycle else model.generation_config.eos_token_id)
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeds = model.get_input_embeddings().weight
        embeds[chain[:-1]] = torch.randn(len(chain) - 1, embeds.shape[1])
        head = torch.zeros_like(embeds)
        for token, following in pairwise(chain):
            head[following] += 10 * embeds[token]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    return save_checkpoint(model, processor, folder)
