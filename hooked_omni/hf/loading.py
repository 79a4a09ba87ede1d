"""How is a model found, checked and loaded, before anything is hooked?

Its files are checked, whole and small enough for the device, before they are read. Code that comes
with a checkpoint runs only if the caller allows it.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from hooked_omni.decoder.memory import room_for
from hooked_omni.errors import CheckpointError, HookedOmniError, OutOfRoomError
from hooked_omni.families import Family, family_of
from hooked_omni.families.family import Remote
from hooked_omni.families.skeleton import empty
from hooked_omni.hf.adapters import (
    adapter_facts,
    require_one_device,
    require_whole_weights,
    with_adapter,
)
from hooked_omni.hf.checkpoint import ROOM, require_room, stored_tensors
from hooked_omni.hf.config_file import (
    file_source,
    float_dtype,
    is_quantized_by,
    model_class,
    read_config,
)
from hooked_omni.hf.placement import (
    DeviceMap,
    bytes_by_place,
    dispatched,
    known_device,
    placement,
)
from hooked_omni.hf.quantized import require_loadable
from hooked_omni.hf.towers import Towers
from hooked_omni.names import DEVICE_MAPS
from hooked_omni.organisms import SHIPPED

_VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
_DTYPE = "dtype" if _VERSION >= (4, 56) else "torch_dtype"
_TWO_WAYS = (
    "Either read that code, and pass trust_remote_code=True (--trust-remote-code); or embed the "
    "prompts in an environment of its own with `python -m hooked_omni embed`, and load the decoder "
    "here with decoder_only=True."
)


def load_towers(
    name: str | Path,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    adapter: str | Path | None = None,
    device_map: DeviceMap | None = None,
    allow_quantized: bool = False,
) -> Towers:
    """The towers of a model; arguments and errors are those of `hooked_omni.load`."""
    chosen, device = float_dtype(dtype), known_device(device)
    require_one_device(adapter, device_map)
    own = None if adapter is None else adapter_facts(Path(adapter), name, revision)
    if str(name) in SHIPPED:
        hf, processor = _shipped(str(name), chosen, attn_implementation)
        hf = hf.to(device) if device_map is None else dispatched(hf, placement(hf, device_map))
        return _towers(hf, processor, adapter, own)
    source = file_source(name, revision)
    raw = read_config(name, source, allow_quantized)
    family, quantized = family_of(raw), is_quantized_by(raw)
    if quantized:
        require_loadable(raw, name)
    if family.remote is not None:
        _require_trust(family, name, trust_remote_code)
        if device_map is not None:
            raise CheckpointError(
                f"expected no device_map for {family.name}, whose own code places its towers, got "
                f"{device_map!r}. Pass `device`; or embed the prompts with `python -m hooked_omni "
                "embed`, and load the decoder with decoder_only=True, which takes a map."
            )
    elif family.on_disk.reference is not None:
        family.on_disk.reference(raw)  # refuses what is not computed, before weights are read
    if adapter is not None:
        require_whole_weights(family, quantized)
        found = model_class(family)
        config = found.config_class.from_pretrained(name, **source)
        with_adapter(empty(found, config, "eager"), family, Path(adapter))
    held = stored_tensors(name, source, family.hf_class or family.name, quantized)
    places: DeviceMap = {"": device}
    if device_map in DEVICE_MAPS and quantized:
        places = device_map  # transformers knows what each kind of weights takes
    elif device_map is not None:
        hf = without_weights(name, family, raw, source, attn_implementation, whole=True)
        places = placement(hf.to(chosen or getattr(hf.config, "dtype", None)), device_map)
        for place, n_bytes in bytes_by_place(hf, places).items():
            require_room(0 if quantized else n_bytes, place, str(name))
    elif held:
        kept = None if quantized else chosen
        require_room(sum(t.n_bytes(kept) for t in held.values()), device, str(name))
    options = {
        _DTYPE: "auto" if chosen is None else chosen,
        "attn_implementation": attn_implementation,
        **({"device_map": places} if importlib.util.find_spec("accelerate") else {}),
        **source,
    }
    if family.remote is None:
        processor = _processor(name, source)  # first: a package may be missing
        hf = _weights(family, name, options)
    else:
        _require_parts(family.remote, name, raw, [*held])
        hf, processor = _remote(family, name, options)
    hf = hf.to(device) if device_map is None and not quantized else hf
    if quantized and not hasattr(hf.config, "quantization_config"):
        hf.config.quantization_config = raw["quantization_config"]  # dequantized, and forgotten
    return _towers(hf.requires_grad_(False).eval(), processor, adapter, own)


def _shipped(name: str, dtype: torch.dtype | None, attention: str) -> tuple[Any, Any]:
    hf, processor = SHIPPED[name]()
    hf.name_or_path = name
    hf.set_attn_implementation(attention)
    if dtype is not None:  # as in loading, rotary frequencies stay in float32
        hf.config.dtype = dtype
        for tensor in hf.state_dict(keep_vars=True).values():
            tensor.data = tensor.data.to(dtype) if tensor.is_floating_point() else tensor.data
    return hf, processor


def _towers(hf: Any, processor: Any, adapter: str | Path | None, facts: Any) -> Towers:
    if adapter is not None:
        hf = with_adapter(hf, family_of(hf.config.to_dict()), Path(adapter))
    towers = Towers(hf, processor)
    towers.adapter = facts or towers.adapter
    return towers


def _processor(name: str | Path, source: dict[str, Any]) -> Any:
    try:
        return transformers.AutoProcessor.from_pretrained(name, **source)
    except Exception as error:  # processors, tokenizers and their parsers raise their own each
        raise CheckpointError(
            f"expected a processor beside the weights in {str(name)!r}, got none that loads "
            f"({error!r:.200}). Fetch its files or install its package, or use "
            "`HookedOmni.from_hf`."
        ) from error


def without_weights(
    name: str | Path,
    family: Family,
    raw: dict[str, Any],
    source: dict[str, Any],
    attention: str,
    whole: bool = False,
) -> Any:
    """A model on the meta device: one that a decoder alone fills, or on request with its towers.

    `CheckpointError` for a decoder that is not computed here, or a config that makes no model.
    """
    reference = None if whole else family.on_disk.reference
    try:
        if reference is not None:
            found, config = reference(raw)
        else:
            found = model_class(family)
            config = found.config_class.from_pretrained(name, **source)
        hf = empty(found, config, attention)
    except CheckpointError:
        raise
    except Exception as error:  # a config may hold anything
        raise CheckpointError(
            f"expected a config of {family.name} in {str(name)!r}, got one that does not make a "
            f"model ({error}). Download it again, or check that it belongs to these weights."
        ) from error
    hf.name_or_path = str(name)
    family.decoder_config(hf)
    return hf


def unloaded(
    name: str, dtype: str | None = None, decoder_only: bool = False, allow_quantized: bool = False
) -> Towers:
    """A model on the meta device, of which config and processor alone are read, no weight.

    Those that come with the package are loaded: they have a few megabytes. Errors as `load_towers`,
    and `CheckpointError` for towers of foreign code, which nothing but their own code can count.
    """
    if name in SHIPPED:
        return load_towers(name, dtype=dtype)
    source, chosen = file_source(name, None), float_dtype(dtype)
    raw = read_config(name, source, allow_quantized)
    family = family_of(raw)
    if family.remote is not None and not decoder_only:
        raise CheckpointError(
            f"expected towers of transformers, or prompts embedded elsewhere, got {family.name}: "
            f"its own code makes its positions. {_TWO_WAYS}"
        )
    hf = without_weights(name, family, raw, source, "sdpa", whole=not decoder_only)
    hf.to(chosen or hf.config.dtype or torch.float32)
    return Towers(hf, None if decoder_only else _processor(name, source))


def _weights(family: Family, name: str | Path, options: dict[str, Any]) -> Any:
    found = model_class(family)
    try:
        with room_for(f"the weights of {str(name)!r}", ROOM):
            hf, info = found.from_pretrained(
                name,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # listed below, with their names
                **options,
            )
    except OutOfRoomError:
        raise
    except Exception as error:  # configs, files and kernels raise their own each
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


def _require_trust(family: Family, name: str | Path, trust_remote_code: bool) -> None:
    if not trust_remote_code:
        raise CheckpointError(
            f"expected trust_remote_code=True for {str(name)!r}, got none: the towers of "
            f"{family.name} are code from outside transformers, and it would run here. {_TWO_WAYS}"
        )


def _require_parts(remote: Remote, name: str | Path, raw: dict[str, Any], held: list[str]) -> None:
    """Refuse, before weights are read, what a remote model's code would not run without.

    Towers without weights would be random numbers, which that code only warns of.
    """
    found = {package: importlib.util.find_spec(package) for package in remote.packages}
    found |= {command: shutil.which(command) for command in remote.commands}
    if lacking := [part for part in found if not found[part]]:
        raise CheckpointError(
            f"expected the packages {[*remote.packages]} and commands {[*remote.commands]} for "
            f"{str(name)!r}, got no {lacking}. {remote.needs} {_TWO_WAYS}"
        )
    empty = [part for part in remote.towers if not any(key.startswith(part) for key in held)]
    if held and empty:
        raise CheckpointError(
            f"expected the towers {[*remote.towers]} in {str(name)!r}, got no tensor of {empty}. "
            "Download the whole checkpoint."
        )
    for key in remote.elsewhere:
        tower = raw.get(key)
        if tower is None or not stored_tensors(tower, file_source(tower, None), f"its {key}"):
            raise CheckpointError(
                f"expected safetensors files of the tower that {str(name)!r} names as {key!r}, got "
                f"none for {tower!r}. Download it, and name its folder there."
            )


def _remote(family: Family, name: str | Path, options: dict[str, Any]) -> tuple[Any, Any]:
    assert family.remote is not None
    try:
        return family.remote.load(name, options)
    except HookedOmniError:
        raise
    except Exception as error:  # it is foreign code: anything may happen
        raise CheckpointError(
            f"expected the code of {family.name} to run, got {type(error).__name__} ({error}) with "
            f"transformers {transformers.__version__}. {family.remote.needs} {_TWO_WAYS}"
        ) from error
