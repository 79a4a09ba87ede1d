"""Where is each layer of a model that is larger than one device?

Accelerate's placement: a map from modules to devices, or the name of a way to make one. It is
checked before a weight is read. Layers are placed whole, and stay where they are.
"""

import difflib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hooked_omni.errors import CheckpointError, UnknownModelError
from hooked_omni.families.skeleton import find_decoder
from hooked_omni.names import DEVICE_MAPS

DeviceMap = str | Mapping[str, str | int | torch.device]


def known_device(name: str | int | torch.device) -> torch.device:
    """A device that is there, by name; `UnknownModelError` for any other."""
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except Exception as error:  # each kind of device has errors of its own
        raise UnknownModelError(
            f"expected a device of this machine, such as cpu, got {str(name)!r} ({error!r:.80})."
        ) from error


def placement(hf: Any, device_map: DeviceMap) -> dict[str, torch.device]:
    """The device of each module that a map names, for a model without weights, in its dtype.

    Raises:
        CheckpointError: For a map that lacks a part or names an unknown one, splits a layer or tied
            embeddings, or leaves parts on a disk, or on the CPU beside other devices.
        UnknownModelError: For a device that is not there, and an unknown way to make a map.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise CheckpointError(
            f"expected accelerate for the device_map {device_map!r}, got no such package. "
            "pip install 'hooked-omni[quantized]'."
        )
    if isinstance(device_map, str):
        named = _inferred(hf, device_map)
    elif isinstance(device_map, Mapping):
        named = {str(part): place for part, place in device_map.items()}
    else:
        raise UnknownModelError(
            f"expected a device_map {DEVICE_MAPS} or {{module: device}}, got {device_map!r}. For "
            "one device, pass `device`."
        )
    _require_parts(hf, named)
    kinds = {part: str(place).partition(":")[0] for part, place in named.items()}
    alone = {*kinds.values()} == {"cpu"}
    away = [part for part, kind in kinds.items() if kind in ("disk", "meta", "cpu") and not alone]
    if away:
        raise CheckpointError(
            f"expected devices on which all weights stay, got {len(away)} parts offloaded to the "
            f"CPU or a disk, such as {away[0]!r}: these move in at each call of Hugging Face's "
            "model alone. Use more or larger devices, dtype='bfloat16', or decoder_only=True."
        )
    places = {part: torch.empty(0, device=known_device(at)).device for part, at in named.items()}
    _require_whole(hf, places)
    return dict(_apart(hf, "", places))


def place_of(places: Mapping[str, Any], name: str) -> Any:
    """Where a map has a module or tensor, by the nearest module that it names; None for nowhere."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places.get(name)


def bytes_by_place(hf: nn.Module, places: Mapping[str, torch.device]) -> dict[torch.device, int]:
    """Bytes of parameters on each device."""
    total = Counter[torch.device]()
    for name, parameter in hf.named_parameters():
        at = place_of(places, name)
        assert at is not None
        total[at] += parameter.numel() * parameter.element_size()
    return dict(total)


def dispatched(hf: Any, places: Mapping[str, torch.device]) -> Any:
    """The model with what accelerate needs to run it over several devices."""
    import accelerate  # here, since it takes long

    modules = dict(hf.named_modules())
    there: Any = {part: place for part, place in places.items() if part in modules}
    skipped = getattr(hf, "_skip_keys_device_placement", None)
    return accelerate.dispatch_model(hf, there, skip_keys=skipped)


def _apart(
    module: nn.Module, name: str, places: Mapping[str, torch.device]
) -> Iterator[tuple[str, torch.device]]:
    """The same map without a part inside another, which accelerate would place twice."""
    within = f"{name}." if name else ""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    own = {place_of(places, within + tensor) for tensor, _ in tensors}
    if len(own) == 1 and None not in own:
        yield name, own.pop()
    elif own:
        for tensor in {**module._parameters, **module._buffers}:
            if (place := place_of(places, within + tensor)) is not None:
                yield within + tensor, place
        for child, inside in module.named_children():
            yield from _apart(inside, within + child, places)


def _inferred(hf: Any, way: str) -> dict[str, Any]:
    if way not in DEVICE_MAPS:
        raise UnknownModelError(
            f"expected a device_map {DEVICE_MAPS} or {{module: device}}, got {way!r}. For one "
            f"device, pass device={way!r}."
        )
    from accelerate.utils import get_balanced_memory, get_max_memory, infer_auto_device_map

    whole = _kept_whole(hf)
    low = way == "balanced_low_0"
    room = (
        get_max_memory()
        if way == "sequential"
        else get_balanced_memory(hf, no_split_module_classes=whole, low_zero=low)
    )
    return infer_auto_device_map(hf, max_memory=room, no_split_module_classes=whole)


def _kept_whole(hf: nn.Module) -> list[str]:
    """Kinds of modules that run on one device."""
    named = {kind for module in hf.modules() for kind in getattr(module, "_no_split_modules", ())}
    return sorted(named | {type(find_decoder(hf).get_submodule("layers.0")).__name__})


def _require_parts(hf: nn.Module, named: Mapping[str, Any]) -> None:
    """Refuse a map that names what is not there, or lacks what is."""
    parts = {"", *dict(hf.named_modules()), *hf.state_dict()}
    if unknown := [part for part in named if part not in parts]:
        near = difflib.get_close_matches(unknown[0], sorted(parts), n=1, cutoff=0.0)
        raise CheckpointError(
            f"expected modules of {type(hf).__name__} in the device_map, got {unknown[:3]}. "
            f"Closest is {near}."
        )
    lacking = [name for name in hf.state_dict() if place_of(named, name) is None]
    if lacking:
        first = sorted({name.rpartition(".")[0] for name in lacking})
        raise CheckpointError(
            f"expected a device for every module, got a device_map without {len(first)} of them, "
            f"such as {first[:3]}. Name them, or a module that holds them; '' is the whole model."
        )


def _require_whole(hf: Any, places: Mapping[str, torch.device]) -> None:
    """Refuse layers on two devices, and an unembedding away from the embedding it is tied to."""
    whole, names = _kept_whole(hf), {id(module): name for name, module in hf.named_modules()}
    for layer in hf.modules():
        prefix = names[id(layer)]
        own = {str(place_of(places, f"{prefix}.{n}")) for n, _ in layer.named_parameters()}
        if len(own) > 1 and type(layer).__name__ in whole:
            raise CheckpointError(
                f"expected every layer on one device, got {prefix!r} on {sorted(own)}. Name the "
                "layer alone, not its parts."
            )
    ends = (hf.get_input_embeddings(), hf.get_output_embeddings())
    at = {str(place_of(places, names[id(end)])) for end in ends}
    if len(at) > 1 and getattr(hf.config, "tie_word_embeddings", False):
        raise CheckpointError(
            f"expected tied embeddings on one device, got {sorted(at)}. Put "
            f"{names[id(ends[1])]!r} where {names[id(ends[0])]!r} is."
        )


def require_in_place(tensors: Mapping[str, Any]) -> None:
    """Refuse weights that accelerate moves in at each call (`CheckpointError`)."""
    away = [name for name, p in tensors.items() if p.is_meta]
    if away and len(away) < len(tensors):
        raise CheckpointError(
            f"expected weights that stay on their devices, got {len(away)} that accelerate "
            f"moves in at each call, such as {away[0]!r}. Load it without offloading."
        )
