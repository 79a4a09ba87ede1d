"""What is a loaded model? A decoder with hooks, and the towers that embed clips for it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import hooked_omni
from hooked_omni.decoder.adapters import adapted, settings
from hooked_omni.errors import CheckpointError, PromptError
from hooked_omni.families import Family, family_of
from hooked_omni.families.family import Read
from hooked_omni.families.skeleton import HEAD, fill, find_decoder, tower_points
from hooked_omni.fingerprint import model_hash, tensor_hash
from hooked_omni.hf import captions, loading
from hooked_omni.hf.adapters import require_computed
from hooked_omni.hf.checkpoint import decoder_tensors, stored_tensors
from hooked_omni.hf.config_file import file_source, float_dtype, read_config
from hooked_omni.hf.placement import (
    DeviceMap,
    dispatched,
    known_device,
    placement,
    require_in_place,
)
from hooked_omni.hf.quantized import (
    quantization,
    quantized_projections,
    require_allowed,
    require_projections,
)
from hooked_omni.hf.towers import Towers
from hooked_omni.hooks.types import Condition, NamesFilter, TowerCache
from hooked_omni.inputs.media import MediaSettings
from hooked_omni.inputs.prompt import EmbeddedPrompt, Prompt
from hooked_omni.organisms import SHIPPED


class HookedOmni:
    """A decoder with hooks, the Hugging Face model it shares its tensors with, and the towers.

    ```python
    omni = load("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype="bfloat16")
    prompt = omni.embed(Prompt("Describe what you hear.", video="clip.mp4"))
    print(omni.generate(prompt).text)
    ```

    Attributes:
        model: The decoder with hooks.
        hf: The Hugging Face model that `prove` compares with, from embeddings to logits.
        towers: What embeds clips; None for a decoder alone.
        family: The model's family.
    """

    def __init__(
        self, model: "hooked_omni.HookedTransformer", hf: Any, family: Family, towers: Towers | None
    ) -> None:
        self.model, self.hf, self.family, self.towers = model, hf, family, towers
        if towers is not None or family.on_disk.reference is None:  # else a decoder's config alone
            known = family.media_tokens(hf if towers is None else towers.hf).values()
            model.cfg.media_tokens = tuple(one for one in known if one is not None)

    @property
    def processor(self) -> Any:
        """The towers' processor, or None; then only `embed_inputs` embeds."""
        return None if self.towers is None else self.towers.processor

    @property
    def media(self) -> MediaSettings:
        """How clips are sampled for a prompt without settings; `omni.towers.media` sets it."""
        return self.family.media if self.towers is None else self.towers.media

    @property
    def adapter(self) -> dict[str, Any] | None:
        """Name of the adapter on the model, and hash of its files if loaded; None for none."""
        return None if self.towers is None else self.towers.adapter

    @classmethod
    def from_hf(
        cls, hf_model: nn.Module, processor: Any = None, allow_quantized: bool = False
    ) -> "HookedOmni":
        """Adopt a loaded Hugging Face model: its tensors are shared, not copied. Errors as `load`.

        The adapters of a `PeftModel` stay beside the weights, as peft computes them, and quantized
        projections are its own modules. Unhooked layers use the model's own attention, `sdpa` or
        `eager`.
        """
        return cls.from_towers(Towers(hf_model, processor), allow_quantized)

    @classmethod
    def from_towers(cls, towers: Towers, allow_quantized: bool = False) -> "HookedOmni":
        """Adopt the decoder of loaded towers; see `from_hf`."""
        family, remote = towers.family, towers.family.remote
        require_computed(towers.hf, family)
        hf = towers.hf if remote is None else remote.text_model(towers.hf)
        return cls(_hooked(family, hf, towers.tokenizer, allow_quantized), hf, family, towers)

    def __repr__(self) -> str:
        towers = "without" if self.towers is None else "with"
        return f"HookedOmni({self.family.name}, {towers} towers, {self.model!r})"

    def __call__(self, prompt: Prompt | EmbeddedPrompt, **how: Any) -> Any:
        """What `model` returns; a `Prompt` is embedded first."""
        return self.model(self._embedded(prompt), **how)

    def generate(self, prompt: Prompt | EmbeddedPrompt, *args: Any, **how: Any) -> Any:
        """The caption of `model.generate`; a `Prompt` is embedded first."""
        return self.model.generate(self._embedded(prompt), *args, **how)

    def embed(self, prompt: Prompt) -> EmbeddedPrompt:
        """Read the clip, run the towers once, capture the decoder's inputs; see `Towers.embed`."""
        return self._require_towers().embed(prompt)

    def read_media(self, prompt: Prompt) -> Read:
        """What `embed` passes to the towers, in order; see `Towers.read_media`."""
        return self._require_towers().read_media(prompt)

    def embed_media(self, prompt: Prompt, read: Read) -> EmbeddedPrompt:
        """As `embed`, for media in memory; see `Towers.embed_media`."""
        return self._require_towers().embed_media(prompt, read)

    def embed_inputs(self, **inputs: Any) -> EmbeddedPrompt:
        """The decoder's inputs for a processor's whole output; see `Towers.embed_inputs`."""
        return self._require_towers().embed_inputs(**inputs)

    def embed_with_cache(
        self,
        source: Prompt | tuple[Prompt, Read] | Mapping[str, Any],
        names_filter: NamesFilter = None,
        fwd_hooks: Condition = (),
    ) -> tuple[EmbeddedPrompt, TowerCache]:
        """Embed under hooks inside the towers; also return what passes the named hook points.

        `source` is a prompt, or the arguments of `embed_media`, or those of `embed_inputs` by name.
        Names, axes and times are in docs/hooks.md; errors as `hooked_towers` and `embed`.
        """
        from hooked_omni.hooks.tower_hooks import hooked_towers  # with TransformerLens

        towers = self._require_towers()
        if isinstance(source, Mapping):
            embed = partial(towers.embed_inputs, **source)
        elif isinstance(source, tuple):
            embed = partial(towers.embed_media, *source)
        else:
            embed = partial(towers.embed, source)
        return hooked_towers(tower_points(towers.hf, self.family), embed, names_filter, fwd_hooks)

    def content_hash(self, portable: bool = False) -> str:
        """Hash of all that makes numbers: decoder, towers, processor; `portable` as `model_hash`.

        One changed number of a weight or a buffer is another hash, as is another kernel or setting.
        """
        towers = self.hf if self.towers is None else self.towers.hf
        processor, tokenizer = self.processor, self.model.tokenizer
        inputs = [getattr(one, "chat_template", None) for one in (processor, tokenizer)]
        if hasattr(processor, "to_json_string"):
            inputs.append(processor.to_json_string())
        if backend := getattr(tokenizer, "backend_tokenizer", None):
            # Padding and truncation stand before these, and are set anew by each call.
            inputs.append(backend.to_str().partition('"added_tokens"')[2])
        inputs += [tensor_hash(one.cpu()) for one in self.model.rotary.inv_freqs]
        inputs.append(_numbers(towers.config.to_dict()))  # positions follow from them at every call
        inputs += settings(towers)
        modules = {"decoder": self.model, "hf": self.hf, "towers": towers}
        return model_hash(modules, repr(inputs), portable=portable)

    def _embedded(self, prompt: Prompt | EmbeddedPrompt) -> EmbeddedPrompt:
        return prompt if isinstance(prompt, EmbeddedPrompt) else self.embed(prompt)

    def _require_towers(self) -> Towers:
        if self.towers is None:
            raise PromptError(
                f"expected a model with towers, got the decoder of {self.model.cfg.model_name} "
                "alone. Load it without decoder_only=True, or read one with "
                "EmbeddedPrompt.load(path)."
            )
        return self.towers


