"""Which tensors do a checkpoint's files hold, and do they fit the decoder and its device?

Headers of safetensors files have names, shapes and types: what is wrong is found before a weight is
read. The decoder alone is read straight to its device, without the towers.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from hooked_omni.decoder.memory import free_bytes, in_words
from hooked_omni.errors import CheckpointError, FileError
from hooked_omni.families import Family
from hooked_omni.families.family import Conversion, as_stored, unchanged
from hooked_omni.families.skeleton import HEAD, find_decoder
from hooked_omni.files import parse_object, read_text
from hooked_omni.hf.placement import place_of

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_PACKED = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}  # others take a byte
ROOM = "Use dtype='bfloat16', decoder_only=True, a larger device, or several, with a device_map."


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint: its file, and its shape and type from the file's header."""

    file: Path
    shape: tuple[int, ...]
    kind: str

    def n_bytes(self, dtype: torch.dtype | None) -> int:
        """Memory that it takes in `dtype`; None for its own."""
        own = (_BYTES | _PACKED).get(self.kind, 1)
        each = own if dtype is None else dtype.itemsize
        return math.prod(self.shape) * each


def stored_tensors(
    name: str | Path, source: dict[str, Any], what: str, allow_quantized: bool = False
) -> dict[str, StoredTensor]:
    """The tensors in a checkpoint's safetensors files, by name; none if it has no such file.

    `source` finds its files, as `file_source` gives it; `what` names the weights in errors.

    Raises:
        CheckpointError: For a missing, damaged or cut-off file, and for quantized weights that are
            not allowed.
    """
    index = _file(name, _INDEX, source)
    if index is not None:
        try:
            found_in = parse_object(read_text(index), str(index), weight_map=dict)["weight_map"]
            shards = sorted({str(shard) for shard in found_in.values()})
        except FileError as error:
            raise _not_whole(what, name, f"an index that is damaged ({error!r})") from error
    else:
        shards = [_SINGLE]
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        file = _file(name, shard, source)
        if file is None and index is not None:
            raise _not_whole(what, name, f"no file {shard!r}, one of {len(shards)} in its index")
        if file is not None:
            found |= read_header(file, what, name)
    wrong = {key: tensor.kind for key, tensor in found.items() if tensor.kind not in _BYTES}
    weights = {key: kind for key, kind in wrong.items() if key.endswith("weight")}
    if weights and not allow_quantized:
        key, kind = next(iter(weights.items()))
        raise CheckpointError(
            f"expected floating-point weights of {what} in {str(name)!r}, got {len(weights)} "
            f"quantized tensors, such as {key!r} of type {kind}. Exact numbers need the original "
            "checkpoint: load that, with dtype='bfloat16' to take less memory."
        )
    return found


def _file(name: str | Path, file: str, source: dict[str, Any]) -> Path | None:
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        path = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False, **source)
    except OSError as error:
        raise CheckpointError(
            f"expected {file!r} of {str(name)!r} on the hub or among the files kept from it, got "
            f"({str(error).splitlines()[0]}). Check the connection, or pass a folder."
        ) from error
    return None if path is None else Path(path)


