"""A model to ask: decoder with hooks, and the Hugging Face model whose towers feed it."""

import re
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from hooked_omni.errors import CheckpointError, MediaError, PromptError, UnknownModelError
from hooked_omni.families import FAMILIES, Family
from hooked_omni.frontend import embedded, find_decoder
from hooked_omni.media import Audio, MediaSettings, Video, read_audio, read_video
from hooked_omni.organisms import SHIPPED
from hooked_omni.prompt import EmbeddedPrompt, Prompt
from hooked_omni.transformer import HookedTransformer

__all__ = ["HookedOmni", "load"]

_PROCESSORS = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "min_length",
    "min_new_tokens",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "sequence_bias",
    "guidance_scale",
)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class HookedOmni:
    """A decoder with hooks, the Hugging Face model it shares its tensors with, and a processor.

    ```python
    omni = load("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype="bfloat16")
    prompt = omni.embed(Prompt("Describe what you hear.", video="clip.mp4"))
    print(omni.model.generate(prompt).text)
    ```

    Attributes:
        model: The decoder with hooks.
        hf: The Hugging Face model: towers, and the decoder that `prove` compares with.
        processor: Its processor, or None; then `embed_inputs` takes ready-made inputs.
        family: What is particular to this kind of model.
        media: How clips are sampled where a prompt does not say: as the family was made
            for, or as the checkpoint's own config says under "media_settings".
    """

    def __init__(self, model: HookedTransformer, hf: Any, processor: Any, family: Family) -> None:
        self.model, self.hf, self.processor, self.family = model, hf, processor, family
        own = getattr(hf.config, "media_settings", None)
        self.media = MediaSettings(**own) if own else family.media

    @classmethod
    def from_hf(cls, hf_model: nn.Module, processor: Any = None) -> "HookedOmni":
        """Adopt a loaded Hugging Face model: its tensors are shared, not copied.

        Unhooked layers use the model's own attention, `sdpa` or `eager`.

        Raises:
            UnknownModelError: For a family that is not known here.
            CheckpointError: For a variant of it that this decoder does not compute.
        """
        family = _family(getattr(getattr(hf_model, "config", None), "model_type", None))
        hf: Any = family.unwrap(hf_model)
        cfg = family.decoder_config(hf)
        tokenizer = getattr(processor, "tokenizer", None)
        cfg.eos_tokens = _eos_tokens(hf, tokenizer)
        _warn_of_processors(hf)
        decoder, head = find_decoder(hf), hf.get_output_embeddings()
        tensors = {**dict(decoder.named_parameters()), "lm_head.weight": head.weight}
        model = HookedTransformer.from_tensors(cfg, tensors, family.tensor_name, tokenizer)
        return cls(model, hf, processor, family)

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Read the clip, run the towers once, and take what reaches the decoder.

        Raises:
            MediaError: For a clip or sound that cannot be read, or is not there.
            PromptError: For a prompt that this model cannot be asked.
        """
        if self.processor is None:
            raise PromptError(
                "expected a model with a processor, got none. Pass `processor=` to `from_hf`, or "
                "use `embed_inputs` with ready-made inputs."
            )
        if prompt.video is not None and not self.family.sees:
            raise PromptError(
                f"expected a prompt without a picture for {self.family.name}, got "
                f"video={prompt.video}. This family does not see: pass the clip as `audio`."
            )
        media = prompt.media or self.media
        prompt = replace(prompt, media=media)
        video = None if prompt.video is None else read_video(prompt.video, media)
        audio = self._sound(prompt, media)
        inputs = self.family.prepare(self.processor, prompt, video, audio)
        return embedded(
            self.hf,
            self.family,
            self.model.tokenizer,
            inputs,
            self._facts() | _clip_facts(prompt, video, audio),
            fps=None if video is None else video.fps,
        )

    def embed_inputs(self, **inputs: Any) -> EmbeddedPrompt:
        """Take what reaches the decoder for ready-made inputs: a processor's whole output.

        For sound inside a video, add `use_audio_in_video=True`: the processor does not return it.

        Raises:
            PromptError: For inputs that the model would silently misread.
        """
        facts = self._facts() | {"use_audio_in_video": inputs.get("use_audio_in_video")}
        return embedded(self.hf, self.family, self.model.tokenizer, inputs, facts)

    def _sound(self, prompt: Prompt, media: MediaSettings) -> Audio | None:
        source = prompt.audio
        if source is None and prompt.interleaved and self.family.hears:
            source = prompt.video
        if source is None:
            return None
        if not self.family.hears:
            raise PromptError(
                f"expected a prompt without sound for {self.family.name}, got audio={source}. "
                "This family does not hear: leave `audio` out."
            )
        try:
            return read_audio(source, media)
        except MediaError as error:
            if source != prompt.video:
                raise
            raise MediaError(
                f"{error} To ask about the picture alone, pass use_audio_in_video=False."
            ) from error

    def _facts(self) -> dict[str, Any]:
        return {
            "model": self.model.cfg.model_name,
            "revision": getattr(self.hf.config, "_commit_hash", None),
            "family": self.family.name,
            "dtype": str(self.model.cfg.dtype),
            "transformers": transformers.__version__,
            "torch": str(torch.__version__),
            "hooked_omni": version("hooked-omni"),
        }


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    attn_implementation: Literal["sdpa", "eager"] = "sdpa",
    revision: str | None = None,
) -> HookedOmni:
    """A model by hub name, local folder, or the name of one that comes with the package.

    Args:
        name: "Qwen/Qwen2.5-Omni-3B", a folder, or "random-omni".
        device: Where the weights go.
        dtype: "bfloat16" or the like; None keeps the checkpoint's own.
        attn_implementation: Kernel of layers whose scores and pattern carry no hook.
        revision: Branch, tag or commit on the hub.

    Raises:
        UnknownModelError: For a name that is none of these, or a family not known here.
        CheckpointError: For missing or extra weights.
    """
    dtype = _dtype(dtype)
    if str(name) in SHIPPED:
        hf, processor = SHIPPED[str(name)]()
        hf.name_or_path = str(name)
        hf.set_attn_implementation(attn_implementation)
        hf = hf.to(device) if dtype is None else _cast(hf, dtype).to(device)
        return HookedOmni.from_hf(hf, processor)
    is_folder = Path(name).exists()
    local = {"local_files_only": True} if is_folder else {"revision": revision}
    try:
        if not is_folder and not _HUB_NAME.fullmatch(str(name)):
            raise OSError("no such folder, and hub names have one slash")
        config = transformers.AutoConfig.from_pretrained(name, **local)
    except (OSError, ValueError) as error:
        raise UnknownModelError(
            f"expected a hub name, a folder with a config.json, or one of {sorted(SHIPPED)}, got "
            f"{str(name)!r} ({str(error).splitlines()[0]})"
        ) from error
    family = _family(config.model_type)
    hf = _weights(family, name, local, dtype, attn_implementation).to(device)
    processor = _processor(name, local)
    return HookedOmni.from_hf(hf.requires_grad_(False).eval(), processor)


def _processor(name: str | Path, local: dict[str, Any]) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(name, **local)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"expected a processor beside the weights in {str(name)!r}, got none that loads "
            f"({str(error).splitlines()[0]}). Fetch its files too, or load the model yourself and "
            "pass it to `HookedOmni.from_hf`."
        ) from error


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    known = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(known, torch.dtype) and known.is_floating_point):
        raise UnknownModelError(
            f"expected a floating-point dtype such as 'bfloat16', got {dtype!r}."
        )
    return known


def _weights(
    family: Family, name: str | Path, local: dict[str, Any], dtype: Any, attention: str
) -> Any:
    model_class = getattr(transformers, family.hf_class)
    try:
        hf, info = model_class.from_pretrained(
            name,
            dtype="auto" if dtype is None else dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed below, with their names
            **local,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"expected whole weights for {family.hf_class}, got {str(name)!r} "
            f"({str(error).strip()}). Download it again, or check that config and weights match."
        ) from error
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    wrong = {kind: sorted(info[kind]) for kind in kinds}
    if any(wrong.values()):
        counts = ", ".join(f"{len(keys)} {kind} {keys[:3]}" for kind, keys in wrong.items() if keys)
        raise CheckpointError(
            f"expected exactly the weights of {family.hf_class} in {str(name)!r}, got {counts}. "
            "Missing ones would be random numbers; check the download and the config."
        )
    return hf


def _cast(hf: Any, dtype: str | torch.dtype) -> Any:
    """Parameters in another dtype, as loading gives them: rotary frequencies stay in float32."""
    target = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    for parameter in hf.parameters():
        parameter.data = parameter.data.to(target)
    hf.config.dtype = target
    return hf


def _family(model_type: str | None) -> Family:
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = sorted(t for family in FAMILIES for t in family.model_types)
    raise UnknownModelError(
        f"expected a model of type {known}, got {model_type!r}. A new family is one file: see "
        "CONTRIBUTING.md."
    )


def _eos_tokens(hf: Any, tokenizer: Any) -> tuple[int, ...]:
    configured = getattr(hf.generation_config, "eos_token_id", None)
    if configured is not None:
        return tuple(configured) if isinstance(configured, list | tuple) else (configured,)
    if tokenizer is None:
        return ()
    ends = [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")]
    return tuple(end for end in ends if end is not None)


def _warn_of_processors(hf: Any) -> None:
    """Say so if `hf.generate` would not choose the likeliest token, as captions here do."""
    plain = transformers.GenerationConfig()
    asked = {
        name: value
        for name in _PROCESSORS
        if (value := getattr(hf.generation_config, name, None)) not in (None, getattr(plain, name))
    }
    neutral = {"repetition_penalty": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0}
    asked = {name: value for name, value in asked.items() if value != neutral.get(name)}
    if asked:
        warnings.warn(
            f"this checkpoint's generation_config asks for {asked}, which `hf.generate` applies. "
            "Captions here are plain argmax: to compare, turn these off there.",
            stacklevel=3,
        )


def _clip_facts(prompt: Prompt, video: Video | None, audio: Audio | None) -> dict[str, Any]:
    asked = asdict(prompt)
    facts = {"prompt": {k: str(v) if isinstance(v, Path) else v for k, v in asked.items()}}
    if video is not None:
        facts["video"] = {
            "frames": len(video.frames),
            "height": video.frames.shape[-2],
            "width": video.frames.shape[-1],
            "fps": video.fps,
            "seconds": video.seconds,
            "notes": list(video.notes),
        }
    if audio is not None:
        facts["audio"] = {
            "samples": len(audio.samples),
            "sampling_rate": audio.sampling_rate,
            "seconds": audio.seconds,
            "notes": list(audio.notes),
        }
    return facts