def _numbers(config: dict[Any, Any]) -> dict[str, Any]:
    """Numbers of a config and its parts: words there name places, versions and built modules."""
    parts = {str(k): _numbers(v) if isinstance(v, dict) else v for k, v in config.items()}
    return {k: v for k, v in sorted(parts.items()) if isinstance(v, int | float | dict)}


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    attn_implementation: Literal["sdpa", "eager"] = "sdpa",
    revision: str | None = None,
    decoder_only: bool = False,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
    device_map: DeviceMap | None = None,
    allow_quantized: bool = False,
) -> HookedOmni:
    """A model by hub name, local folder, or the name of one that comes with the package.

    Weights go from their files straight to the device; how much they take and how much is free is
    printed first.

    Args:
        name: "Qwen/Qwen2.5-Omni-3B", a folder, or "random-omni".
        device: Where the weights go.
        dtype: "bfloat16" or the like; None keeps the checkpoint's own.
        attn_implementation: Kernel of layers whose scores and pattern carry no hook.
        revision: Branch, tag or commit on the hub.
        decoder_only: Leave out the towers, and any code of the checkpoint's: for embedded prompts.
        trust_remote_code: Run code that came with the checkpoint.
        adapter: Folder with a LoRA adapter of this model, as peft writes it; it stays beside the
            weights.
        device_map: In place of `device`, for a model larger than one: "auto", another of
            accelerate's ways, or the device of each module, by its name in `hf`.
        allow_quantized: Take a checkpoint whose projections are quantized: its numbers are those of
            Hugging Face's quantized model, not the original's. Weight views, hooks that read them
            (`names.READ_WEIGHTS`) and gradients are refused.

    Raises:
        UnknownModelError: For a name that is none of these, or a family not known here.
        CheckpointError: For missing or extra weights, quantized ones, more than fits, files that
            differ from the model's card, code that is not trusted or does not run, an adapter of
            another base or kind, and a `device_map` that is not of this model, or moves weights at
            each call.
        OutOfRoomError: For a device that is full all the same while weights are read.
    """
    device, chosen = known_device(device), float_dtype(dtype)
    if decoder_only and (adapter is not None or allow_quantized):
        what = "quantized weights" if adapter is None else f"the adapter {str(adapter)!r}"
        raise CheckpointError(
            f"expected the whole model for {what}, got decoder_only=True. Leave one out, or save a "
            "merged model first, with peft's merge_and_unload()."
        )
    if str(name) not in SHIPPED:
        source = file_source(name, revision)
        raw = read_config(name, source, allow_quantized)
        family = family_of(raw)
        if decoder_only or family.remote is None:
            hf = loading.without_weights(name, family, raw, source, attn_implementation)
            if decoder_only:
                places = {"": device} if device_map is None else device_map
                return _load_decoder(name, family, hf, source, places, chosen)
    towers = loading.load_towers(
        *(name, device, chosen, attn_implementation, revision, trust_remote_code),
        *(adapter, device_map, allow_quantized),
    )
    omni = HookedOmni.from_towers(towers, allow_quantized)
    if decoder_only:
        omni.towers = None
    return omni