def read_header(file: Path, what: str, name: str | Path) -> dict[str, StoredTensor]:
    """What one safetensors file holds; a `CheckpointError` with `what` and `name` if damaged."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > file.stat().st_size:
                raise ValueError("cut off inside its header")
            header = parse_object(stream.read(length).decode(), str(file))
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if file.stat().st_size != 8 + length + end:
            raise ValueError(f"{file.stat().st_size} bytes in place of {8 + length + end}")
        return {
            key: StoredTensor(file, tuple(entry["shape"]), entry["dtype"])
            for key, entry in header.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_whole(what, name, f"{file.name} damaged ({error})") from error


def _not_whole(what: str, name: str | Path, came: str) -> CheckpointError:
    return CheckpointError(
        f"expected whole weights for {what} in {str(name)!r}, got {came}. Download it again, or "
        "check that config and weights match."
    )


def require_room(n_bytes: int, device: torch.device, what: str) -> None:
    """Print how much memory is needed and free; `CheckpointError`, with both, for too little."""
    free = free_bytes(device)
    room = "an unknown amount" if free is None else in_words(free)
    print(f"{what}: {in_words(n_bytes)} of weights; {device} has {room} free", file=sys.stderr)
    if free is not None and n_bytes > free:
        raise CheckpointError(
            f"expected room for {in_words(n_bytes)} of weights of {what} on {device}, got "
            f"{in_words(free)} free. {ROOM}"
        )


def decoder_tensors(
    family: Family,
    model: Any,
    held: Mapping[str, StoredTensor],
    places: Mapping[str, torch.device],
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    """Every tensor of the empty `model`'s decoder and head, read to its place in `dtype`.

    Raises:
        CheckpointError: For tensors that are missing, left over or of another shape, before any is
            read; and for more than fits.
    """
    home, head = _home(family, model, held)
    config, sources = model.config.get_text_config(), dict[str, Conversion]()
    for name, _ in find_decoder(model).named_parameters():
        disk = family.on_disk
        conversion = disk.stored if home + name in held else disk.conversion
        found = conversion(name, config)
        sources[name] = Conversion(tuple(home + key for key in found.keys), found.make)
    if head in held:
        sources[HEAD] = as_stored(head)
    elif not _ties(model):
        raise CheckpointError(
            f"expected an unembedding {head!r} beside the decoder of {family.name}, got none, and "
            "a config that does not tie it to the embedding. Hugging Face would fill it with "
            "random numbers: check the download and `tie_word_embeddings`."
        )
    _require_same(family, model, held, home, sources)
    where, n_bytes = _where(model, sources, places), Counter[torch.device]()
    for name, conversion in sources.items():
        n_bytes[where[name]] += sum(held[key].n_bytes(dtype) for key in conversion.keys)
    for place, needed in n_bytes.items():
        require_room(needed, place, f"decoder of {model.name_or_path}")
    tensors = _read(sources, held, where, dtype)
    embeddings = tensors["embed_tokens.weight"]
    if HEAD not in tensors or (_ties(model) and torch.equal(tensors[HEAD], embeddings)):
        tensors[HEAD] = embeddings
    return tensors


def _where(
    model: Any, names: Iterable[str], places: Mapping[str, torch.device]
) -> dict[str, torch.device]:
    """The device of each of the decoder's tensors, and of the head's."""
    modules = {id(module): name for name, module in model.named_modules()}
    decoder, head = modules[id(find_decoder(model))], modules[id(model.get_output_embeddings())]
    whole = {name: head if name == HEAD else f"{decoder}.{name}" for name in names}
    found = {name: place_of(places, path) for name, path in whole.items()}
    return {name: place for name, place in found.items() if place is not None}


def _home(family: Family, model: Any, held: Mapping[str, StoredTensor]) -> tuple[str, str]:
    disk, config = family.on_disk, model.config.get_text_config()
    key = disk.conversion("embed_tokens.weight", config).keys[0]
    for prefix, head in disk.homes:
        if prefix + key in held:
            return prefix, head
    raise CheckpointError(
        f"expected the decoder of {family.name} under one of "
        f"{sorted({prefix for prefix, _ in disk.homes})}, got tensors such as {sorted(held)[:3]}. "
        "The config belongs to another family's weights."
    )


def _require_same(
    family: Family,
    model: Any,
    held: Mapping[str, StoredTensor],
    home: str,
    sources: dict[str, Conversion],
) -> None:
    used = {key for conversion in sources.values() for key in conversion.keys}
    missing = sorted(used - held.keys())
    layers = home + "layers."
    extra = sorted(k for k in held.keys() - used if k.startswith(layers) and "rotary" not in k)
    parameters = dict(find_decoder(model).named_parameters())
    parameters[HEAD] = model.get_output_embeddings().weight
    same = {name: c.keys[0] for name, c in sources.items() if c.make is unchanged}
    shapes = [
        f"{key} {list(held[key].shape)} in place of {list(parameters[name].shape)}"
        for name, key in same.items()
        if key in held and held[key].shape != parameters[name].shape
    ]
    wrong = {"missing": missing, "left over": extra, "of another shape": shapes}
    if any(wrong.values()):
        came = ", ".join(f"{len(keys)} {kind} {keys[:3]}" for kind, keys in wrong.items() if keys)
        raise CheckpointError(
            f"expected exactly the decoder of {family.name} in {model.name_or_path!r}, got tensors "
            f"{came}. Check the download, and that the config belongs to these weights."
        )


def _ties(model: Any) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def _read(
    sources: dict[str, Conversion],
    held: Mapping[str, StoredTensor],
    where: Mapping[str, torch.device],
    dtype: torch.dtype | None,
) -> dict[str, Tensor]:
    opened: dict[tuple[Path, torch.device], Any] = {}

    def part(key: str, device: torch.device) -> Tensor:
        file = held[key].file
        if (file, device) not in opened:
            # Few devices can be read to straight from a file.
            reads = str(device) if device.type == "cuda" else "cpu"
            opened[file, device] = safe_open(file, framework="pt", device=reads)
        return opened[file, device].get_tensor(key).to(device, dtype)

    try:
        return {
            name: conversion.make([part(key, where[name]) for key in conversion.keys])
            for name, conversion in sources.items()
        }
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"expected whole weights, got files that cannot be read ({error}). Download it again."
        ) from error
