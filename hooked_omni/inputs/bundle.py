"""How is an embedded prompt kept in a file?

One safetensors file: the tensors under their names, spans as `span.NAME`, the start times of a
span's positions as `seconds.NAME`, their cells as `grid.NAME`, and in the header the facts as JSON
and a checksum of all.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hooked_omni.errors import BundleError, FileError
from hooked_omni.files import digest, parse_json, to_json, write_whole
from hooked_omni.fingerprint import tensor_hash

_FORMAT = "hooked_omni.EmbeddedPrompt"
_VERSION = "5"


def write_bundle(
    path: Path, tensors: dict[str, Tensor], facts: dict[str, Any], kind: str = _FORMAT
) -> Path:
    """Write a file whole or not at all; `FileError` if that, or the facts, cannot be written."""
    kept = {  # spans may share memory, which a file does not
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = {"format": kind, "version": _VERSION, "facts": to_json(facts, f"{path}'s facts")}
    metadata["checksum"] = _checksum(kept, metadata["facts"])
    return write_whole(path, save(kept, metadata=metadata))


def read_bundle(path: Path, kind: str = _FORMAT) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts as they were written; `BundleError` for any other file, or kind of one."""
    try:
        if not path.is_file():
            raise BundleError(
                f"expected a saved {kind.partition('.')[2]}, got no file at {path}. Check the path."
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _require_version(path, metadata, kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"expected a whole safetensors file, got {path} ({error}). Embed the prompt again."
        ) from error
    if _checksum(tensors, metadata.get("facts", "")) != metadata.get("checksum"):
        raise BundleError(
            f"expected the content that was written to {path}, with its checksum, got another. "
            "The file is damaged, or was changed: embed the prompt again."
        )
    try:
        return tensors, parse_json(metadata.get("facts", ""), f"the facts of {path}")
    except FileError as error:
        raise BundleError(f"{error} Or embed the prompt again.") from error


def kept_checksum(path: Path) -> str | None:
    """The checksum in a file's header, which `read_bundle` compares; None without such a file."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError):
        return None


def _require_version(path: Path, metadata: dict[str, str], wanted: str) -> None:
    kind, version = metadata.get("format"), metadata.get("version")
    if kind != wanted or version != _VERSION:
        old = kind == wanted and str(version).isdecimal() and int(str(version)) < int(_VERSION)
        raise BundleError(
            f"expected {wanted} version {_VERSION}, got {kind!r} version {version!r} in {path}"
            f"{', which an older hooked_omni wrote' if old else ''}. Embed the prompt again, or "
            "fit the vectors again."
        )


def _checksum(tensors: dict[str, Tensor], facts: str) -> str:
    """Of every name, dtype, shape and number, and of the facts."""
    return digest(facts, [(name, tensor_hash(one)) for name, one in sorted(tensors.items())])