def _load_decoder(
    name: str | Path,
    family: Family,
    hf: Any,
    source: dict[str, Any],
    device_map: DeviceMap,
    dtype: torch.dtype | None,
) -> HookedOmni:
    chosen = dtype or getattr(hf.config, "dtype", None)
    held = stored_tensors(name, source, f"the decoder of {family.name}")
    if not held:
        raise CheckpointError(
            f"expected whole weights for the decoder of {family.name} in {str(name)!r}, got no "
            "safetensors file. Download it again, or convert it first."
        )
    places = placement(hf.to(chosen), device_map)
    fill(hf, decoder_tensors(family, hf, held, places, chosen))
    if len({*places.values()}) > 1:
        dispatched(hf, places)
    hf.generation_config = captions.generation_config(name, source) or hf.generation_config
    return HookedOmni(_hooked(family, hf, captions.tokenizer_alone(name, source)), hf, family, None)


def _hooked(
    family: Family, hf: Any, tokenizer: Any, allow_quantized: bool = False
) -> "hooked_omni.HookedTransformer":
    decoder = find_decoder(hf)
    cfg, modules = family.decoder_config(hf), quantized_projections(decoder)
    layers = {f"{name}.weight": layer for name, layer in adapted(decoder).items()}
    if how := quantization(hf):
        require_allowed(how, allow_quantized, layers)
        cfg.quantized, own = how, Path(cfg.model_name)
        name = own.name if own.exists() else cfg.model_name
        cfg.model_name = f"{name} (quantized by {how}, not the original's numbers)"
    cfg.eos_tokens = captions.eos_tokens(hf, tokenizer)
    captions.warn_of_processors(hf)
    every = decoder.named_parameters()
    tensors: dict[str, Any] = {
        name: p for name, p in every if not name.startswith(family.inner_towers)
    }
    tensors[HEAD] = getattr(hf.get_output_embeddings(), "weight", None)
    require_projections(tensors, modules)
    require_in_place(tensors)
    names = cfg, tensors, family.tensor_name, tokenizer
    return hooked_omni.HookedTransformer.from_tensors(*names, modules | layers)
