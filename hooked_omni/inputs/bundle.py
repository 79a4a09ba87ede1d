"""How is an embedded prompt kept in a file?

One safetensors file: the tensors under their names, spans as `span.NAME`, the start times of a
span's positions as `seconds.NAME`, and the facts as JSON in the header.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hooked_omni.errors import BundleError
from hooked_omni.files import write_whole

_FORMAT = "hooked_omni.EmbeddedPrompt"
_VERSION = "3"


def write_bundle(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write a file whole or not at all."""
    kept = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT, "version": _VERSION, "facts": json.dumps(facts)}
    return write_whole(path, save(kept, metadata=metadata))


def read_bundle(path: Path, device: torch.device | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of one prompt; `BundleError` for a damaged, foreign or older file."""
    if not path.is_file():
        raise BundleError(
            f"expected a saved EmbeddedPrompt, got no file at {path}. Check the path."
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"expected a whole safetensors file, got {path} ({error}). Embed the prompt again."
        ) from error
    facts = _read_facts(path, metadata)
    if missing := {"embeds", "position_ids", "tokens"} - tensors.keys():
        raise BundleError(f"expected {sorted(missing)} in {path}, got none. Embed it again.")
    _require_one_prompt(path, tensors)
    return tensors, facts


def _read_facts(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    kind, version = metadata.get("format"), metadata.get("version")
    if kind != _FORMAT or version != _VERSION:
        old = kind == _FORMAT and str(version).isdecimal() and int(str(version)) < int(_VERSION)
        raise BundleError(
            f"expected {_FORMAT} version {_VERSION}, got {kind!r} version {version!r} in {path}"
            f"{', which an older hooked_omni wrote' if old else ''}. Embed the prompt again."
        )
    try:
        facts = json.loads(metadata["facts"])
        if not isinstance(facts, dict):
            raise ValueError(f"{facts!r}, which is no object")
    except (KeyError, ValueError) as error:
        raise BundleError(
            f"expected facts as JSON in {path}, got {error!r}. Embed it again."
        ) from error
    return facts


def _require_one_prompt(path: Path, tensors: dict[str, Tensor]) -> None:
    embeds, n_pos = tensors["embeds"].shape, tensors["tokens"].shape[-1]
    expected = {"tokens": (1, n_pos), "mask": (1, n_pos), "position_ids": (3, 1, n_pos)}
    fits = {
        name: tensors[name].shape == shape for name, shape in expected.items() if name in tensors
    }
    fits["embeds"] = embeds[:-1] == (1, n_pos)
    for name, tensor in tensors.items():
        kind, _, span = name.partition(".")
        if kind == "span":
            fits[name] = not len(tensor) or int(tensor.max()) < n_pos
        elif kind in ("seconds", "frames"):
            of = tensors.get(f"span.{span or 'video'}")
            fits[name] = of is not None and of.shape == tensor.shape
        elif kind == "deepstack":
            fits[name] = tensor.shape[1:] == embeds
    if wrong := sorted(name for name, whole in fits.items() if not whole):
        raise BundleError(
            f"expected parts of one prompt of {n_pos} positions in {path}, got {wrong} of another "
            "size. Embed the prompt again."
        )
