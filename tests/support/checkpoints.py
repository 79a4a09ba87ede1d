"""Checkpoints of tiny models on disk, whole or spoiled."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_omni.organisms import SHIPPED
from tests.support.models import CLIP_OF, save_checkpoint, uneven_gains

INDEX = "model.safetensors.index.json"


def sharded(base: Path) -> dict[str, Path]:
    """What `save_pretrained` writes for each family, in files of at most 300 kB."""
    made = {}
    for name in CLIP_OF:
        hf, processor = SHIPPED[f"random-{name}"]()
        uneven_gains(hf)
        made[name] = save_checkpoint(hf, processor, base / name, max_shard_size="300kB")
    return made


def copied(folder: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def in_one_file(folder: Path, to: Path, prefix: str = "") -> Path:
    """The same checkpoint in one file, under names with another prefix."""
    copied(folder, to)
    tensors: dict[str, Tensor] = {}
    for file in [*to.glob("*.safetensors"), to / INDEX]:
        if file.suffix == ".safetensors":
            tensors |= load_file(file)
        file.unlink(missing_ok=True)
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(named, to / "model.safetensors", metadata={"format": "pt"})
    return to


def edited(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A checkpoint in one file, with its tensors changed."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **changes: Any) -> Path:
    """A checkpoint with other values in its text config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("text_config", config).update(changes)
    path.write_text(json.dumps(config))
    return folder
