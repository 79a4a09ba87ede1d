"""How does a LoRA fine-tune get on its base, and stay beside the weights?

By peft, first on a model without weights: what does not fit is refused before weights are read.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from hooked_omni.decoder.adapters import adapted
from hooked_omni.errors import CheckpointError
from hooked_omni.families import Family
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.files import digest, file_hash, parse_object, read_text
from hooked_omni.hf.checkpoint import read_header
from hooked_omni.hf.spelling import ADAPTER as _CONFIG

_TENSORS = "adapter_model.safetensors"
_STARTS = (True, False, "gaussian", "eva", "orthogonal")  # these leave the base as it is
_MERGE = "Merge it with peft, and adopt `from_hf(peft_model.merge_and_unload())`."


def adapter_facts(folder: Path, base: str | Path, revision: str | None) -> dict[str, Any]:
    """Name and hash of the adapter in a folder, which peft's `save_pretrained` wrote.

    Raises:
        FileError: Without a readable `adapter_config.json`.
        CheckpointError: Without peft, for damaged tensors, and for another base than this one.
    """
    if find_spec("peft") is None:
        raise CheckpointError(
            "expected the package peft for an adapter, got none. Run: pip install "
            "'hooked-omni[adapters]'."
        )
    config = parse_object(read_text(folder / _CONFIG), str(folder / _CONFIG))
    theirs, of = config.get("base_model_name_or_path"), config.get("revision")
    other = theirs and Path(str(theirs)).name != Path(base).resolve().name
    if other or of not in (None, "main", revision):
        raise CheckpointError(
            f"expected an adapter of {str(base)!r}, revision {revision!r}, in {str(folder)!r}, got "
            f"one of {theirs!r}, revision {of!r}. Load that; if it is the same, write so in its "
            f"{_CONFIG}."
        )
    read_header(folder / _TENSORS, "an adapter", folder)
    hashes = [file_hash(folder / name) for name in (_CONFIG, _TENSORS)]
    return {"name": folder.resolve().name, "hash": digest(hashes)}


def require_one_device(adapter: object, device_map: object) -> None:
    """Refuse, as a `CheckpointError`, an adapter with weights in several places."""
    if adapter is not None and device_map is not None:
        raise CheckpointError(
            f"expected an adapter on weights of one device, got {str(adapter)!r} with a "
            f"device_map. {_MERGE}"
        )


def require_whole_weights(family: Family, quantized: bool) -> None:
    """Refuse, as a `CheckpointError`, an adapter on quantized weights or on foreign code."""
    if quantized or family.remote is not None:
        raise CheckpointError(
            "expected an adapter on floating-point weights of a class of transformers, got "
            f"{'quantized ones' if quantized else family.name}. {_MERGE}"
        )


def with_adapter(hf_model: Any, family: Family, folder: Path) -> Any:
    """A model, with or without weights, with the adapter in a folder beside them.

    Raises:
        CheckpointError: For an adapter that does not fit, or is not computed here.
    """
    import peft  # an extra

    device = str(hf_model.get_input_embeddings().weight.device).replace("meta", "cpu")
    try:
        config: Any = peft.PeftConfig.from_pretrained(str(folder))
        unknown = parse_object(read_text(folder / _CONFIG), "").keys() - config.to_dict().keys()
        start, layers = config.to_dict().get("init_lora_weights", True), "layer_replication"
        if unknown or start not in _STARTS or getattr(config, layers, None):
            raise ValueError(f"unknown {unknown}, a base changed by {start!r} or {layers}")
        config.inference_mode = True
        model: Any = peft.PeftModel(hf_model, config, low_cpu_mem_usage=True)
        where: Any = dict(torch_device=device, low_cpu_mem_usage=True)
        result = model.load_adapter(str(folder), "default", **where)
        if lost := [*result.missing_keys, *result.unexpected_keys]:
            raise ValueError(f"{len(lost)} tensors missing or left over, such as {lost[0]!r}")
    except Exception as error:  # peft's own errors are of any class
        raise CheckpointError(
            f"expected an adapter of {type(hf_model).__name__} in {str(folder)!r}, got one that "
            f"does not fit ({error!s:.300}). Name the base that it was trained on."
        ) from error
    base = without_wrapper(model)
    require_computed(base, family)
    return base


def without_wrapper(hf_model: Any) -> Any:
    """The model inside a `PeftModel`, with its adapters; any other as it is.

    Raises:
        CheckpointError: For adapters that are not LoRA, or are in training.
    """
    kinds = {str(config.peft_type) for config in getattr(hf_model, "peft_config", {}).values()}
    if kinds - {"PeftType.LORA"}:
        raise CheckpointError(f"expected LoRA adapters, got {sorted(kinds)}. {_MERGE}")
    base = hf_model.get_base_model() if hasattr(hf_model, "get_base_model") else hf_model
    if any(one.training for one in adapted(base).values()):
        raise CheckpointError(
            "expected adapters in evaluation, got some in training, whose dropout makes other "
            "numbers in every pass. Call `.eval()` on the model first."
        )
    return base


def require_computed(hf_model: Any, family: Family) -> None:
    """Refuse, as a `CheckpointError`, adapters in the decoder that its hooks would not compute."""
    layers, head = adapted(find_decoder(hf_model)), hf_model.get_output_embeddings()
    wrong = ["lm_head"] if head is not None and adapted(head) else []
    for name, layer in layers.items():
        linear = isinstance(getattr(layer, "base_layer", None), nn.Linear)
        variants = {type(one).__name__ for one in getattr(layer, "lora_variant", {}).values()}
        other = variants - {"DoraLinearVariant"} or any(getattr(layer, "lora_bias", {}).values())
        inside = name.startswith("layers.") and linear and not other
        if family.remote or not (inside or name.startswith(family.inner_towers)):
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            "expected plain LoRA or DoRA beside projections of a decoder of transformers, got "
            f"{len(wrong)} other adapters in {family.name}, such as at {wrong[0]!r}. {_MERGE}"
        )


def names_of(hf_model: nn.Module) -> str:
    """Names of the adapters that a model has; empty for none."""
    names = {name for one in adapted(hf_model).values() for name in one.active_adapters}
    return "+".join(sorted(names))
