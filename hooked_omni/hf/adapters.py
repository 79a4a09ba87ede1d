"""How does a user's LoRA fine-tune get on its base, kept beside the weights or merged into them?

By peft itself. What its files say is checked first, and they are put on a model without weights,
so that what does not fit is refused before a weight is read.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from hooked_omni.decoder.adapters import adapted, on_linear
from hooked_omni.errors import CheckpointError
from hooked_omni.families import Family
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.files import digest, file_hash, parse_object, read_text
from hooked_omni.fingerprint import tensor_hash
from hooked_omni.hf.checkpoint import read_header

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_COMPUTED = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "inference_mode"),
        *("base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout", "bias"),
        *("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("target_parameters", "modules_to_save", "trainable_token_indices", "eva_config"),
    )
)
"""Fields of a `LoraConfig` that may have any value. Others add numbers that only a whole
`PeftModel` computes, or change the base's own."""
_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # which leave the base as it is
_MERGE = "Merge it: merge_adapter=True, or `from_hf(peft_model.merge_and_unload())`."


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in a folder, as peft's `save_pretrained` writes it.

    Attributes:
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        merged: Whether it is merged into the weights, or kept beside them.
    """

    folder: Path
    merged: bool

    @property
    def facts(self) -> dict[str, Any]:
        """What results say of it."""
        hashes = [file_hash(self.folder / name) for name in (_CONFIG, _TENSORS)]
        return {"name": self.folder.resolve().name, "merged": self.merged, "hash": digest(hashes)}

    def put_on(self, hf_model: Any, family: Family) -> Any:
        """The Hugging Face model with the adapter; on the meta device it is only checked.

        Raises:
            CheckpointError: For an adapter of another base or kind.
        """
        import peft  # an extra

        weight = hf_model.get_input_embeddings().weight
        try:
            config = peft.PeftConfig.from_pretrained(str(self.folder))
            config.inference_mode = True
            model: Any = peft.PeftModel(hf_model, config, low_cpu_mem_usage=True)
            device = "cpu" if weight.is_meta else str(weight.device)
            where: Any = dict(torch_device=device, low_cpu_mem_usage=True)
            result = model.load_adapter(str(self.folder), "default", **where)
            lost = [*result.missing_keys, *result.unexpected_keys]
            if lost:
                raise ValueError(f"{len(lost)} tensors missing or left over, such as {lost[0]!r}")
        except Exception as error:  # peft's own errors are of any class
            raise CheckpointError(
                f"expected an adapter of {type(hf_model).__name__} in {str(self.folder)!r}, got "
                f"one that does not fit ({error!s:.300}). Name the base that it was trained on."
            ) from error
        if not self.merged:
            require_projections(model.get_base_model(), family)
        elif not weight.is_meta:
            return model.merge_and_unload()
        return model.get_base_model()


def read_adapter(
    folder: str | Path, base: str | Path, revision: str | None, merged: bool
) -> Adapter:
    """An adapter whose files are whole, and were made for this revision of `base`.

    Raises:
        FileError: Without a readable `adapter_config.json`.
        CheckpointError: Without peft; for another base; for tensors that are damaged or not finite.
    """
    if find_spec("peft") is None:
        raise CheckpointError(
            "expected the package peft for an adapter, got none. Run: pip install "
            "'hooked-omni[adapters]'."
        )
    folder = Path(folder)
    raw = parse_object(read_text(folder / _CONFIG), str(folder / _CONFIG))
    require_computed(raw)
    theirs, of = raw.get("base_model_name_or_path"), raw.get("revision")
    other = theirs and Path(str(theirs)).name != Path(base).resolve().name
    if other or of not in (None, "main", revision):
        raise CheckpointError(
            f"expected an adapter of {str(base)!r}, revision {revision!r}, in {str(folder)!r}, got "
            f"one of {theirs!r}, revision {of!r}. Load that; if it is the same, write so in its "
            f"{_CONFIG}."
        )
    read_header(folder / _TENSORS, "an adapter", folder)
    tensors = load_file(folder / _TENSORS)
    if wrong := [key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(
            f"expected numbers in {str(folder / _TENSORS)!r}, got NaN or infinity in {wrong[0]!r}. "
            "Save the adapter again."
        )
    return Adapter(folder, merged)


def require_computed(config: dict[str, Any]) -> None:
    """Refuse, as a `CheckpointError`, adapters that are more than layers beside a weight."""
    import peft  # an extra

    plain = peft.LoraConfig().to_dict()
    other = {k: v for k, v in config.items() if k not in _COMPUTED and v != plain.get(k)}
    if other.get("init_lora_weights") in _STARTS:
        del other["init_lora_weights"]
    if config.get("peft_type") != "LORA" or other:
        raise CheckpointError(
            f"expected a LoRA adapter, with or without DoRA and rsLoRA, got one of type "
            f"{config.get('peft_type')} with {other!s:.200}. Load it with peft, and adopt "
            "`from_hf(peft_model.merge_and_unload())`."
        )


def require_projections(hf_model: Any, family: Family) -> None:
    """Refuse, as a `CheckpointError`, adapters in the decoder that its hooks would not compute."""
    layers, head = adapted(find_decoder(hf_model)), hf_model.get_output_embeddings()
    wrong = [] if head is None else [f"lm_head{name}" for name in adapted(head)]
    for name, layer in layers.items():
        inside = name.startswith("layers.") and on_linear(layer) and family.remote is None
        if not inside and not name.startswith(family.inner_towers):
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"expected adapters of projections in the blocks of a class of transformers, got "
            f"{len(wrong)} elsewhere in {family.name}, such as {wrong[0]!r}. {_MERGE}"
        )


def without_wrapper(hf_model: nn.Module) -> nn.Module:
    """The model inside a `PeftModel`, with its adapters; any other as it is.

    Raises:
        CheckpointError: For adapters that the model inside does not compute, or with live dropout.
    """
    whole: Any = hf_model
    layers = adapted(hf_model)
    if not layers:
        return hf_model
    for config in whole.peft_config.values():
        require_computed(config.to_dict())
    base = whole.get_base_model() if hasattr(whole, "get_base_model") else whole
    dropouts = [m for one in layers.values() for m in one.modules() if isinstance(m, nn.Dropout)]
    if any(one.training and one.p for one in dropouts):
        raise CheckpointError(
            "expected adapters in evaluation, got some whose dropout is on, so that every pass has "
            "other numbers. Call `.eval()` on the model first."
        )
    return base


def facts_of(hf_model: nn.Module) -> dict[str, Any] | None:
    """What results say of the adapters that a model has; None for none."""
    layers = adapted(hf_model)
    if not layers:
        return None
    tensors = {
        f"{path}.{name}": tensor_hash(parameter.cpu())
        for path, layer in layers.items()
        for name, parameter in layer.named_parameters()
        if not name.startswith(("base_layer.", "original_module."))
    }
    names = sorted({name for one in layers.values() for name in one.active_adapters})
    return {"name": "+".join(names), "merged": False, "hash": digest(tensors)}
